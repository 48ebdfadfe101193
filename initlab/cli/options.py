"""Options that several commands share."""

from pathlib import Path

import click

OUT = click.Path(path_type=Path)

set_option = click.option(
    "--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a field, e.g. train.lr=1e-3."
)
device_option = click.option("--device", type=click.Choice(["cpu", "cuda"]), help="[default: cuda where there is one]")
data_dir_option = click.option(
    "--data-dir", type=OUT, envvar="INITLAB_DATA", help="Where data files lie.  [env: INITLAB_DATA]"
)
