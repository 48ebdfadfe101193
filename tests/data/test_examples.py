"""The user's own data: what is taken, how it becomes inputs, and what is refused in one line."""

from typing import Any

import numpy as np
import pytest
import torch

from initlab.data.dataset import Preprocessing
from initlab.data.examples import Examples, examples_of
from initlab.data.in_memory import ImageSet, TensorSet, prepare
from initlab.errors import UserError

FOUR = torch.arange(4)


def tensor_set(inputs: Any, labels: Any = FOUR, **changes: Any) -> TensorSet:
    data = prepare(examples_of((inputs, labels, inputs, labels)), Preprocessing(**changes))
    assert isinstance(data, TensorSet)
    return data


def test_four_arrays_are_a_data_set_whose_whole_labels_are_classes() -> None:
    data = tensor_set(np.eye(4), np.array([0, 1, 2, 2], dtype=np.int16))
    assert data.train_labels.dtype == torch.int64
    assert data.num_classes == 3
    assert data.input_shape == (4,)
    assert tensor_set(np.eye(4), [0.5, 1, 2, 3]).train_labels.dtype == torch.float32


def test_floating_inputs_are_scaled_as_one_to_the_wanted_std_and_keep_their_mean() -> None:
    inputs = torch.randn(1000, 3, 2, dtype=torch.float64) * 5 + 20
    scaled, labels = tensor_set(inputs, torch.arange(1000), scale=2.0, dtype=torch.float64).probe_batch(1000)
    assert (scaled - scaled.mean(0)).square().mean().sqrt().item() == pytest.approx(2.0)
    factor = scaled[0, 0, 0] / inputs[labels[0], 0, 0]
    assert torch.allclose(scaled, inputs[labels] * factor), "one factor, and nothing is taken away"


def test_integers_stay_what_they_are_as_int64() -> None:
    tokens = torch.tensor([[1, 255], [3, 4], [5, 6], [7, 8]], dtype=torch.uint8)
    inputs, labels = next(iter(tensor_set(tokens).val_batches(4)))
    assert inputs.dtype == torch.int64
    assert torch.equal(inputs, tokens.long())
    assert torch.equal(labels, FOUR)


def test_uint8_maps_are_pictures_with_labels_of_any_kind() -> None:
    images = torch.arange(4 * 12, dtype=torch.uint8).view(4, 3, 2, 2)
    data = prepare(examples_of((images, FOUR.float(), images, FOUR.float())), Preprocessing(), flip=True)
    assert isinstance(data, ImageSet)
    assert data.num_classes == 1
    inputs, labels = next(data.train_batches(0, 4, 0, 1))
    stored = (inputs / data.factor + data.mean).round()
    originals = images[labels.long()].float()
    kept = [torch.equal(*pair) for pair in zip(stored, originals, strict=True)]
    mirrored = [torch.equal(*pair) for pair in zip(stored, originals.flip(3), strict=True)]
    assert all(a != b for a, b in zip(kept, mirrored, strict=True))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, r"data.name: gives no data set \(got NoneType\); return \(train_inputs, train_labels, val_inputs"),
        ((FOUR, FOUR), r"gives no data set \(got tuple of 2\)"),
        (([[1], [1, 2]], FOUR, FOUR, FOUR), r"train_inputs: no array of numbers"),
        ((["a"] * 4, FOUR, FOUR, FOUR), r"train_inputs: no array of numbers"),
        ((torch.zeros(4, dtype=torch.complex64), FOUR, FOUR, FOUR), r"of a wrong type \(got torch.complex64\)"),
        ((FOUR, FOUR[:3], FOUR, FOUR), r"train: not a label for each input \(got inputs \(4,\) and labels \(3,\)\)"),
        ((FOUR, FOUR, FOUR[:0], FOUR[:0]), r"val: not a label for each input .*; allowed: as many, at least 1"),
        ((FOUR, FOUR.float(), FOUR, FOUR), r"train_labels and val_labels differ \(got torch.float32 \(4,\) and"),
        ((torch.zeros(4, 2), FOUR, torch.zeros(4, 3), FOUR), r"train_inputs and val_inputs differ"),
        ((FOUR, FOUR - 1, FOUR, FOUR), r"train_labels: out of range \(got -1 to 2\); allowed: 0 to 3"),
        ((FOUR / torch.tensor([1, 1, 0, 1]), FOUR, FOUR, FOUR), r"train_inputs: NaN or infinite in 1 of 4 places"),
        ((FOUR, FOUR, FOUR, FOUR.float().log()), r"val_labels: NaN or infinite in 1 of 4 places"),
        ((FOUR, FOUR[:, None] - 100, FOUR, FOUR[:, None]), r"got -99 to -97\); allowed: 0 to 3, or -100 for positions"),
        ((FOUR, -100 * (FOUR[:, None] < 1), FOUR, FOUR[:, None]), r"no position of some example counts"),
    ],
)
def test_what_is_no_data_set_is_refused(content: Any, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        examples_of(content)


def test_a_class_equal_to_their_number_is_refused() -> None:
    with pytest.raises(UserError, match=r"train_labels: out of range \(got 0 to 3\); allowed: 0 to 2"):
        Examples(FOUR, FOUR, FOUR, FOUR, num_classes=3)


def test_what_only_some_inputs_have_is_refused_of_others() -> None:
    tokens = examples_of((FOUR, FOUR, FOUR, FOUR))
    with pytest.raises(UserError, match=r"data.scale: integer inputs have none \(got 2\)"):
        prepare(tokens, Preprocessing(scale=2.0))
    with pytest.raises(UserError, match=r"data.flip, data.shift: for pictures"):
        prepare(tokens, Preprocessing(), shift=1)
    with pytest.raises(ValueError, match=r"the training inputs are all alike \(got a std of 0"):
        tensor_set(torch.ones(4, 2))
