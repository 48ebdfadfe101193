"""Data as a user has it at hand, as `Examples`: pairs of arrays, torch Datasets and DataLoaders, Hugging Face's."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from initlab.data.examples import PARTS, Examples, examples_of, to_tensor
from initlab.data.orders import fixed_permutation
from initlab.errors import UserError

LABELS = ("labels", "label", "target", "targets", "y")
# Of all examples, but no more than so many, for validation.
VAL_SHARE, MOST_VAL = 0.2, 2000
FORMS = "(inputs, labels), a Dataset, a DataLoader, a pair of these for training and validation, or four arrays"


def brought_examples(data: Any, most: int) -> Examples:
    """The examples of `data`, some of them held out for validation where it doesn't part them itself.

    Args:
        data: inputs and labels as tensors or what reads as arrays (NumPy, pandas); a Dataset or an iterable of pairs;
            a DataLoader; a mapping per example, of its label and one input (Hugging Face's with the torch format); a
            pair of such sets, for training and validation; or what `examples_of` takes.
        most: examples that are taken of a set that gives one after another.

    Raises:
        UserError: none of these, no example, or what `Examples` refuses.
    """
    if isinstance(data, Examples) or (isinstance(data, (tuple, list)) and len(data) == len(PARTS)):
        return examples_of(data)
    sets = (Dataset, DataLoader)
    if isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(part, sets) for part in data):
        return examples_of([part for source in data for part in taken(source, most)])
    if isinstance(data, (tuple, list)):
        if len(data) != 2:
            raise UserError(f"data: no pair (got a {type(data).__name__} of {len(data)}); allowed: {FORMS}")
        inputs, labels = (to_tensor(name, value) for name, value in zip(PARTS, data, strict=False))
    else:
        inputs, labels = taken(data, most)
    return held_out(inputs, labels)


def held_out(inputs: Tensor, labels: Tensor) -> Examples:
    """Examples of which a fixed random part is for validation."""
    if not inputs.dim() or not labels.dim() or len(inputs) != len(labels) or len(inputs) < 2:
        got = f"got inputs {tuple(inputs.shape)} and labels {tuple(labels.shape)}"
        raise UserError(f"data: not a label for each input ({got}); allowed: as many, at least 2")
    order = fixed_permutation(len(inputs), "brought")
    val = order[: max(1, min(MOST_VAL, int(VAL_SHARE * len(inputs))))]
    train = order[len(val) :]
    return examples_of((inputs[train], labels[train], inputs[val], labels[val]))


def taken(source: Any, most: int) -> tuple[Tensor, Tensor]:
    """Inputs and labels of a set that gives pairs, or batches of them, one after another."""
    if isinstance(source, DataLoader):
        batches: list[Any] = []
        examples = 0
        for batch in source:
            batches.append(to_pair(batch))
            examples += len(batches[-1][0])
            if examples >= most:
                break
        pairs = [torch.cat(parts) for parts in zip(*batches, strict=True)]
    else:
        if not isinstance(source, Iterable) and not hasattr(source, "__getitem__"):
            raise UserError(f"data: no data set (got {type(source).__name__}); allowed: {FORMS}")
        if hasattr(source, "__len__") and hasattr(source, "__getitem__") and not isinstance(source, Mapping):
            size = len(source)
            items: Iterable[Any] = (source[int(index)] for index in fixed_permutation(size, "taken")[:most])
        else:
            items = islice(source, most)
        collected = [to_pair(item) for item in items]
        pairs = list(default_collate(collected)) if collected else []
    if not pairs:
        raise UserError(f"data: gave no example (got an empty {type(source).__name__}, or one already gone through)")
    return to_tensor("train_inputs", pairs[0]), to_tensor("train_labels", pairs[1])


def to_pair(item: Any) -> tuple[Any, Any]:
    """Input and label of what a set gives for an example, or a batch."""
    if isinstance(item, Mapping):
        label = next((name for name in LABELS if name in item), None)
        inputs = [name for name in item if name != label]
        if label is None or len(inputs) != 1:
            got, allowed = (", ".join(map(str, names)) for names in (item, LABELS))
            raise UserError(f"data: no label and one input (got {got}); allowed: one of {allowed}, and one other")
        return item[inputs[0]], item[label]
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        got = type(item).__name__ + (f" of {len(item)}" if isinstance(item, (tuple, list)) else "")
        raise UserError(f"data: gives no pair (got {got}); allowed: (input, label) for each example")
    return item[0], item[1]
