"""`initlab bench data`: one table of three rates and their ratio; on digits in files, and on any study."""

import re
from pathlib import Path

from click.testing import CliRunner

from initlab.bench.data import bench_data, write_digits
from initlab.cli import main
from initlab.data.folders import scan


def test_the_table_has_the_three_rates_and_their_ratio(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text("name: small\nnet: {depth: 6, width: 2}\ntrain: {dropout: 0.2, batch_size: 16}\n")
    first, header, row = bench_data(path, 3, 1, [0], "cpu", None, ())
    assert first.startswith("digits at batch 16, plain-6, cpu, 1 threads")
    assert header.split() == ["workers", "loader", "net", "both", "of", "the", "slower"]
    workers, *rates, share = row.replace(",", "").split()
    loader, net, both = (float(rate.removesuffix("/s")) for rate in rates)
    assert workers == "0"
    assert min(loader, net, both) > 0
    assert abs(float(share) - both / min(loader, net)) < 0.02


def test_without_a_study_digits_are_written_as_pictures_of_mixed_sizes(tmp_path: Path) -> None:
    write_digits(tmp_path, train=3, val=1)
    listing = scan("imagefolder", tmp_path, 10)
    assert (len(listing.train.files), len(listing.val.files)) == (30, 10)
    assert listing.classes == tuple(str(digit) for digit in range(10))


def test_fields_without_a_study_and_absent_data_are_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["bench", "data", "--set", "train.lr=1"])
    assert (result.exit_code, result.stderr) == (2, "--set: goes with a study (got 'train.lr=1' and none); name one\n")
    path = tmp_path / "small.yaml"
    path.write_text("name: small\ndata: {name: imagefolder}\n")
    result = CliRunner().invoke(main, ["bench", "data", str(path)], env={"INITLAB_DATA": ""})
    assert result.exit_code == 2
    assert re.fullmatch(r"data.name: imagefolder needs a folder with .*\n", result.stderr)
