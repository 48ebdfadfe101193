"""The base of errors that a user can cause: one line each (where, what is wrong, what is allowed, the fix).

And what makes any text fit to be shown: exceptions and names of a user's code may hold anything.
"""


class UserError(ValueError):
    """Something the user can fix; the command line prints it and exits with 2."""


def printable(text: str) -> str:
    """The text with characters that a terminal would obey written out, as `\\x1b`; lines stay lines.

    `printable("a\\x1b[2Jb")` is `a\\x1b[2Jb` in ten characters.
    """
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def one_line(error: object, most: int = 200) -> str:
    """What an error says, in one printable line of at most so many characters."""
    # A long text is cut first: to take apart ten megabytes takes a second.
    text = printable(" ".join(str(error)[: 10 * most].split()))
    return text if len(text) <= most else text[: most - 1] + "…"
