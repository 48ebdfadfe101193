"""What several commands share: their options, and how lines are printed."""

from collections.abc import Iterable
from pathlib import Path

import click

from initlab.errors import printable

OUT = click.Path(path_type=Path)

set_option = click.option(
    "--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a field, e.g. train.lr=1e-3."
)
device_option = click.option("--device", type=click.Choice(["cpu", "cuda"]), help="[default: cuda where there is one]")
data_dir_option = click.option(
    "--data-dir", type=OUT, envvar="INITLAB_DATA", help="Where data files lie.  [env: INITLAB_DATA]"
)


def number_or_text(_context: click.Context, _option: click.Parameter, value: str | None) -> float | str | None:
    """The value as a number where it is one; whether it is allowed is for the study to say."""
    try:
        return None if value is None else float(value)
    except ValueError:
        return value


def echo_lines(lines: Iterable[object], err: bool = False) -> None:
    """Print each line as soon as it comes, on stdout or stderr."""
    for line in lines:
        echo(line, err)


def echo(text: object, err: bool = False) -> None:
    """Print a text, which may hold names and messages of a user's code, on stdout or stderr."""
    click.echo(printable(str(text)), err=err)
