"""Data as users have it at hand, all of the same examples."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from initlab.data.brought import brought_examples
from initlab.errors import UserError

INPUTS, LABELS = torch.arange(40.0).view(20, 2), torch.arange(20) % 3


class Rows(Dataset):
    """Rows as those of a Hugging Face set with the torch format."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if index >= 20:
            raise IndexError
        return {"pixels": INPUTS[index], "label": LABELS[index]}


FORMS = {
    "tensors": (INPUTS, LABELS),
    "numpy": (INPUTS.numpy(), LABELS.numpy().astype(np.int32)),
    "pandas": (pd.DataFrame(INPUTS.numpy()), pd.Series(LABELS.numpy())),
    "dataset": TensorDataset(INPUTS, LABELS),
    "loader": DataLoader(TensorDataset(INPUTS, LABELS), batch_size=6, shuffle=True),
    "mappings": Rows(),
    "loader of mappings": DataLoader(Rows(), batch_size=6),
    "iterator": zip(INPUTS, LABELS, strict=True),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_each_example_once_with_its_label(form: str):
    examples = brought_examples(FORMS[form], most=100)
    inputs = torch.cat([examples.train_inputs, examples.val_inputs])
    labels = torch.cat([examples.train_labels, examples.val_labels])
    assert len(examples.val_labels) == 4
    assert torch.equal(inputs.sort(dim=0).values.float(), INPUTS)
    assert torch.equal(inputs[:, 0].long() // 2 % 3, labels)


def test_a_pair_of_sets_is_parted_already():
    train, val = TensorDataset(INPUTS[:15], LABELS[:15]), DataLoader(TensorDataset(INPUTS[15:], LABELS[15:]))
    examples = brought_examples((train, val), most=100)
    assert torch.equal(examples.val_inputs, INPUTS[15:])
    assert len(examples.train_labels) == 15


def test_no_more_is_taken_than_is_needed():
    def endless():
        while True:
            yield INPUTS[0], LABELS[0]

    assert len(brought_examples(endless(), most=10).train_labels) == 8


def test_a_loader_that_is_exhausted_says_so():
    used = iter(TensorDataset(INPUTS, LABELS))
    list(used)
    with pytest.raises(UserError, match="gave no example"):
        brought_examples(used, most=10)


def test_several_inputs_are_refused():
    with pytest.raises(UserError, match=r"no label and one input \(got a, b, label\)"):
        brought_examples(iter([{"a": INPUTS[0], "b": INPUTS[0], "label": 1}]), most=10)
