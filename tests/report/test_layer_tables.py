"""What `initlab nets` prints: the fact sheet's counts beside the paper's, and a net's layers with a total."""

import re

from initlab.report.layer_tables import catalog_lines, net_lines


def cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def test_the_catalog_with_the_papers_figures() -> None:
    rows = [cells(line) for line in catalog_lines()]
    assert rows[0] == ["net", "depth", "parameters", "multiply-adds", "paper", "difference"]
    table = {row[0]: row[1:] for row in rows[1:-2]}
    assert table["small-14"] == ["14", "74,993,896", "980,914,880", "–", "–"]
    assert table["vgg-19"] == ["19", "143,667,240", "19,632,062,464", "1.96e10", "+0.2%"]
    assert table["C"] == ["22", "330,603,368", "53,463,130,112", "5.30e10", "+0.9%"]
    assert len(table) == 10
    assert rows[-2][0].startswith("of one 3x224x224 image and 1000 classes")


def test_other_images_classes_and_activations_are_counted_and_not_held_against_the_paper() -> None:
    relu, prelu = (
        {row[0]: row[1:] for row in map(cells, catalog_lines("256", 10, overrides))}
        for overrides in ((), ("net.activation=prelu_shared",))
    )
    # fc3 has 4096 x 10 weights and 10 biases instead of 1000 of each.
    assert relu["small-14"][1] == f"{74_993_896 - 990 * 4097:,}"
    assert relu["C"][3:] == ["–", "–"]
    assert prelu["small-14"][1] == f"{74_993_896 - 990 * 4097 + 13:,}"


def test_the_layer_table_of_a_net_adds_up() -> None:
    title, header, *rows, total = net_lines("small-14", overrides=["net.activation=prelu", "train.dropout=0.5"])
    assert title == "small-14 on 3x224x224 images, 1000 classes"
    assert cells(header) == ["layer", "kind", "kernel", "stride", "padding", "output", "parameters", "multiply-adds"]
    table = {cells(row)[0]: cells(row)[1:] for row in rows}
    assert table["conv1"] == ["Conv", "7x7", "2", "0", "64x109x109", "9,472", "111,776,448"]
    assert table["pool1"] == ["MaxPool", "3x3", "3", "0", "64x36x36"]
    assert table["conv2_1"][:5] == ["Conv", "2x2", "1", "1", "128x37x37"]
    assert table["conv2_2"][:5] == ["Conv", "2x2", "1", "0", "128x36x36"]
    assert table["act3_6"] == ["prelu", "256x18x18", "256"]
    assert table["spp"] == ["SPP 6,3,2,1", "12800"]
    assert table["dropout1"] == ["Dropout 0.5", "4096"]
    for column, ours in (("parameters", 74_993_896 + 10_304), ("multiply-adds", 980_914_880)):
        end = header.index(column) + len(column)
        numbers = [row[:end].split("  ")[-1].strip().replace(",", "") for row in rows if len(row) >= end]
        assert sum(int(number) for number in numbers if number.isdigit()) == ours
    assert cells(total) == ["total", "14 weight layers", f"{74_993_896 + 10_304:,}", "980,914,880"]


def test_plain_has_the_studys_fields() -> None:
    lines = list(net_lines("plain", "1x8x8", 10, ["net.depth=8", "net.stages=2", "net.width=4", "net.skip=identity"]))
    assert lines[0] == "plain-8 on 1x8x8 images, 10 classes"
    assert any(cells(line)[:3] == ["add1_3", "Add act1_1", "4x8x8"] for line in lines)


def test_what_has_no_use_in_a_net_is_named() -> None:
    lines = list(net_lines("B", overrides=["net.depth=9", "net.activation=prelu", "net.width=16"]))
    assert lines[-1] == "net.depth has no use in B; dropped"
    assert cells(lines[-2])[:2] == ["total", "22 weight layers"]


def test_an_input_may_be_a_side():
    assert next(net_lines("small-14", "96")) == "small-14 on 3x96x96 images, 1000 classes"
    assert list(catalog_lines("224")) == list(catalog_lines())
