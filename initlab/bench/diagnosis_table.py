"""The tables of the benchmark of diagnosis, from its rows."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from initlab.report.text_table import text_table

Row = dict[str, Any]
HALVES = ("development", "held out")
OTHERS = {"sagemaker": "SageMaker Debugger", "autotrainer": "AUTOTRAINER", "anomaly": "torch's anomaly mode"}
# SageMaker's rule that fires on nearly every run, and AUTOTRAINER's that says no more than that a run has not learned.
LEFT_OUT = {"sagemaker": "poor_weight_initialization", "autotrainer": "not_converge"}


def table_lines(rows: Sequence[Row]) -> Iterator[str]:
    """Both tables and the list of what went wrong."""
    yield ""
    yield from text_table([["", *HALVES], *score_rows(rows)], right={1, 2})
    yield ""
    yield from text_table(list(fault_rows(rows)), right=range(1, 10))
    yield from ["", *misses(rows)]


def faults_of(rows: Sequence[Row], *, matters: bool = True) -> list[Row]:
    """The rows of faults that were planted and matter, or do not."""
    return [row for row in rows if row.get("applies") and row["matters"] == matters]


def score_rows(rows: Sequence[Row]) -> Iterator[list[str]]:
    """A line per question, a column per half of the models."""

    def line(title: str, counted: Callable[[list[Row]], tuple[int, int]]) -> list[str]:
        """A title, and a share per half."""
        return [title, *(share_text(*counted([row for row in rows if row.get("half") == half])) for half in HALVES)]

    yield line("models that train when sound", lambda part: count(of_kind(part, "sound"), "trains"))
    yield line("faults planted that matter", lambda part: (len(faults_of(part)), len(planted(part))))
    yield line("  caught by initlab", lambda part: count(faults_of(part), "caught"))
    yield line("    right parameters named", lambda part: count(scored(part), "named"))
    yield line("    and few innocent ones", lambda part: count(scored(part), "precise"))
    yield line("    a remedy advised", lambda part: count(caught(part), "call"))
    yield line("    of those, it works", lambda part: count([r for r in caught(part) if r["call"]], "cured"))
    yield line("  faults that matter, cured", lambda part: count(faults_of(part), "cured"))
    yield line("flagged though they do not matter", lambda part: count(faults_of(part, matters=False), "caught"))
    yield line("false alarms on sound draws", lambda part: count(of_kind(part, "draw"), "false_alarm"))
    yield line("cases that end in an error of initlab", lambda part: (sum("crash" in row for row in part), len(part)))
    for tool, name in OTHERS.items():
        for without in dict.fromkeys(("", LEFT_OUT.get(tool, ""))):
            title = f"caught by {name}" + f" without {without}" * bool(without)
            yield line(title, partial(fired_on_faults, tool=tool, without=without))
            yield line("  its false alarms on sound runs", partial(fired_on_sound, tool=tool, without=without))


def of_kind(rows: Sequence[Row], kind: str) -> list[Row]:
    """The rows of a kind."""
    return [row for row in rows if row["kind"] == kind and "crash" not in row]


def planted(rows: Sequence[Row]) -> list[Row]:
    """The rows of faults that were planted."""
    return [row for row in rows if row.get("applies")]


def caught(rows: Sequence[Row]) -> list[Row]:
    """Those that matter and were caught."""
    return [row for row in faults_of(rows) if row["caught"]]


def scored(rows: Sequence[Row]) -> list[Row]:
    """Those of the caught whose fault is some parameters'."""
    return [row for row in caught(rows) if row["planted"]]


def count(rows: Sequence[Row], field: str) -> tuple[int, int]:
    """How many rows have it, of how many."""
    return sum(bool(row.get(field)) for row in rows), len(rows)


def fired_on_faults(rows: Sequence[Row], tool: str, without: str) -> tuple[int, int]:
    """On how many runs with a fault that matters a tool raised an alarm."""
    return fired(faults_of(rows), tool, without)


def fired_on_sound(rows: Sequence[Row], tool: str, without: str) -> tuple[int, int]:
    """And on how many runs of sound nets."""
    return fired(of_kind(rows, "sound"), tool, without)


def fired(rows: Sequence[Row], tool: str, without: str) -> tuple[int, int]:
    """On how many runs another tool raised an alarm; a run that torch itself refuses is everybody's."""
    alarms = [bool(row.get("error")) or bool(set(row["others"].get(tool, ())) - {without}) for row in rows]
    return sum(alarms), len(rows)


def share_text(part: int, whole: int) -> str:
    """`95 % (19/20)`."""
    return f"{100 * part / whole:.0f} % ({part}/{whole})" if whole else "-"


def fault_rows(rows: Sequence[Row]) -> Iterator[list[str]]:
    """A line per fault planted in the models of development."""
    yield ["fault, in development", "planted", "matters", "caught", "named", "cured", *OTHERS]
    developed = [row for row in planted(rows) if row["half"] == HALVES[0]]
    for fault in dict.fromkeys(row["fault"] for row in developed):
        every = [row for row in developed if row["fault"] == fault]
        serious = faults_of(every)
        counts = [len(every), len(serious), count(serious, "caught")[0], count(serious, "named")[0]]
        named = str(counts[3]) if any(row["planted"] for row in every) else "-"
        others = [str(fired(serious, tool, "")[0]) for tool in OTHERS]
        yield [fault, *map(str, counts[:3]), named, str(count(serious, "cured")[0]), *others]


def misses(rows: Sequence[Row]) -> Iterator[str]:
    """What initlab got wrong on the models of development, a line each; what is held out is only counted."""
    for row in rows:
        if row.get("half") != HALVES[0]:
            continue
        if "crash" in row:
            yield f"crash: {row['model']}, {row.get('fault', row['kind'])}: {row['crash']}"
        if row.get("false_alarm"):
            yield f"false alarm: {row['model']}, seed {row['seed']}: {row['verdict']} {' '.join(row['lint'])}"
        if row.get("applies") and row["matters"]:
            if not row["caught"]:
                yield f"not caught: {row['model']}, {row['fault']}"
            elif row["planted"] and not row["named"]:
                yield f"not named: {row['model']}, {row['fault']}: {row['cause'] or row['lint'] or 'no cause'}"
            elif row["call"] and not row["cured"]:
                yield f"not cured: {row['model']}, {row['fault']}: {row['call']}"
