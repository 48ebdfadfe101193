"""Options that several subcommands take."""

from pathlib import Path

import click

OUT = click.Path(path_type=Path)

set_option = click.option(
    "--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a field, e.g. train.lr=1e-3."
)
out_option = click.option("--out", type=OUT, help="Output folder.  [default: results/NAME]")
