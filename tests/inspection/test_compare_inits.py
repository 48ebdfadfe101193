"""Initialisations of one model side by side: what each row says, what is best, and that wrong use is one clear line."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import initlab
from initlab.errors import UserError
from initlab.inspection.comparison import Comparison
from initlab.inspection.ranking import best_of
from initlab.verdict.odds import VERDICTS as OUTCOMES

X = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
Y = torch.arange(32) % 10


def mlp(depth: int, width: int = 32, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(0)
    inner = [module for _ in range(depth - 1) for module in (nn.Linear(width, width), activation())]
    return nn.Sequential(*inner, nn.Linear(width, 10))


def half_he(normals: Tensor, layer: Any) -> Tensor:
    return normals * math.sqrt(1 / layer.fan_in)


@pytest.fixture(scope="module")
def thirty() -> Comparison:
    schemes: list[Any] = ["as_is", "xavier", "he", half_he, ("tenth", lambda model: shrink(model))]
    return initlab.compare_inits(mlp(30), X, Y, schemes, seeds=2, lr=0.01, weight_decay=5e-4)


def shrink(model: nn.Module) -> None:
    initlab.init_(model, "he")
    model[0].weight.data.mul_(0.1)  # type: ignore[index, operator, union-attr]


def rows(comparison: Comparison) -> dict[str, dict[Any, Any]]:
    return {row["scheme"]: row for row in comparison.table.to_dict("records")}


def test_each_row_says_what_inspect_says_of_each_seed(thirty: Comparison) -> None:
    verdict = thirty.verdicts[thirty.verdicts.scheme == "xavier"].iloc[1]
    alone = initlab.inspect(initlab.init_(mlp(30), "xavier", seed=1), X, Y)
    assert (verdict.seed, verdict.verdict, verdict.reason) == (1, "vanishing", alone.reason)
    measured = thirty.signals[(thirty.signals.scheme == "xavier") & (thirty.signals.seed == 1)]
    assert measured.forward_var.tolist() == alone.table.forward_var.tolist()
    assert measured.backward_var.tolist() == alone.table.backward_var.tolist()
    row = rows(thirty)["xavier"]
    assert (row["agreeing"], row["seeds"], row["error"]) == (2, 2, "")
    factors = thirty.verdicts[thirty.verdicts.scheme == "xavier"].forward_factor
    assert row["forward_factor"] == pytest.approx(math.prod(factors) ** (1 / 2))
    # Half per layer, less what a typical net of width 32 lies below the mean of all.
    assert 0.4 < row["forward_factor"] < 0.5 and 0.4 < row["backward_factor"] < 0.52
    assert rows(thirty)["he"]["verdict"] == "healthy"


def test_the_share_inside_is_that_of_predicts_own_band(thirty: Comparison) -> None:
    theory = initlab.predict(mlp(30), scheme="he", batch=X, labels=Y)
    inside = []
    for seed in range(2):
        table = initlab.inspect(initlab.init_(mlp(30), "he", seed=seed), X).table
        inside += table.forward_var.between(theory.forward_low, theory.forward_high).tolist()
    assert rows(thirty)["he"]["forward_inside"] == pytest.approx(sum(inside) / 60)
    assert sum(inside) > 50


def test_the_forecast_is_that_of_each_net_alone(thirty: Comparison) -> None:
    for name in ("xavier", "he"):
        alone = [
            initlab.forecast(initlab.init_(mlp(30), name, seed=seed), X, Y, lr=0.01, weight_decay=5e-4)
            for seed in range(2)
        ]
        for outcome in OUTCOMES:
            mean = sum(forecast.probabilities[outcome] for forecast in alone) / 2
            assert rows(thirty)[name][outcome] == pytest.approx(mean, rel=1e-6, abs=1e-12)
    assert rows(thirty)["he"]["forecast"] == "converged"


def test_a_function_of_a_layer_and_one_of_the_model_are_schemes(thirty: Comparison) -> None:
    table = rows(thirty)
    # The function gives what xavier's does forward.
    of_function, of_name = (thirty.signals[thirty.signals.scheme == name] for name in ("half_he", "xavier"))
    assert of_function.forward_var.tolist() == pytest.approx(of_name.forward_var.tolist(), rel=1e-4)
    first = thirty.signals[(thirty.signals.layer == 0) & (thirty.signals.seed == 0)].set_index("scheme").weight_var
    assert first["tenth"] == pytest.approx(0.01 * first["he"], rel=1e-5)
    assert table["he"]["sets"] == "30 to he, 30 to 0"
    assert table["half_he"]["sets"] == "30 to half_he, 30 to 0"
    assert table["tenth"]["sets"] == "60 of 60 parameters changed"
    assert (table["as_is"]["sets"], table["as_is"]["seeds"]) == ("nothing", 1)


def test_apply_gives_the_weights_that_were_measured(thirty: Comparison) -> None:
    model = mlp(30)
    assert thirty.apply(model, "tenth", seed=1) is model
    last = thirty.signals[(thirty.signals.scheme == "tenth") & (thirty.signals.seed == 1)]
    assert initlab.inspect(model, X, Y).table.forward_var.tolist() == last.forward_var.tolist()
    thirty.apply(model, "he", seed=1)
    expected = initlab.init_(mlp(30), "he", seed=1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    with pytest.raises(
        UserError, match=r"^apply: no such scheme here \(got 'hee'; did you mean 'he'\?\); allowed: as_is,"
    ):
        thirty.apply(model, "hee")


def test_draws_of_a_function_of_the_model_differ_by_seed_and_leave_the_global_streams() -> None:
    def mine(model: nn.Module) -> None:
        nn.init.normal_(model[0].weight)  # type: ignore[index, arg-type]
        model[2].weight.data *= float(np.random.rand())  # type: ignore[index, union-attr]

    model = mlp(3)
    states = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # type: ignore[union-attr, index]
    first, second = (initlab.compare_inits(model, X, Y, {"mine": mine}, 2).signals for _ in range(2))
    assert (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()) == states  # type: ignore[union-attr, index]
    assert first.forward_var.tolist() == second.forward_var.tolist()
    assert first.forward_var[0] != first.forward_var[3]


def test_a_scheme_that_fails_has_a_row_that_says_why_and_the_others_go_on() -> None:
    def broken(model: nn.Module) -> None:
        raise KeyError("no such layer")

    schemes: dict[str, Any] = {
        "broken": broken,
        "other": lambda model: nn.Linear(3, 3),
        "longer": lambda model: model.append(nn.Linear(10, 10)),
        "wrong": lambda normals, layer: normals[:1],
        "absent": lambda normals, layer: normals * layer.no_such_fan,
        "he": "he",
    }
    comparison = initlab.compare_inits(mlp(4), X, Y, schemes, 2)
    errors = {name: row["error"] for name, row in rows(comparison).items()}
    assert errors["broken"] == "it raised KeyError: 'no such layer'"
    assert "another model" in errors["other"]
    assert "changed the names or shapes of parameters" in errors["longer"]
    assert "gave no weight" in errors["wrong"]
    assert errors["absent"].startswith("it raised AttributeError: 'LayerShape' object has no attribute")
    assert comparison.best == "he"
    assert rows(comparison)["broken"]["verdict"] == ""
    assert "`broken` failed: it raised KeyError" in str(comparison)
    with pytest.raises(UserError, match=r"^schemes: none of 1 can initialise this model \(got, of broken: it raised"):
        initlab.compare_inits(mlp(4), X, Y, {"broken": broken}, 2)


def test_the_cost_is_a_pass_to_measure_and_one_for_the_loss_per_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = 0

    class Counting(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            nonlocal passes
            passes += 1
            return super().forward(x)

    # Vanishing throughout, where `inspect` would train copies.
    comparison = initlab.compare_inits(Counting(*mlp(30)), X, Y, ["xavier", "lecun"], 3)
    assert set(comparison.verdicts.verdict) == {"vanishing"}
    draws, schemes = 6, 2
    # And a run that checks the batch.
    assert passes == 1 + draws * 2 + schemes
    assert comparison.cost.startswith("6 measures and 2 predictions took ")


@pytest.mark.parametrize(
    ("changes", "best", "words"),
    [
        ({"a": ("healthy", 0.1), "b": ("healthy", 3.0)}, "a", "`a`, of 2 that were judged healthy, changes signals"),
        ({"a": ("healthy", 0.1), "b": ("healthy", 0.9)}, None, "`a` and `b` cannot be told apart"),
        ({"a": ("healthy", 5.0), "b": ("vanishing", 0.0)}, "a", "`a` alone of 2 was judged healthy, with 5 of 5 seeds"),
        (
            {"a": ("vanishing", 5.0), "b": ("not_judged", 0.0)},
            None,
            "healthy with every seed: `a` vanishing, `b` not judged",
        ),
        ({"a": ("uneven", 0.0), "b": ("vanishing", 0.0)}, "a", "`a` alone of 2 was judged uneven"),
        ({"a": ("healthy", 4.0), "b": ("uneven", 0.0)}, "a", "`a` alone of 2 was judged healthy"),
    ],
)
def test_the_best_is_judged_healthy_and_changes_least(
    changes: dict[str, tuple[str, float]], best: str | None, words: str
) -> None:
    chosen, why = best_of(*frames(changes), labelled=True)
    assert chosen == best
    assert words in why


def frames(changes: dict[str, tuple[str, float]], forecast: str = "", calibrated: bool = True) -> tuple[Any, Any]:
    draws = [
        {"scheme": name, "verdict": verdict, "forward_change": -change + 0.01 * seed, "backward_change": 0.0}
        for name, (verdict, change) in changes.items()
        for seed in range(5)
    ]
    said = {"reason": "…", "forecast": forecast, "calibrated": calibrated}
    table = pd.DataFrame([{"scheme": name, "verdict": verdict, **said} for name, (verdict, _) in changes.items()])
    return table, pd.DataFrame(draws)


def test_chance_over_seeds_and_a_single_seed_tell_nothing_apart() -> None:
    table, draws = frames({"a": ("healthy", 0.0), "b": ("healthy", 0.0)})
    # 2 more on average, with a spread of 4 over five seeds: 2 < 2.776 * 4.18 / sqrt(5).
    draws.loc[draws.scheme == "b", "forward_change"] = [0.0, 0.0, 0.0, 0.0, -10.0]
    assert best_of(table, draws, labelled=True)[0] is None
    draws.loc[draws.scheme == "b", "forward_change"] = [-1.0, -1.5, -2.0, -2.5, -3.0]
    assert best_of(table, draws, labelled=True)[0] == "a"
    chosen, why = best_of(table, draws.drop_duplicates("scheme"), labelled=True)
    assert chosen is None and "one seed does not tell a scheme from chance" in why


def test_a_forecast_that_knows_such_nets_may_veto() -> None:
    changes = {"a": ("healthy", 0.0), "b": ("vanishing", 0.0)}
    chosen, why = best_of(*frames(changes, "diverged"), labelled=True)
    assert chosen is None and "not expected to train at this learning rate: `a` diverged" in why
    assert best_of(*frames(changes, "diverged", calibrated=False), labelled=True)[0] == "a"


def test_without_labels_the_sentence_says_what_was_not_judged() -> None:
    comparison = initlab.compare_inits(mlp(6), X, schemes=["he", "xavier"], seeds=2)
    assert "without labels gradients are not judged" in comparison.why
    assert comparison.table.backward_factor.isna().all()


def test_what_was_not_seen_is_not_called_healthy() -> None:
    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
            return torch.from_numpy(x.numpy() @ w.numpy())

        @staticmethod
        def backward(ctx: Any, dy: Tensor) -> Any:
            return torch.zeros(32, 32), torch.zeros(32, 32)

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.last = nn.Parameter(torch.randn(32, 32)), nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(Opaque.apply(x, self.table))  # type: ignore[no-any-return]

    comparison = initlab.compare_inits(Hidden(), X, Y, ["as_is"], 1)
    assert comparison.table.verdict.tolist() == ["not_judged"]
    assert (comparison.best, comparison.healthy) == (None, [])


def test_text_fits_a_terminal_and_html_is_escaped(thirty: Comparison) -> None:
    text = str(thirty)
    assert max(map(len, text.splitlines())) <= 100
    assert text.startswith("no best: `tenth` and `he` cannot be told apart")
    assert "xavier   vanishing 2/2" in text
    name = "<b>&\x1b" + "long" * 10
    comparison = initlab.compare_inits(mlp(3), X, Y, {name: "he", "xavier": "xavier"}, 1)
    html = comparison._repr_html_()
    assert "&lt;b&gt;&amp;" in html and "<b>&" not in html
    assert "\x1b" not in str(comparison) and max(map(len, str(comparison).splitlines())) <= 100


Wrong = tuple[dict[str, Any], str]
WRONG: list[Wrong] = [
    (
        {"schemes": ["he", "xaver"]},
        r"^schemes: no such scheme \(got 'xaver'; did you mean 'xavier'\?\); allowed: as_is,",
    ),
    ({"schemes": ["he", "he"]}, r"^schemes: 2 of the same name \(got 'he'\)"),
    ({"schemes": []}, r"^schemes: none to compare \(got \[\]\)"),
    ({"schemes": [3]}, r"^schemes: not a scheme \(got 3\)"),
    ({"seeds": 0}, r"^seeds: out of range \(got 0\); allowed: whole numbers from 1 on"),
    ({"lr": 0.0}, r"lr: out of range \(got 0.0\); allowed: above 0"),
    ({"labels": Y + 3}, r"^labels: out of range \(got 3 to 12\); allowed: 0 to 9"),
    ({"labels": Y - 1}, r"^labels: out of range \(got -1 to 8\)"),
    ({"labels": Y.float()}, r"^labels: the labels do not fit .* \(got torch.float32 of shape \(32,\)"),
    ({"labels": Y.tolist()}, r"^labels: no tensor \(got list\); give torch.tensor"),
    ({"labels": Y[:5]}, r"^labels: the labels do not fit"),
    ({"labels": 0 * Y}, r"^labels: one class only \(got 32 of class 0\)"),
    ({"labels": 0 * Y, "model": nn.Linear(32, 1)}, r"^labels: the output \(32, 1\) has one class"),
    ({"batch": X / 0}, r"^batch: 1024 of 1024 numbers are NaN or infinite"),
    ({"batch": X[:, :5]}, r"^batch: the model does not take it \(got RuntimeError: .*32x5 and 32x32"),
    ({"batch": X.numpy()}, r"^batch: no tensor of examples \(got ndarray\)"),
    ({"model": nn.Linear(32, 10, device="meta")}, r"^model: has no numbers \(got `weight` on the device meta\)"),
    ({"model": nn.ReLU()}, r"^model: nothing to initialise \(got ReLU without parameters\)"),
    ({"loss": lambda output, labels: output.mean()[None]}, r"^loss: the loss has a wrong shape \(got \(1,\) for 32"),
    ({"loss": lambda output, labels: 3.0}, r"^loss: the loss gives no tensor \(got float\)"),
    ({"loss": lambda output, labels: output, "labels": None}, r"^loss: without labels"),
]


@pytest.mark.parametrize(("wrong", "line"), WRONG)
def test_wrong_use_is_one_clear_line(wrong: dict[str, Any], line: str) -> None:
    arguments = {"model": mlp(3), "batch": X, "labels": Y, "schemes": ["he", "xavier"], "seeds": 1, **wrong}
    with pytest.raises(UserError, match=line) as caught:
        initlab.compare_inits(**arguments)
    assert "\n" not in str(caught.value)


def test_two_inspections_give_the_ratios_of_their_tables() -> None:
    nets = [mlp(6).double() for _ in range(2)]
    a, b = (initlab.inspect(initlab.init_(net, name), X, Y) for net, name in zip(nets, ("xavier", "he"), strict=True))
    ratios = a.against(b)
    # The forward signal halves per layer, whatever the loss.
    assert ratios.table.forward_ratio.tolist() == pytest.approx([2.0**-layer for layer in range(1, 7)])
    assert ratios.table.backward_ratio.tolist() == pytest.approx((a.table.backward_var / b.table.backward_var).tolist())
    assert ratios.table.weight_ratio.tolist() == pytest.approx([0.5**0.5] * 6)
    assert ratios.sentence.startswith(
        "A's signals are ×0.5 at `0` and ×0.0156 at `10` of B's, ×0.5 from layer to layer"
    )
    assert ratios.sentence in str(ratios) and "<table" in ratios._repr_html_()
    with pytest.raises(
        UserError, match=r"^against: not two initialisations of one net \(got `6` of shape \(10, 32\) ag"
    ):
        initlab.inspect(mlp(4), X, Y).against(a)
