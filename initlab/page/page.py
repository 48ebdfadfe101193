"""One file of HTML or Markdown from a template of `templates/`, and what such a file carries inside itself.

Whatever a template is given is text: names of a user's may hold `<script>`. What is HTML already says so (`Markup`).
"""

import base64
import gzip
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from initlab.version import __version__


def render(template: str, **content: Any) -> str:
    """A template of `templates/`, filled in."""
    return templates().get_template(template).render(version=__version__, **content)


@cache
def templates() -> Environment:
    """The templates; those of HTML escape what they are given."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"code": code, "cell": markdown_cell}
    return environment


def code(text: str) -> Markup:
    """What stands between backticks as code."""
    parts = escape(text).split("`")
    return Markup("").join(Markup(f"<code>{part}</code>") if i % 2 else part for i, part in enumerate(parts))


def markdown_cell(text: str) -> str:
    """A text that Markdown shows as it is, in a table too."""
    for sign in "\\`*_|<>[]#":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def data_uri(content: bytes, kind: str) -> str:
    """A file as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def packed(text: str) -> str:
    """A text as gzip in base64, which no parser of HTML takes for anything else; same text, same letters."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
