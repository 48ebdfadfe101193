"""Values that nobody draws on purpose: not finite, denormal, huge or all 0, the same draw in several layers or rows."""

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
# Of numbers as of a normal draw, none is so many standard deviations from 0: P[|z| > 12] = 4e-33.
OUTLYING = 12.0
# The share of a tensor's square sum from which on a few numbers are what the layer does.
HEAVY = 0.1
# Elements of a tensor that say whether two are the same draw.
FEWEST = 16
GAINS = ("weight", "gamma", "gain", "scale", "alpha", "g")


def odd_values(entries: Sequence[Entry]) -> Iterator[Suspect]:
    """The suspects of this module, tensor by tensor first."""
    yield from broken(entries)
    yield from outliers(entries)
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


def outliers(entries: Sequence[Entry]) -> Iterator[Suspect]:
    """Matrices in which a few numbers far beyond the rest outweigh them.

    So draws trunc_normal_ of torch before 2.12 in half precision, and with a small std in float32 (torchtitan#2269):
    0.4 % of the numbers are at the bounds of -2 and 2 where std is 0.02. One in each row, as in an identity with noise,
    is on purpose.
    """
    for entry in entries:
        if entry.tensor.dim() < 2 or entry.tensor.numel() < 100 * FEWEST or not entry.tensor.isfinite().all():
            continue
        sizes = entry.tensor.flatten(1).abs()
        most = sizes[sizes > 0].median() if (sizes > 0).any() else sizes.max()
        # The median of |z| is 0.6745.
        far = sizes > OUTLYING * most / 0.6745
        rows = far.sum(1)
        count = int(rows.sum())
        # What is larger still is `broken`.
        if not 0 < count < far.numel() / 100 or bool((rows == rows[0]).all()) or sizes.max() > LEAST_HUGE:
            continue
        squares = sizes.double().square()
        if (share := (squares[far].sum() / squares.sum()).item()) > HEAVY:
            words = (
                f"{count} of {far.numel()} numbers in `{entry.name}`, up to {sizes.max():.2g}, are far beyond the rest "
                f"(of std {most / 0.6745:.2g}) and carry {share:.0%} of its size"
            )
            yield Suspect("outliers", (entry.name,), words, redrawn([entry], entries), certain=True)


def zeros(entries: Sequence[Entry], gains: Sequence[str]) -> Iterator[Suspect]:
    """Matrices and embeddings of zeros alone: each kind by itself, then all, with the gains of norms that are 0.

    Those that end a branch are on purpose, so this is of interest only where a model can't learn.
    """
    kinds: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if (entry.tensor.dim() > 1 or entry.name in gains) and not entry.tensor.any():
            kinds[entry.family].append(entry)
    every = [entry for group in kinds.values() for entry in group]
    for group in [*kinds.values(), *([every] if len(kinds) > 1 else [])]:
        matrices, ones = [e for e in group if e.tensor.dim() > 1], [e.name for e in group if e.tensor.dim() < 2]
        lines = [redrawn(matrices, entries)] if matrices else []
        lines += [on_each(ones, "fill_(1)")] if ones else []
        names = [entry.name for entry in group]
        words = f"all numbers of {listed_names(names)} are 0, as memory that nothing was written to"
        yield Suspect("zeros", tuple(names), words, "\n".join(lines))


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
    """Parameters that hold the same numbers, as nn.TransformerEncoder's copies do, and layers that share a seed."""
    groups: dict[tuple[torch.Size, float], list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.tensor.dim() > 1 and entry.tensor.numel() >= FEWEST and varied(entry.tensor):
            groups[entry.tensor.shape, entry.tensor.flatten()[:FEWEST].sum().item()].append(entry)
    repeats: dict[str, Entry] = {}
    originals, most = [], 0
    for first, *others in groups.values():
        alike = [
            entry
            for entry in others
            if entry.tensor.data_ptr() != first.tensor.data_ptr() and torch.equal(entry.tensor, first.tensor)
        ]
        repeats |= {entry.name: entry for entry in alike}
        originals += [first.name] if alike else []
        most = max(most, len(alike) + 1)
    if repeats:
        words = (
            f"{listed_names([*repeats])} hold the same draw as {listed_names(originals)} ({most} layers are copies of "
            "one)"
        )
        yield Suspect("copies", (*repeats,), words, redrawn([*repeats.values()], entries), certain=True)


def odd_scalars(entries: Sequence[Entry]) -> Iterator[Suspect]:
    """Single numbers, as temperatures, above 4, of which some are logarithms (CLIP's is 2.66), or below an eighth."""
    for entry in entries:
        value = entry.tensor.abs().max().item()
        if entry.tensor.numel() == 1 and 0 < value < math.inf and not 1 / 8 <= value <= 4:
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

    Of a matrix whose lower half is a copy of the upper one it is 1/2. The matrices of experts in one tensor of three
    dimensions count as rows.
    """
    if weight.dim() < 2 or weight[0].numel() < 4 or not varied(weight):
        return 0.0
    rows = weight.flatten(1)
    if weight.dim() == 3 and bool((rows == rows[0]).all()):
        return 1 - 1 / len(rows)
    if len(rows) < 4:
        return 0.0
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
    """Whether numbers are as of a draw: not all the same, nor in order as the tables that state spaces start with."""
    steps = tensor.flatten(1)[0].diff()
    in_order = len(steps) >= 7 and bool((steps >= 0).all() or (steps <= 0).all())
    return not in_order and bool((tensor != tensor.flatten()[0]).any())


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
        # Without what lies far beyond the rest.
        numbers = numbers[numbers.abs() <= OUTLYING * numbers.abs().median() / 0.6745] if len(numbers) else numbers
        if len(numbers) > max(FEWEST, 0.2 * other.tensor.numel()) and (std := numbers.std().item()) > 0:
            return std
    return 1 / math.sqrt(entry.tensor[0].numel())
