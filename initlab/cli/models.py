"""Commands on one net, without a study: nets, inspect, lint, fix, and evaluate for trained ones."""

import copy
import sys
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from initlab.cli.options import OUT, data_dir_option, device_option, echo, echo_lines, set_option

if TYPE_CHECKING:
    from initlab.inspection.subject import Subject


@click.command()
@click.argument("name", required=False)
@click.option("--input", "shape", metavar="CxHxW", help="Shape of an image, its side, or a sequence's length.")
@click.option("--classes", type=int, help="[default: the net's: 1000 of the paper's]")
@set_option
def nets(name: str | None, shape: str | None, classes: int | None, overrides: Sequence[str]) -> None:
    """List the nets of the catalog, or the layers of NAME."""
    from initlab.report.layer_tables import catalog_lines, net_lines

    echo_lines(catalog_lines(shape, classes, overrides) if name is None else net_lines(name, shape, classes, overrides))


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that describe MODEL and its batch."""
    options = (
        click.option(
            "--input",
            "shape",
            metavar="INPUT",
            help="CxHxW, an image's SIDE, another shape (100, 3x224), tokens:LENGTH, or several as JSON.  "
            "[default: what the net is made for]",
        ),
        click.option(
            "--vocab", type=click.IntRange(1), help="Number of different tokens.  [default: the largest embedding's]"
        ),
        click.option(
            "--batch", metavar="pkg.module:callable", help="Your function that gives the batch, or (batch, labels)."
        ),
        click.option("--batch-size", type=int, default=8),
        click.option("--seed", type=int, default=0, help="Of the random weights, images and labels."),
        click.option("--init", "scheme", metavar="SCHEME", help="Initialise MODEL first: a scheme, or your function."),
        click.option("--data", metavar="NAME", help="Images of a data set instead of random numbers, e.g. digits."),
        data_dir_option,
        click.option(
            "--set", "texts", multiple=True, metavar="KEY=VALUE", help="An argument of the net, e.g. depth=22."
        ),
        click.option("--allow-code", is_flag=True, help="Import pkg.module:callable."),
        click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text."),
    )
    return reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


def subject_of(model: str, options: dict[str, Any], *, double: bool = False, also: Sequence[str] = ()) -> "Subject":
    """The model and batch that a command line describes, initialised where it says how."""
    from initlab.inspection.builders import inputs_of
    from initlab.inspection.subject import initialised, parse_options, resolve_model

    subject = resolve_model(
        model,
        inputs=inputs_of(model, options["shape"]),
        options=parse_options(options["texts"]),
        double=double,
        also=also,
        **{key: options[key] for key in ("batch_size", "seed", "data", "data_dir", "allow_code", "vocab", "batch")},
    )
    scheme = options["scheme"]
    return initialised(subject, scheme, options["seed"], options["allow_code"]) if scheme else subject


def check_picture(option: str, path: Path | None) -> None:
    """Refuse a file name that no figure can be written to."""
    if path is not None and path.suffix not in (".png", ".svg", ".pdf"):
        raise click.UsageError(f"{option}: not a picture's name (got {path}); allowed: .png, .svg, .pdf")


@click.command()
@click.argument("model")
@model_options
@click.option("--weight-decay", type=float, help="The optimiser's, to compare with the gradient.")
@click.option("--optimizer", help="sgd, adam or adamw: say what the verdict means under it.")
@click.option("--loss", metavar="pkg.module:callable", help="(output, labels) to losses (N,) or their mean.")
@click.option(
    "--redraws",
    type=int,
    help="Where theory has no proven rule, take the band from so many draws; 0: from none.  [default: 8]",
)
@click.option("--fix", is_flag=True, help="Try the advice on a copy, and show the table before and after.")
@click.option("--against", metavar="B", help="Compare with a scheme, or another MODEL of the same layers.")
@click.option("--fail-on", metavar="WORDS", help="Exit with 1 on these verdicts, e.g. any or stalled,exploding.")
@click.option("--html", type=OUT, help="Write it as one HTML file: verdict, advice, figure, layers.")
@click.option("--figure", type=OUT, help="Write the figure (png, svg or pdf).")
def inspect(model: str, fail_on: str | None, html: Path | None, figure: Path | None, **options: Any) -> None:
    """Measure the signals of MODEL: will it start to train?

    \b
    MODEL is a net of the catalog (plain), a classification model of torchvision (resnet18),
    timm:NAME or hf:CONFIG (a config.json on disk or its folder; nothing is downloaded) where
    these packages are installed, or pkg.module:callable with --allow-code.

    \b
    initlab inspect resnet18 --input 3x64x64
    initlab inspect mypkg.lm:build --allow-code --input tokens:24 --vocab 600
    initlab inspect mypkg.lm:build --allow-code --input '{"ids": "tokens:24", "mask": "ones:24"}'
    initlab inspect mypkg.rl:build --allow-code --batch mypkg.rl:batch --loss mypkg.rl:loss
    initlab inspect hf:checkpoints/bert/config.json
    """
    from initlab.init.schemes import SCHEMES
    from initlab.inspection.examination import examine
    from initlab.inspection.inputs import users_code
    from initlab.inspection.subject import initialised
    from initlab.report.inspection_report import VERDICT_WORDS, check_words, examination_json, examination_text, fails

    words = check_words(fail_on, VERDICT_WORDS)
    check_picture("--figure", figure)
    against = options["against"]
    # Ratios are exact to 1e-9 only in float64.
    subject = subject_of(model, options, double=against is not None)
    other = None
    if against in SCHEMES:
        other = initialised(copy.deepcopy(subject), against, options["seed"], options["allow_code"]).module
    elif against is not None:
        other = subject_of(against, options, double=True, also=list(SCHEMES)).module
    loss = users_code("--loss", options["loss"], options["allow_code"]) if options["loss"] else None
    chosen = {key: options[key] for key in ("weight_decay", "optimizer", "fix", "seed", "redraws")}
    examination = examine(subject, against=other, loss=loss, **chosen)
    inspection = examination.inspection
    echo(examination_json(examination) if options["as_json"] else examination_text(examination))
    if html is not None:
        inspection.report(html, f"{subject.name}, inspected")
    if figure is not None:
        figure.parent.mkdir(parents=True, exist_ok=True)
        inspection.plot().savefig(figure)
    if fails(inspection.verdict, words):
        click.echo(f"--fail-on {fail_on}: the verdict is {inspection.verdict}", err=True)
        sys.exit(1)


@click.command()
@click.argument("model")
@model_options
@click.option("--fail-on", metavar="WORDS", help="Exit with 1 on these findings: any, fault, or names of rules.")
def lint(model: str, fail_on: str | None, **options: Any) -> None:
    """Find faults in the initialisation of MODEL.

    Defaults left in, wrong fans, gains that do not fit, each with the call that fixes it. MODEL is as in `initlab
    inspect`.
    """
    from initlab.inspection.lint.lint import lint as findings_of
    from initlab.report.inspection_report import LINT_WORDS, check_words, lint_json, lint_text

    words = check_words(fail_on, LINT_WORDS)
    subject = subject_of(model, options)
    findings = findings_of(subject.module, subject.images)
    echo(lint_json(subject.name, findings) if options["as_json"] else lint_text(findings))
    failing = [f for f in findings if {"any", f.rule, f.severity} & set(words)]
    if failing:
        click.echo(f"--fail-on {fail_on}: {', '.join(dict.fromkeys(f.rule for f in failing))}", err=True)
        sys.exit(1)


@click.command()
@click.argument("model")
@model_options
@click.option("--weight-decay", type=float, help="The optimiser's, to compare with the gradient.")
@click.option("--torch", "plain", is_flag=True, help="Plain torch, a line per parameter, instead of calls of initlab.")
def fix(model: str, weight_decay: float | None, plain: bool, **options: Any) -> None:
    """Print code that fixes the initialisation of MODEL.

    Paste it behind the lines that build the model.

    \b
    initlab fix plain --init xavier --set depth=30                  a call of initlab, tried on a copy first
    initlab fix plain --init xavier --set depth=30 --torch          the same sizes as lines of plain torch
    initlab fix mypkg.mymodel:build --allow-code --input 3x32x32    yours; >> mymodel.py appends it

    What is wrong, what was tried and what it changes (per parameter, the standard deviation before and after) stand
    above it as comments, so that all of the output is Python. In it `model` is your model, and `batch`, where it is
    needed, one batch of your inputs. Your files and the model are left as they are.

    MODEL is as in `initlab inspect`. Exit codes: 0 there is code, or nothing to fix; 1 something is wrong, but nothing
    that was tried helped; 2 MODEL cannot be inspected.
    """
    from initlab.inspection.changes import fix_of
    from initlab.report.fix_code import fix_code, fix_json

    mended = fix_of(subject_of(model, options), weight_decay=weight_decay)
    echo(fix_json(mended) if options["as_json"] else fix_code(mended, plain=plain))
    if mended.needed and mended.cure is None:
        sys.exit(1)


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...")
@click.option(
    "--views",
    type=click.Choice(["center", "10", "dense"]),
    default="center",
    help="One centre crop; four corners and centre, mirrored too; or every window of the last map of the whole image.",
)
@click.option(
    "--scales",
    metavar="S,S,…",
    help="Shorter sides in pixels, averaged over.  [default: as validated for center, else 8/7 of the net's input]",
)
@click.option("--flips/--no-flips", default=None, help="Mirrored views too.  [default: as trained; center: no]")
@click.option(
    "--scores",
    type=click.Choice(["softmax", "logits"]),
    default="softmax",
    help="What is averaged over views, scales and checkpoints.",
)
@click.option("--batch-size", type=int, default=100, help="Images at once; fewer need less memory.")
@device_option
@data_dir_option
@click.option("--out", type=OUT, help="Folder for evaluation.csv and .json, per_class.csv, .png and .svg.")
@click.option("--allow-code", is_flag=True, help="Import pkg.module:callable names of the trials.")
def evaluate(checkpoints: Sequence[str], scales: str | None, out: Path | None, **options: Any) -> None:
    """Test trained nets on their validation set.

    Prints top-1 and top-5 errors, as fractions. CHECKPOINT is OUT/trials/ID, an attempt's folder in it, or a
    checkpoint.pt with its trial.json beside it. Several are an ensemble: their scores are averaged, and the table ends
    with what they reach together.

    \b
    initlab evaluate results/demo/trials/t0123456789ab                       as in training: one centre crop
    initlab evaluate results/demo/trials/t0123456789ab --views 10            the paper's tables 2 and 5
    initlab evaluate results/*/trials/t* --views dense --scales 256,384,480 --out results/test    tables 4 and 6

    Dense testing needs layers in a row, as in all nets of the catalog. At larger scales its windows differ from crops
    in one way: a crop has zero padding at its border where a window has its neighbours in the image.
    """
    from initlab.report.evaluation_table import evaluation_lines
    from initlab.testing.evaluate import evaluate as test
    from initlab.testing.procedure import parse_scales

    result = test(checkpoints, scales=parse_scales(scales) if scales is not None else None, out=out, **options)
    echo_lines(evaluation_lines(result.table))
    click.echo(f"written to {out}" if out else "errors per class: add --out FOLDER")


COMMANDS = (nets, inspect, lint, fix, evaluate)
