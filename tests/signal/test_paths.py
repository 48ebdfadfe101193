"""Paths by hand: which layers are compared with each other, read off small nets whose wiring is plain."""

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from initlab.signal.paths import INPUT, Wiring, belongs, paths_of, role
from initlab.signal.start import start_of


class Block(nn.Module):
    """x + down(relu(up(x)))."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.relu(self.up(x)))


class Split(nn.Module):
    """A stem, blocks with skips, and two heads of four layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 8)
        self.blocks = nn.Sequential(*(Block() for _ in range(3)))
        self.left, self.right = (nn.Sequential(*(nn.Linear(8, 8) for _ in range(5))) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.blocks(self.stem(x))
        return self.left(h), self.right(h)


class Bare(nn.Module):
    """Matrices without a module, a position's layer that sees no input, and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Parameter(torch.randn(8, 8)) for _ in range(2))
        self.place, self.head = nn.Linear(2, 8), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(F.linear(x, self.first)) @ self.second + self.place(torch.ones(2))
        return self.head(torch.cat([h, x], 1))


def wiring(model: nn.Module) -> Wiring:
    return start_of(model, torch.randn(4, 8)).wiring


def rows(*names: str) -> pd.DataFrame:
    return pd.DataFrame({"name": names, "op": "linear"})


def test_a_chain_is_one_trunk_and_its_last_layer_the_end() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    result = wiring(net)
    assert result.trunk() == ["0", "2", "4"]
    assert result.end_names == {"4"}
    assert not result.skips
    assert paths_of(rows("0", "2", "4"), result) == [[0, 1]]


def test_branches_leave_the_trunk_to_what_every_way_passes() -> None:
    result = wiring(Split())
    assert result.trunk() == ["stem"]
    assert result.end_names == {"left.4", "right.4"}
    assert result.skips and result.joins == {"Add"}
    assert [way for way in result.rows() if len(way) > 3] == [
        [f"{side}.{i}" for i in range(5)] for side in ("left", "right")
    ]


def test_roles_are_compared_in_block_after_block_and_heads_along_their_rows() -> None:
    names = ["stem", *(f"blocks.{i}.{part}" for i in range(3) for part in ("up", "down"))]
    names += [f"{side}.{i}" for side in ("left", "right") for i in range(5)]
    paths = {tuple(names[row] for row in path) for path in paths_of(rows(*names), wiring(Split()))}
    assert paths == {
        *((f"blocks.0.{part}", f"blocks.1.{part}", f"blocks.2.{part}") for part in ("up", "down")),
        *(tuple(f"{side}.{i}" for i in range(4)) for side in ("left", "right")),
    }


def test_matrices_without_a_module_are_wired_and_a_constants_layer_is_left_out() -> None:
    result = wiring(Bare())
    assert result.constant == {"place"}
    assert result.trunk() == ["head"]  # The input reaches it around the rest.
    assert result.longest() == ["first", "second", "head"]
    assert paths_of(rows("first", "second", "place", "head"), result) == [[0, 1]]


def test_tokens_have_no_gradient_and_all_the_same_begin_the_way() -> None:
    net = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 9))
    result = start_of(net, torch.randint(9, (2, 5))).wiring
    assert result.calls == ("0.weight", "1", "3")
    assert result.sources == (frozenset([INPUT]), frozenset([0]), frozenset([1]))
    assert result.constant == set()


def test_a_layer_used_twice_is_two_calls_of_one_row() -> None:
    shared = nn.Linear(8, 8)
    result = wiring(nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(8, 2)))
    assert result.calls == ("0", "0", "4")
    assert paths_of(rows("0", "4"), result) == []


def test_names_differ_in_the_blocks_number_and_keep_the_parts() -> None:
    assert role("layers.11.q") == "layers.*.q"
    assert role("features.1.0.block.3") == "features.*.*.block.3"
    assert role("layer2.1.conv1") == "layer*.*.conv1"
    assert role("features.28") == "features.*"
    assert role("fc2") == "fc*"
    assert role("stem") == "stem"
    assert belongs("attn.in_proj_weight.q", "attn.in_proj_weight") and not belongs(
        "attn.out_proj", "attn.in_proj_weight"
    )
    assert belongs("0", "0.parametrizations.weight.original1") and not belongs("0", "00")
