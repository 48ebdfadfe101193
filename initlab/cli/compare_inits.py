"""The command that compares several initialisations of one model."""

import sys
from pathlib import Path
from typing import Any

import click

from initlab.cli.models import check_picture, model_options, subject_of
from initlab.cli.options import OUT, echo


@click.command("compare-inits")
@click.argument("model")
@model_options
@click.option("--schemes", metavar="A,B,…", help="Names, or your functions.  [default: as_is and four common ones]")
@click.option("--seeds", type=int, default=5, help="Draws of each scheme, seeds 0, 1, …")
@click.option("--loss", metavar="pkg.module:callable", help="(output, labels) to losses (N,) or their mean.")
@click.option("--lr", type=float, help="Learning rate, for a forecast of the training.")
@click.option("--optimizer", default="sgd", help="With --lr: sgd, adam, adamw, …")
@click.option("--weight-decay", type=float, default=0.0, help="With --lr.")
@click.option("--out", "figure", type=OUT, metavar="FIGURE", help="Write the figure (png, svg or pdf).")
def compare_inits(model: str, schemes: str | None, seeds: int, figure: Path | None, **options: Any) -> None:
    """Compare initialisations of MODEL: which is best, and why.

    \b
    initlab compare-inits plain --set depth=30 --schemes he,xavier,orthogonal --out inits.png
    initlab compare-inits resnet18 --input 3x64x64 --schemes as_is,torch_default,he --seeds 2
    initlab compare-inits mypkg.mymodel:build --allow-code --input 3x32x32 --schemes he,mypkg.inits:mine
    initlab compare-inits mypkg.rl:build --allow-code --batch mypkg.rl:batch --loss mypkg.rl:loss

    A scheme is as_is (MODEL as it is built), a name that initlab.init_ takes (he, xavier, lecun, orthogonal, lsuv, …),
    or pkg.module:callable: either (normals, layer) -> weight, or a function of the model that sets it in place.

    The table has a row per scheme: the verdict of most seeds and how many, what signals (forward) and gradients
    (backward) change by per layer (1 is ideal, 0.5 leaves a billionth after 30 layers), how much of what was measured
    is inside the 95 % band of theory, and what it set to what. MODEL and its batch are as in initlab inspect.

    Exit codes: 0 a scheme was judged healthy with every seed; 1 none was, or one failed on MODEL; 2 bad usage.
    """
    from initlab.errors import UserError
    from initlab.inspection.compare_inits import DEFAULT, compare_inits as compare
    from initlab.inspection.inputs import users_code
    from initlab.report.inspection_report import comparison_json
    from initlab.user_code import is_code

    check_picture("--out", figure)
    names = [name.strip() for name in schemes.split(",")] if schemes is not None else DEFAULT
    allow = options["allow_code"]
    given = [(name, users_code("--schemes", name, allow) if is_code(name) else name) for name in names]
    subject = subject_of(model, options)
    rates = {name: options[name] for name in ("lr", "weight_decay", "optimizer")}
    loss = users_code("--loss", options["loss"], allow) if options["loss"] else None
    try:
        comparison = compare(subject.module, subject.images, subject.labels, given, seeds, loss=loss, **rates)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{subject.name}: {error}") from error
    echo(comparison_json(subject.name, comparison) if options["as_json"] else comparison)
    if figure is not None:
        figure.parent.mkdir(parents=True, exist_ok=True)
        comparison.plot().savefig(figure)
    if not comparison.healthy or (comparison.table.error != "").any():
        sys.exit(1)
