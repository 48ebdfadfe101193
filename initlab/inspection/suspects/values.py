"""Values that nobody draws on purpose: not finite, denormal or huge ones, the same draw in several layers or rows."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from initlab.inspection.suspects.suspect import Entry, Suspect, listed_names, on_each, with_numbers

# Below the least normal number of float32, 1.2e-38, by what a product with another weight may lose.
DENORMAL = 1e-35
# A weight this many times the median of its tensor is none of any usual draw.
HUGE = 1e4
# And none below this size is, whatever the others are.
LEAST_HUGE = 100.0
# Elements of a tensor that say whether two are the same draw.
FEWEST = 16
GAINS = ("weight", "gamma", "gain", "scale", "alpha", "g")


def odd_values(entries: Sequence[Entry]) -> Iterator[Suspect]:
    """The suspects of this module, tensor by tensor first."""
    yield from broken(entries)
    yield from denormal(entries)
    yield from copies(entries)
    yield from repeated_rows(entries)


def broken(entries: Sequence[Entry]) -> Iterator[Suspect]:
    """Tensors with numbers that are not finite, or 10,000 times as large as most of theirs."""
    for entry in entries:
        finite = entry.tensor.isfinite()
        # Most tensors are sound, and a median takes its time.
        if finite.all() and entry.tensor.abs().max() <= LEAST_HUGE:
            continue
        sizes = entry.tensor[finite].double().abs()
        typical = sizes[sizes > 0].median().item() if (sizes > 0).any() else 1.0
        huge = sizes > max(HUGE * min(typical, 1.0), LEAST_HUGE)
        if finite.all() and not huge.any():
            continue
        count = (~finite).sum().item()
        what = f"{count} numbers that are not finite" if count else f"numbers up to {sizes.max().item():.2g}"
        words = f"`{entry.name}` holds {what} (of {entry.tensor.numel()})"
        yield Suspect("nonfinite" if count else "huge", (entry.name,), words, redrawn([entry], entries), certain=True)


def denormal(entries: Sequence[Entry]) -> Iterator[Suspect]:
    """Tensors of which a hundredth or more is so small that it counts as 0, as memory that was never written."""
    found = []
    for entry in entries:
        sizes = entry.tensor.abs()
        share = ((sizes > 0) & (sizes < DENORMAL)).double().mean().item()
        if share >= 0.01:
            found.append((entry, share))
    if found:
        names = [entry.name for entry, _ in found]
        share = max(share for _, share in found)
        words = f"{share:.0%} of {listed_names(names)} are denormal, as memory that nothing was written to (`to_empty`)"
        yield Suspect("denormal", tuple(names), words, redrawn([entry for entry, _ in found], entries), certain=True)


def copies(entries: Sequence[Entry]) -> Iterator[Suspect]:
    """Parameters of one name in several blocks that hold the same numbers, as nn.TransformerEncoder's copies do."""
    groups: dict[tuple[str, torch.Size, float], list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.tensor.dim() > 1 and entry.tensor.numel() >= FEWEST and varied(entry.tensor):
            groups[entry.family, entry.tensor.shape, entry.tensor.flatten()[:FEWEST].sum().item()].append(entry)
    repeats, most = [], 0
    for first, *others in groups.values():
        alike = [
            entry
            for entry in others
            if entry.tensor.data_ptr() != first.tensor.data_ptr() and torch.equal(entry.tensor, first.tensor)
        ]
        repeats += alike
        most = max(most, len(alike) + 1)
    if repeats:
        names = [entry.name for entry in repeats]
        words = (
            f"{listed_names(names)}, hold the same draw as the first of their kind ({most} layers are copies of one)"
        )
        yield Suspect("copies", tuple(names), words, redrawn(repeats, entries), certain=True)


def odd_scalars(entries: Sequence[Entry]) -> Iterator[Suspect]:
    """Single numbers, as temperatures, that are more than eight times 1, or less than an eighth."""
    for entry in entries:
        value = entry.tensor.abs().max().item()
        if entry.tensor.numel() == 1 and 0 < value < math.inf and not 1 / 8 <= value <= 8:
            words = f"`{entry.name}` is {entry.tensor.item():.3g}, where 1 is usual of a single factor"
            yield Suspect("factor", (entry.name,), words, on_each([entry.name], "fill_(1)"))


def repeated_rows(entries: Sequence[Entry]) -> Iterator[Suspect]:
    """Matrices of which a quarter of the rows or more repeat another row, so that units can only learn the same."""
    found = [(entry, share) for entry in entries if (share := repeated_share(entry.tensor)) >= 0.25]
    if found:
        names = [entry.name for entry, _ in found]
        share = max(share for _, share in found)
        words = f"{share:.0%} of the rows of {listed_names(names)} repeat other rows, so their units learn the same"
        yield Suspect(
            "repeated_rows", tuple(names), words, redrawn([entry for entry, _ in found], entries), certain=True
        )


def repeated_share(weight: Tensor) -> float:
    """The share of rows that repeat an earlier one, zeros and what is repeated for a pixel shuffle aside.

    Of a matrix whose lower half is a copy of the upper one it is 1/2.
    """
    if weight.dim() < 2 or len(weight) < 4 or weight[0].numel() < 4 or not varied(weight):
        return 0.0
    rows = weight.flatten(1)
    key, order = rows.double().sum(1).sort(stable=True)
    before, after = rows[order[:-1]], rows[order[1:]]
    same = (key[:-1] == key[1:]) & (before == after).all(1) & (after.abs() > DENORMAL).any(1)
    if not same.any() or (weight.dim() > 2 and interleaved(order, same)):
        return 0.0
    return same.sum().item() / len(rows)


def interleaved(order: Tensor, same: Tensor) -> bool:
    """Whether equal rows are neighbours, as in convolutions before a pixel shuffle (Aitken et al. 2017)."""
    return bool((order[1:][same] - order[:-1][same] == 1).all())


def varied(tensor: Tensor) -> bool:
    """Whether not all numbers are the same."""
    return bool((tensor != tensor.flatten()[0]).any())


def redrawn(odd: Sequence[Entry], entries: Sequence[Entry]) -> str:
    """The line that draws tensors anew with the standard deviation of their kind; gains become 1 and shifts 0."""
    numbers: dict[str, float | tuple[float, float]] = {}
    for entry in odd:
        if entry.tensor.dim() > 1:
            numbers[entry.name] = 0.0, usual_std(entry, entries)
        else:
            numbers[entry.name] = float(entry.name.rpartition(".")[2] in GAINS), 0.0
    return with_numbers(numbers, "normal_")


def usual_std(entry: Entry, entries: Sequence[Entry]) -> float:
    """The standard deviation of the sound numbers of a tensor, of others of its kind, or 1/sqrt(fan_in)."""
    alike = [other for other in entries if other.family == entry.family and other.tensor.shape == entry.tensor.shape]
    for other in (entry, *alike):
        numbers = other.tensor[other.tensor.isfinite()].double()
        sizes = numbers.abs()
        numbers = numbers[(sizes > DENORMAL) & (sizes < 100)]
        if len(numbers) > max(FEWEST, 0.2 * other.tensor.numel()) and (std := numbers.std().item()) > 0:
            return std
    return 1 / math.sqrt(entry.tensor[0].numel())
