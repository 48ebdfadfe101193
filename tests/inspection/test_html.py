"""Inspections as HTML: the tree of modules, how far off theory a layer is, sizes and pages."""

import math
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

import initlab
from initlab.errors import UserError
from initlab.inspection.html import deviation, inspection_html, module_tree, off_theory


def row(name: str, forward: float = 1.0, status: str = "ok") -> dict[str, object]:
    """A layer whose draws are log-normal: median 1, standard deviation 0.5 of the logarithm."""
    band = {"predicted": 1.0, "low": math.exp(-0.98), "high": math.exp(0.98)}
    measured = {"forward_var": forward, "backward_var": 1.0}
    both = {f"{direction}_{key}": value for direction in ("forward", "backward") for key, value in band.items()}
    return {"name": name, "shape": (8, 8), "status": status, **measured, **both}


@pytest.mark.parametrize(("sigmas", "text"), [(0, "+0.0 σ"), (1.96, "+2.0 σ"), (-3, "−3.0 σ"), (24, "+24 σ")])
def test_deviations_are_in_standard_deviations_of_the_logarithm(sigmas: float, text: str) -> None:
    off = off_theory(row("a", math.exp(0.5 * sigmas)), "forward")
    assert off == pytest.approx(sigmas, abs=1e-12)
    assert deviation(off)["text"] == text


def test_where_there_is_nothing_to_compare_there_is_no_deviation() -> None:
    assert off_theory(row("a", 0.0), "forward") == -math.inf
    assert math.isnan(off_theory(row("a", math.nan), "forward"))
    assert math.isnan(off_theory({**row("a"), "forward_predicted": math.nan}, "forward"))
    # The last layer's gradient, where theory starts from what was measured.
    assert math.isnan(off_theory({**row("a"), "forward_low": 1.0, "forward_high": 1.0}, "forward"))
    assert deviation(math.nan) == {"text": "–", "colour": ""}


def test_names_make_a_tree_in_which_an_only_child_is_no_branch_of_its_own() -> None:
    names = ["stem.conv", "blocks.0.attn.q", "blocks.0.attn.k", "blocks.1.attn.q", "head"]
    off = [0.0, 1.0, -2.0, 0.5, 0.0]
    rows = [
        row(name, math.exp(value / 2), "dead" if value < 0 else "ok") for name, value in zip(names, off, strict=True)
    ]
    tree = module_tree(pd.DataFrame(rows))
    assert list(tree.children) == ["stem", "blocks", "head"]
    blocks = tree.children["blocks"]
    assert [(child.name, len(list(child.layers()))) for child in blocks.children.values()] == [
        ("0.attn", 2),
        ("1.attn.q", 1),
    ]
    assert [child.name for child in tree.children.values()] == ["stem.conv", "blocks", "head"]
    assert blocks.furthest("forward") == pytest.approx(-2) and blocks.folded().status == "dead"
    assert blocks.folded().cells[0] == "3 layers"


def test_200_layers_stay_small_and_every_one_has_its_cells() -> None:
    names = [f"encoder.blocks.{block}.mixing.{part}" for block in range(50) for part in ("q", "k", "v", "out")]
    table = pd.DataFrame([row(name, 2.0, "vanishing") for name in names])
    html = inspection_html(table, "vanishing", "signals shrink", ["do `this`"])
    assert len(html) < 300_000
    # Its own two cells per layer, and those of 50 blocks and of the module around them.
    assert html.count('style="background:rgb(') == 2 * (200 + 50 + 1)
    assert html.count("<details>") == 51 and "<code>this</code>" in html


def test_pages_are_whole_and_take_names_as_text(tmp_path: Path) -> None:
    net = nn.Sequential()
    net.add_module("<script>x", nn.Linear(8, 16))
    net.add_module("relu", nn.ReLU())
    net.add_module("out", nn.Linear(16, 4))
    batch, labels = torch.randn(16, 8), torch.randint(0, 4, (16,))
    seen = initlab.inspect(net, batch, labels)
    path = seen.report(tmp_path / "new" / "page.html", "<script>title")
    compared = initlab.compare_inits(net, batch, labels, ["he", "xavier"], 1)
    for page in (path, compared.report(tmp_path / "two.html")):
        text = page.read_text()
        assert "<script" not in text and "&lt;script&gt;x" in text
        assert re.findall(r'(?:src|href)="(?!data:)[^"]*', text) == [] and "url(" not in text
        assert text.startswith("<!DOCTYPE html>") and "data:image/svg+xml;base64," in text
    with pytest.raises(UserError, match="cannot be written"):
        seen.report(path / "below-a-file.html")
