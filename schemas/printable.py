"""Text from outside -> one line that every terminal, log and notebook shows as it is.

Keys, run ids, file names and answers of brokers and registries may contain escape sequences, line
breaks and marks that reverse the writing direction. Knows no terminal and no markup.
"""

from __future__ import annotations

_ASCII_CONTROLS = bytes((*range(32), 127))


def is_printable(text: str) -> bool:
    """Whether all characters are printable: `str.isprintable`, but several times faster."""
    if text.isascii():
        return len(text.encode().translate(None, _ASCII_CONTROLS)) == len(text)
    return text.isprintable()


def printable(text: str) -> str:
    r"""Escape every character that is not printable.

    These are control characters (C0, DEL and C1), line breaks of every kind, bidirectional and
    other format characters, lone surrogates, spaces other than the plain one, and unassigned code
    points. They are escaped as in Python's literals: `\x1b`, `\n`, `\u202e`. A printable text is
    returned as it is, so escaping twice changes nothing.
    """
    if is_printable(text):
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
