"""Text is printable, in one line, and says which characters it held."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.schemas.printable import is_printable, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, 日本 é ☃ 🎓", "plain text, 日本 é ☃ 🎓"),
        ("", ""),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\r\nc\x85d\u2028e", "a\\nb\\r\\nc\\x85d\\u2028e"),
        ("\x9b31m\x7f\0", "\\x9b31m\\x7f\\x00"),
        ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"),
        ("\ud800\udcff", "\\ud800\\udcff"),
        ("a\u00a0b\u3000c\u200b", "a\\xa0b\\u3000c\\u200b"),
        ("\U000e0041\U0010ffff", "\\U000e0041\\U0010ffff"),
        ("C:\\new [bold]", "C:\\new [bold]"),
    ],
)
def test_what_a_terminal_would_act_on_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(
    st.text(st.characters())
    | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp", "Co"]))
)
def test_any_text_becomes_one_line_and_stays_so(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable() and len(shown.splitlines()) <= 1
    assert printable(shown) == shown
    assert is_printable(text) == text.isprintable()


@pytest.mark.parametrize("code", range(256))
def test_ascii_is_judged_as_python_does(code: int) -> None:
    assert is_printable(f"a{chr(code)}b") == chr(code).isprintable()
