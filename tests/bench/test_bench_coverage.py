"""`initlab bench coverage`: shares of draws inside bands, counted."""

import numpy as np
from click.testing import CliRunner

from initlab.bench.coverage import redrawn_shares
from initlab.cli import main


def test_linear_layers_lie_in_theorys_band_and_an_unknown_net_is_refused() -> None:
    result = CliRunner().invoke(main, ["bench", "coverage", "--nets", "mlp-tanh,nobody", "--draws", "4"])
    assert result.exit_code != 0 and "--nets: unknown (got 'nobody'); allowed: mlp-relu, " in result.output
    result = CliRunner().invoke(main, ["bench", "coverage", "--nets", "mlp-tanh", "--draws", "40", "--layers"])
    assert result.exit_code == 0, result.output
    _, _, line, _, *layers, summary = result.output.splitlines()
    name, says, forward, *_ = line.split()
    assert (name, says, len(layers)) == ("mlp-tanh", "11/11", 11)
    shares = [float(layer.split()[2]) for layer in layers]
    assert abs(float(forward) - 100 * np.mean(shares)) <= 1 and 88 <= float(forward) <= 100
    assert summary.startswith(f"theory: 11 rows of 1 nets: forward {forward} % of points")


def test_students_t_holds_95_per_cent_of_log_normal_draws() -> None:
    values = np.exp(np.random.default_rng(0).normal(size=(4000, 2)))
    shares, _ = redrawn_shares(values, 8)
    # Of 500 bands the share inside varies by 0.06 each (a t band of 7 degrees of freedom), so 0.003 in the mean.
    assert np.abs(shares - 0.95).max() < 0.01
