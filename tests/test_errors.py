"""Text of users' code, made fit for a terminal."""

import pytest

from initlab.errors import one_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain – text\nof two lines", "plain – text\nof two lines"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("tab\tand\rreturn", r"tab\tand\rreturn"),
        ("\x9b2J", r"\x9b2J"),
        ("\u202eright to left", r"\u202eright to left"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_an_error_is_one_short_line() -> None:
    assert one_line("two\nlines  and\tmore") == "two lines and more"
    assert one_line("x" * 10_000_000) == "x" * 199 + "…"
    assert one_line(ValueError("\x1b[2J")) == r"\x1b[2J"
    assert one_line("x" * 200) == "x" * 200
