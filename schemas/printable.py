"""Text from outside -> text that any terminal, log or notebook shows as it is, in one line.

Keys, run ids, file names and answers of brokers and registries may contain escape sequences, line
breaks and marks that reverse the writing direction. This module knows no terminal and no markup.
"""

from __future__ import annotations

# Of ASCII.
_CONTROLS = bytes((*range(32), 127))


def is_printable(text: str) -> bool:
    """Whether every character of a text is shown as itself: `str.isprintable`, but several times as fast for ASCII."""
    if text.isascii():
        return len(text.encode().translate(None, _CONTROLS)) == len(text)
    return text.isprintable()


def printable(text: str) -> str:
    r"""The text with every character escaped that is not shown as itself.

    These are control characters (C0, DEL and C1), line breaks of every kind, bidirectional and other format characters, lone surrogates,
    spaces other than the plain one, and what Unicode has not assigned. They come out as in Python's literals: `\x1b`, `\n`, `\u202e`.
    A text that is printable already is returned as it is, so escaping twice changes nothing.
    """
    if is_printable(text):
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )
