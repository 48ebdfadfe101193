"""`zip` and `random` of a study file, written out as the cases that they stand for.

```yaml
zip:                       # the first values together, the second together, ...
  net.depth: [10, 30]
  train.epochs: [5, 15]
random:                    # 20 draws, the same for the same seed
  samples: 20
  seed: 0
  train.lr: {log_uniform: [1e-4, 0.1]}
```

Each path of `random` has a stream of its own, so that another path beside it changes no draw.
"""

import itertools
import math
import random
from collections.abc import Callable, Mapping
from typing import Any

from initlab.study.mistakes import Mistake, dotted, short

Case = dict[str, Any]  # dotted path -> value
MOST_SAMPLES = 100_000
# Draws that may repeat earlier ones, for each sample.
PATIENCE = 100


def uniform(source: random.Random, low: float, high: float) -> float:
    """A number between two, of six digits."""
    return float(f"{source.uniform(low, high):.6g}")


def log_uniform(source: random.Random, low: float, high: float) -> float:
    """A number between two above 0, all sizes alike, of six digits."""
    return float(f"{math.exp(source.uniform(math.log(low), math.log(high))):.6g}")


def whole(source: random.Random, low: int, high: int) -> int:
    """A whole number between two, both included."""
    return source.randint(low, high)


RANGES: dict[str, Callable[..., float]] = {"uniform": uniform, "log_uniform": log_uniform, "int": whole}
ALLOWED = "allowed: {uniform: [a, b]}, {log_uniform: [a, b]}, {int: [a, b]} or {choice: [...]}"


def with_drawn_cases(content: dict[str, Any]) -> tuple[dict[str, Any], list[Mistake]]:
    """The content of a study file without `zip` and `random`, whose cases are crossed with its own; and mistakes.

    `{"zip": {"seed": [1, 2], "net.depth": [10, 30]}}` becomes two cases.
    """
    remaining = {key: value for key, value in content.items() if key not in ("zip", "random")}
    factors, mistakes = [], []
    for name, cases_of in (("zip", zipped), ("random", sampled)):
        if name in content:
            cases, wrong = cases_of(content[name])
            factors.append(cases)
            mistakes += [(dotted([name, *place]), text) for place, text in wrong]
    listed = remaining.get("cases", [{}])
    written = [part for part in (remaining.get("grid"), *(listed if isinstance(listed, list) else [])) if part]
    varied = {path for part in written if isinstance(part, dict) for path in part}
    for cases, name in zip(factors, [name for name in ("zip", "random") if name in content], strict=True):
        paths = set(cases[0]) if cases else set()
        mistakes += [
            (dotted([name, path]), "varied elsewhere too; vary a path in one place") for path in paths & varied
        ]
        varied |= paths
    if factors and not mistakes and isinstance(listed, list) and all(isinstance(case, dict) for case in listed):
        merged = itertools.product(listed, *factors)
        remaining["cases"] = [{key: value for part in parts for key, value in part.items()} for parts in merged]
    return remaining, mistakes


def zipped(content: Any) -> tuple[list[Case], list[tuple[list[str], str]]]:
    """The cases of `zip`: the values of all paths at each place of their lists."""
    lists = content if isinstance(content, Mapping) else {}
    if not lists or not all(isinstance(values, list) and values for values in lists.values()):
        return [], [([], f"not lists of values (got {short(content)}); allowed: `path: [value, ...]` lines")]
    lengths = {str(path): len(values) for path, values in lists.items()}
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{path} {length}" for path, length in lengths.items())
        return [], [([], f"lists of unlike length (got {got}); allowed: one length for all")]
    return [dict(zip(map(str, lists), values, strict=True)) for values in zip(*lists.values(), strict=True)], []


def sampled(content: Any) -> tuple[list[Case], list[tuple[list[str], str]]]:
    """The cases of `random`: as many draws as `samples` says, no two alike."""
    if not isinstance(content, Mapping):
        return [], [([], f"not a mapping (got {short(content)}); allowed: samples, seed, and `path: {{...}}` lines")]
    spread = {str(path): value for path, value in content.items() if path not in ("samples", "seed")}
    samples, seed = content.get("samples"), content.get("seed", 0)
    wrong: list[tuple[list[str], str]] = []
    if type(samples) is not int or not 1 <= samples <= MOST_SAMPLES:
        wrong.append((["samples"], f"out of range (got {short(samples)}); allowed: a whole number from 1 on"))
    if type(seed) is not int:
        wrong.append((["seed"], f"wrong type (got {short(seed)}); allowed: a whole number"))
    if not spread:
        wrong.append(([], f"no path to vary; {ALLOWED} at a path"))
    wrong += [([path], text) for path, value in spread.items() if (text := distribution_mistake(value))]
    if wrong or not isinstance(samples, int):
        return [], wrong
    draws = {path: drawing(random.Random(f"{seed} {path}"), value) for path, value in spread.items()}
    cases: dict[str, Case] = {}
    for _ in range(PATIENCE * samples):
        case = {path: draw() for path, draw in draws.items()}
        cases.setdefault(repr(case), case)
        if len(cases) == samples:
            return list(cases.values()), []
    return [], [
        (["samples"], f"more than there are different draws (got {samples}, found {len(cases)}); ask for fewer")
    ]


def distribution_mistake(value: Any) -> str | None:
    """What is wrong with a distribution, None where nothing is."""
    if not isinstance(value, Mapping) or len(value) != 1:
        return f"no distribution (got {short(value)}); {ALLOWED}"
    ((kind, numbers),) = value.items()
    if kind == "choice":
        return None if isinstance(numbers, list) and numbers else f"no values (got {short(numbers)}); {ALLOWED}"
    kinds = int if kind == "int" else (int, float)
    if kind not in RANGES or not isinstance(numbers, list) or len(numbers) != 2:
        return f"no distribution (got {short(value)}); {ALLOWED}"
    if not all(isinstance(n, kinds) and not isinstance(n, bool) and math.isfinite(n) for n in numbers):
        return f"no range (got {short(numbers)}); {ALLOWED}"
    if numbers[0] >= numbers[1] or (kind == "log_uniform" and numbers[0] <= 0):
        above = " above 0 and" * (kind == "log_uniform")
        return f"no range (got {short(numbers)}); allowed: [a, b] with a{above} below b"
    return None


def drawing(source: random.Random, value: Mapping[str, Any]) -> Callable[[], Any]:
    """What draws from a distribution, each call once."""
    ((kind, numbers),) = value.items()
    if kind == "choice":
        return lambda: source.choice(numbers)
    return lambda: RANGES[kind](source, *numbers)
