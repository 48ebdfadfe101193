"""Study files changed at random give a study, or errors of one line each: never anything else."""

import random
from pathlib import Path

import pytest

from initlab import StudyError
from initlab.plan.plan import plan
from initlab.study.study import load_study

SWEEPS = sorted((Path(__file__).parents[2] / "sweeps").glob("*.yaml"))
# What YAML, numbers and this study format are sensitive to.
PIECES = [
    *("{", "}", "[", "]", ":", ",", "&a ", "*a", "!!python/object/apply:os.system ['true']", "!!binary ", "<<: *a"),
    *("~", "null", ".nan", ".inf", "-1", "0", "1e400", "9" * 5000, "2024-13-45", "0x7f", "true", "''", "\x00"),
    *("\t", "\n", "\n  ", "- ", "? ", "| ", "> ", "#", "'", '"', "é", "\U0001f600", "\x85", "grid:", "cases:"),
    *("net.depth: ", "pkg.module:callable", "../../etc/passwd", "name: /", "[[[[[[[[[[", "{{{{{{{{", "%", "\ufeff"),
]


def mutated(text: str, generator: random.Random) -> str:
    """The text with one to four pieces put in, taken out, doubled or swapped."""
    for _ in range(generator.randint(1, 4)):
        start = generator.randrange(len(text) + 1)
        end = min(len(text), start + generator.choice((0, 0, 1, 3, 10, 60)))
        other = generator.randrange(len(text) + 1)
        new = generator.choice([generator.choice(PIECES), "", text[start:end] * 2, text[other : other + 20]])
        text = text[:start] + new + text[end:]
    return text


def check(first: int, last: int, folder: Path) -> int:
    """Mutations of these numbers; how many were refused."""
    texts, path, refused = [sweep.read_text() for sweep in SWEEPS], folder / "study.yaml", 0
    for number in range(first, last):
        generator = random.Random(number)
        path.write_bytes(mutated(generator.choice(texts), generator).encode("utf-8", "surrogatepass"))
        try:
            plan(load_study(path), str(path))
        except StudyError as error:
            refused += 1
            for line in error.lines:
                assert line.isprintable() and len(line) < 1_000, (number, line[:300])
        except Exception as error:
            raise AssertionError(f"mutation {number}: {type(error).__name__}: {error}") from error
    return refused


def test_mutated_studies_give_clean_errors(tmp_path: Path) -> None:
    # Both kinds are there in numbers, so that neither branch goes untried.
    assert 60 < check(0, 300, tmp_path) < 290


@pytest.mark.slow
def test_twenty_thousand_mutated_studies_give_clean_errors(tmp_path: Path) -> None:
    assert check(300, 20_300, tmp_path) > 4_000
