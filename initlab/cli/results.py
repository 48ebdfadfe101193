"""Commands on results: what they show (plot, report, compare), and their files (export, verify, compact)."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click

from initlab.cli.options import OUT, assignments, echo, echo_lines


@click.command()
@click.argument("out", type=OUT)
@click.option("--figure", "names", multiple=True, metavar="NAME", help="One of the figures, e.g. depth; repeatable.")
@click.option("--to", "folder", type=OUT, help="Folder for the files.  [default: OUT/figures]")
@click.option(
    "--width",
    type=click.Choice(["column", "text"]),
    help="For a paper: its column (3.25 in) or its text (6.75 in).  [default: what each figure needs]",
)
@click.option(
    "--format",
    "forms",
    type=click.Choice(["png", "svg", "pdf"]),
    multiple=True,
    default=["png", "svg"],
    help="Repeatable.",
)
def plot(
    out: Path,
    names: Sequence[str],
    folder: Path | None,
    width: Literal["column", "text"] | None,
    forms: Sequence[Literal["png", "svg", "pdf"]],
) -> None:
    """Draw the figures of the results in OUT.

    Each as png and svg, with the csv of what it draws. Without --figure: convergence, signals and depth, running, prelu
    and phase where there is something to draw. Others, by name: theory, paper, heatmap, propagation, decay, survival,
    effects.
    """
    from initlab.plots import save_figures
    from initlab.store.studies import load

    results = load(out)
    say = partial(click.echo, err=True)
    echo_lines(save_figures(results, names or None, folder, say, width=width, forms=forms))
    echo_lines(results.problems, err=True)


@click.command()
@click.argument("outs", metavar="OUT...", type=OUT, nargs=-1, required=True)
@click.option("--out", type=OUT, help="The file to write; NAME.md is Markdown.  [default: OUT/report.html]")
@click.option("--format", "form", type=click.Choice(["html", "markdown"]), help="[default: by the file's ending]")
@click.option(
    "--by", metavar="FIELD", help="The field whose values are compared.  [default: init.scheme, if it varies]"
)
def report(outs: Sequence[Path], out: Path | None, form: Literal["html", "markdown"] | None, by: str | None) -> None:
    """Write the results in OUT as one page to read and send.

    The answer to the study's question, figures, every trial, and how to get the same.

    html: one file that needs no network; a trial that is chosen shows its curves, and its signals beside theory.
    markdown: for papers and pull requests, its pictures in NAME-figures beside it.
    """
    from initlab.report.study_report import write_report
    from initlab.store.results import Results

    results = [Results(one) for one in outs]
    click.echo(write_report(results, out, form, by))
    for one in results:
        echo_lines(one.problems, err=True)


@click.command()
@click.argument("outs", metavar="OUT...", type=OUT, nargs=-1, required=True)
@click.option("--by", metavar="FIELD", help="Compare trials by a field, e.g. init.scheme.")
@click.option(
    "--at", multiple=True, metavar="PATH=VALUE", callback=assignments, help="Only trials with this value; repeatable."
)
@click.option("--paper", "figure", metavar="FIGURE", help="fig2 (22 layers) or fig3 (30 layers) of He et al. (2015).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def compare(outs: Sequence[Path], by: str | None, at: dict[str, Any], figure: str | None, as_json: bool) -> None:
    """Do the claims of the study hold in the results in OUT?

    With --by: which value of a field reaches the threshold sooner, and how sure is that? With --paper: does what a
    figure of the paper shows hold here? Exit code 0 where every claim holds, 1 where one does not or is open.
    """
    from initlab.store.studies import load

    if (by and figure) or (at and not by):
        raise click.UsageError("--by and --paper are two questions, and --at goes with --by; ask one")
    results = [load(out) for out in outs]
    if by:
        from initlab.analysis.arm_comparison import compare_arms
        from initlab.report.arm_table import arms_json, arms_text

        arms = compare_arms(results, by, at)
        echo(arms_json(arms) if as_json else arms_text(arms))
        return
    if figure:
        from initlab.analysis.comparison import compare_paper
        from initlab.report.paper_comparison import paper_json, paper_text

        comparison = compare_paper(results, figure)
        click.echo(paper_json(comparison) if as_json else paper_text(comparison))
        sys.exit(0 if comparison.agrees else 1)
    from initlab.analysis.declared import check_claims
    from initlab.report.claims_table import claims_text
    from initlab.report.json_text import json_text

    claims = check_claims(results)
    echo(json_text(claims, indent=2) if as_json else claims_text(claims))
    sys.exit(0 if all(claim.holds for claim in claims) else 1)


@click.command()
@click.argument("out", type=OUT)
@click.option(
    "--to",
    "form",
    type=click.Choice(["parquet", "csv", "tensorboard", "mlflow", "trackio"]),
    required=True,
    help="Form of the files, or the tracker that they are for.",
)
@click.option("--folder", type=OUT, help="An empty or new folder.  [default: OUT-FORM beside OUT]")
def export(out: Path, form: str, folder: Path | None) -> None:
    """Write the results in OUT into few files, or for a tracker.

    Checkpoints are left out. parquet: small, and read by initlab.load, status, plot and compare in place of OUT. csv: a
    file per frame, for other programs. tensorboard, mlflow, trackio: a run per trial, with its fields, verdict, curves
    and the logarithms of its signals; prints the command that shows them.
    """
    from initlab.store.studies import load
    from initlab.store.trackers import TRACKERS, export_to_tracker

    results = load(out)
    # Resolved, for `.` has no name.
    target = folder or out.resolve().with_name(f"{out.resolve().name}-{form}")
    if form in TRACKERS:
        click.echo(f"{target}: look at it with `{export_to_tracker(results, form, target)}`")
    else:
        echo_lines(results.export("csv" if form == "csv" else "parquet", target))
    echo_lines(results.problems, err=True)


@click.command()
@click.argument("out", type=OUT)
@click.option("--repair", is_flag=True, help="Repair what can be repaired, and say what was done.")
def verify(out: Path, repair: bool) -> None:
    """Check that nothing in OUT is damaged or missing.

    Looks at ids, rows, checksums and checkpoints, and names each fault by its trial and file.

    Exit code 0 where all is whole, or was repaired; 1 where something is wrong.
    """
    from initlab.engine.lease import lease
    from initlab.store import verify as store
    from initlab.store.studies import load

    results = load(out)
    lines = store.faults(results)
    echo_lines(lines, err=True)
    if lines and repair and not results.exported:
        with lease(out):
            echo_lines(store.repair(results, lines))
        results = load(out)
        lines = store.faults(results)
        echo_lines((f"still: {line}" for line in lines), err=True)
    click.echo(f"{out}: {len(results.stored)} trials, {f'{len(lines)} faults' if lines else 'all whole'}")
    sys.exit(1 if lines else 0)


@click.command()
@click.argument("out", type=OUT)
def compact(out: Path) -> None:
    """Merge the rows of finished trials in OUT into few files.

    At any moment, also while trials run. All commands read OUT as before. Checkpoints stay, but for those of earlier
    attempts at a finished trial.
    """
    from initlab.store.compact import compact as merge

    echo_lines(merge(out))


COMMANDS = (plot, report, compare, export, verify, compact)
