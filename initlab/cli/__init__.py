"""The `initlab` command: each subcommand is a few lines over the public Python API.

Exit codes: 0 all done; 1 some trials failed, or the answer is no; 2 bad usage or study; 3 stopped on request,
resumable; 4 the output folder is held by another launch.
"""

from typing import Any

import click

from initlab.cli import bench, compare_inits, launch, models, results, studies
from initlab.cli.options import echo
from initlab.version import __version__


class OneLine(click.Group):
    """A group of commands whose users see a mistake of theirs as one line; anything else keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what a user can cause becomes one line on stderr and an exit code."""
        from initlab.engine.lease import Held
        from initlab.errors import UserError

        try:
            return super().invoke(ctx)
        except (UserError, Held) as error:
            echo(error, err=True)
            ctx.exit(4 if isinstance(error, Held) else 2)
        except KeyboardInterrupt:
            click.echo("stopped at once; the same command goes on from the last checkpoints", err=True)
            ctx.exit(3)


SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True}


@click.group(cls=OneLine, context_settings=SETTINGS)
@click.version_option(__version__, prog_name="initlab")
def main() -> None:
    """Will a deep net start to train, under which initialisation, and why?

    \b
    initlab plan sweeps/demo.yaml      what a study would run, and what it costs
    initlab run sweeps/demo.yaml       run it; again: only what has no result yet
    initlab plot results/demo          its figures, as png, svg and csv
    initlab inspect resnet18           what goes through a model, and whether it will start to train
    initlab compare-inits resnet18     which of several initialisations suits it
    initlab fix resnet18               code to paste, if its initialisation needs fixing
    """


for command in (
    *studies.COMMANDS,
    *results.COMMANDS,
    *models.COMMANDS,
    compare_inits.compare_inits,
    launch.launch,
    bench.bench,
):
    main.add_command(command)
