"""Every way of applying a weight is a row with the values of independent hooks; all else is named."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from initlab import forecast, inspect
from initlab.signal.probe import COLUMNS, measure
from initlab.signal.survey import Survey, survey

X = torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.arange(6) % 3


def rows_of(model: nn.Module, x: Any = X, y: Any = Y) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in survey(model.double(), x, y).layers}


def check(row: dict[str, Any], y: Tensor, loss: Tensor, weight: Tensor, rows: slice = slice(None)) -> None:
    """A row against the tensor y, its gradient and the weight's, by plain autograd of the summed loss."""
    dy, dw = torch.autograd.grad(loss, [y, weight], retain_graph=True)
    columns = {
        "forward_mean": y.mean(), "forward_var": y.var(correction=0),
        "backward_mean": dy.mean(), "backward_var": dy.var(correction=0),
        "weight_var": weight[rows].var(correction=0), "weight_grad_rms": (dw[rows] / len(Y)).square().mean().sqrt(),
    }  # fmt: skip
    for column, value in columns.items():
        assert row[column] == pytest.approx(value.item(), rel=1e-9, abs=1e-18), column


def total(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, Y, reduction="sum")


class Attention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True, **options), nn.Linear(8, 3)
        self.other = options.get("kdim") is not None

    def forward(self, x: Tensor) -> Tensor:
        key = x[..., : self.attention.kdim] if self.other else x
        return self.head(self.attention(x, key, key)[0].mean(1))


def test_query_key_and_value_of_packed_attention_are_rows() -> None:
    model = Attention().double()
    rows, a = rows_of(model), model.attention
    assert list(rows) == [*(f"attention.in_proj_weight.{p}" for p in "qkv"), "attention.out_proj", "head"]
    # Attention written out, two heads of four.
    parts = [F.linear(X, w, b) for w, b in zip(a.in_proj_weight.chunk(3), a.in_proj_bias.chunk(3), strict=True)]
    q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in parts)
    mixed = ((q @ k.transpose(-1, -2) / 2).softmax(-1) @ v).transpose(1, 2).flatten(2)
    out = F.linear(mixed, a.out_proj.weight, a.out_proj.bias)
    loss = total(model.head(out.mean(1)))
    for number, (part, y) in enumerate(zip("qkv", parts, strict=True)):
        row = rows[f"attention.in_proj_weight.{part}"]
        check(row, y, loss, a.in_proj_weight, slice(8 * number, 8 * number + 8))
        assert (row["part"], row["shape"], row["fan_in"], row["fan_out"], row["op"]) == (part, (8, 8), 8, 8, "linear")
    check(rows["attention.out_proj"], out, loss, a.out_proj.weight)


@pytest.mark.parametrize("options", [{"kdim": 3, "vdim": 3}, {"bias": False}])
def test_attention_in_its_other_forms_has_a_row_for_each_matrix(options: dict[str, Any]) -> None:
    model = Attention(**options).double()
    names = [row["name"].split(".")[1] for row in survey(model, X, Y).layers[:3]]
    kdim = "kdim" in options
    assert names == ([f"{p}_proj_weight" for p in "qkv"] if kdim else ["in_proj_weight"] * 3)
    assert not survey(model, X, Y).unjudged


def test_cross_attention_has_the_rows_of_the_chunks_that_enter() -> None:
    class Cross(Attention):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.attention(x, x + 1, 2 * x)[0].mean(1))

    model = Cross().double()
    rows, weights, biases = rows_of(model), model.attention.in_proj_weight, model.attention.in_proj_bias
    inputs = (X, X + 1, 2 * X)
    for part, x, w, b in zip("qkv", inputs, weights.chunk(3), biases.chunk(3), strict=True):
        expected = F.linear(x, w, b).var(correction=0).item()
        assert rows[f"attention.in_proj_weight.{part}"]["forward_var"] == pytest.approx(expected, rel=1e-9)


class Bare(nn.Module):
    """One bare matrix or filter, applied by a function, and a head."""

    def __init__(self, shape: tuple[int, ...], apply: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight_of_mine, self.head, self.apply_it = nn.Parameter(torch.randn(shape) / 4), nn.Linear(8, 3), apply

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.apply_it(x, self.weight_of_mine).mean(1))


FUNCTIONS: dict[str, tuple[tuple[int, ...], Any, tuple[float, float, int], str]] = {
    "linear": ((8, 8), lambda x, w: F.linear(x, w), (8, 8, 8), "linear"),
    "matmul": ((8, 8), lambda x, w: x @ w, (8, 8, 8), "linear"),
    "from the left": ((7, 5), lambda x, w: w @ x, (5, 7, 7), "linear"),
    "transposed": ((8, 8), lambda x, w: x @ w.t().contiguous(), (8, 8, 8), "linear"),
    "cast": ((8, 8), lambda x, w: x @ w.float().double(), (8, 8, 8), "linear"),
    "normalised": ((8, 8), lambda x, w: F.linear(x, w / w.norm(dim=1, keepdim=True)), (8, 8, 8), "linear"),
    "addmm": ((8, 8), lambda x, w: torch.addmm(x[0, 0], x.flatten(0, 1), w).view_as(x), (8, 8, 8), "linear"),
    "experts": ((5, 8, 8), lambda x, w: torch.bmm(x.transpose(0, 1), w).transpose(0, 1), (8, 8, 8), "linear"),
    "einsum": ((2, 8, 4), lambda x, w: torch.einsum("btc,hcd->bthd", x, w).flatten(2), (8, 8, 8), "linear"),
    "conv1d": ((8, 4, 3), lambda x, w: F.conv1d(x.mT, w, padding=1, groups=2).mT, (12, 12, 8), "conv"),
    "aten": ((8, 8), lambda x, w: torch.ops.aten.linear.default(x, w), (8, 8, 8), "linear"),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_bare_weight_is_a_row_however_it_is_applied(name: str) -> None:
    shape, apply, fans, op = FUNCTIONS[name]
    model = Bare(shape, apply).double()
    row = rows_of(model)["weight_of_mine"]
    w = model.weight_of_mine
    y = apply(X, w)
    dy, dw = torch.autograd.grad(total(model.head(y.mean(1))), [y, w])
    assert row["forward_var"] == pytest.approx(y.var(correction=0).item(), rel=1e-9)
    assert row["backward_var"] == pytest.approx(dy.var(correction=0).item(), rel=1e-6)
    if name != "normalised":
        assert row["weight_var"] == pytest.approx(w.var(correction=0).item(), rel=1e-6)
        assert row["weight_grad_rms"] == pytest.approx((dw / 6).square().mean().sqrt().item(), rel=1e-6)
    else:
        ran = w / w.norm(dim=1, keepdim=True)
        assert row["weight_var"] == pytest.approx(ran.var(correction=0).item(), rel=1e-9)
    assert ((row["fan_in"], row["fan_out"], row["width"]), row["op"], row["calls"]) == (fans, op, 1)


def test_a_convolution_that_is_a_matrix_is_named_by_its_module() -> None:
    class Conv1D(nn.Module):
        """As in GPT-2: (in, out)."""

        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(8, 3)), nn.Parameter(torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(self.bias, x.view(-1, 8), self.weight).view(6, 5, 3).mean(1)

    seen = survey(nn.Sequential(Conv1D()).double(), X, Y)
    (row,) = seen.layers
    assert (row["name"], row["fan_in"], row["fan_out"], row["width"]) == ("0", 8, 3, 3)
    assert [(p["name"], p["role"], p["layer"]) for p in seen.parameters] == [
        ("0.weight", "weight", "0"),
        ("0.bias", "bias", "0"),
    ]


def test_bilinear_layers_are_rows() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Bilinear(8, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.mix(x[:, 0], x[:, 1])

    model = Net().double()
    y = model.mix(X[:, 0], X[:, 1])
    check(rows_of(model)["mix"], y, total(y), model.mix.weight)


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.cell, self.head = layer, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


def test_each_gate_of_an_lstm_is_measured_at_every_step() -> None:
    torch.manual_seed(0)
    model = Recurrent(nn.LSTM(8, 4, batch_first=True), 4).double()
    seen, lstm = survey(model, X, Y), model.cell
    h, c, zs = torch.zeros(6, 4).double(), torch.zeros(6, 4).double(), []
    for t in range(5):
        zs.append(
            F.linear(X[:, t], lstm.weight_ih_l0, lstm.bias_ih_l0) + F.linear(h, lstm.weight_hh_l0, lstm.bias_hh_l0)
        )
        i, f, g, o = zs[-1].chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    loss = total(model.head(h))
    grads = torch.autograd.grad(loss, [*zs, lstm.weight_hh_l0], retain_graph=True)
    z, dz = torch.stack(zs), torch.stack(grads[:5])
    rows = {row["name"]: row for row in seen.layers}
    for number, gate in enumerate(("input", "forget", "cell", "output")):
        part = slice(4 * number, 4 * number + 4)
        for weight in ("weight_ih_l0", "weight_hh_l0"):
            row = rows[f"cell.{weight}.{gate}"]
            assert row["forward_var"] == pytest.approx(z[..., part].var(correction=0).item(), rel=1e-9)
            assert row["backward_var"] == pytest.approx(dz[..., part].var(correction=0).item(), rel=1e-9)
            assert (row["op"], row["part"], row["fan_out"]) == ("lstm", gate, 4)
        hidden = rows[f"cell.weight_hh_l0.{gate}"]
        assert hidden["weight_grad_rms"] == pytest.approx((grads[5][part] / 6).square().mean().sqrt().item(), rel=1e-9)
    for step, row in enumerate(seen.steps):
        assert (row["name"], row["step"]) == ("cell.l0", step)
        assert row["forward_var"] == pytest.approx(z[step].var(correction=0).item(), rel=1e-9)
        assert row["backward_var"] == pytest.approx(dz[step].var(correction=0).item(), rel=1e-9)
    assert seen.judged_share == 1.0 and not seen.unjudged


def test_cells_called_in_a_loop_have_a_step_per_call() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRUCell(8, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = x.new_zeros(6, 4)
            for t in range(5):
                h = self.cell(x[:, t], h)
            return self.head(h)

    seen = survey(Loop().double(), X, Y)
    assert [(row["name"], row["step"]) for row in seen.steps] == [("cell", t) for t in range(5)]
    assert [row["part"] for row in seen.layers[:6]] == ["reset", "reset", "update", "update", "new", "new"]
    assert all(row["calls"] == 5 and row["backward_var"] > 0 for row in seen.layers[:6])


def test_a_state_of_zero_at_the_only_step_leaves_its_weight_out() -> None:
    model = Recurrent(nn.GRU(8, 4, batch_first=True), 4).double()
    seen = survey(model, X[:, :1], Y)
    assert [row["name"] for row in seen.layers] == [
        *(f"cell.weight_ih_l0.{g}" for g in ("reset", "update", "new")),
        "head",
    ]
    assert seen.unjudged == [("cell.weight_hh_l0", "it takes no part in this pass")]
    assert inspect(model.float(), X[:, :1].float(), Y).healthy


class Roles(nn.Module):
    """A user's own norm, a scale, positions, a class token, an embedding that is tied, PReLU and a gate."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.norm, self.act = nn.Embedding(7, 8), nn.LayerNorm(8), nn.PReLU()
        self.gamma, self.beta = nn.Parameter(torch.full((8,), 1.5)), nn.Parameter(torch.full((8,), 0.25))
        self.positions, self.token = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.randn(1, 1, 8))
        self.scale, self.unused = nn.Parameter(torch.full((), 1e-6)), nn.Parameter(torch.ones(3))

    def forward(self, ids: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(ids), -1, -1), self.words(ids)], 1) + self.positions
        x = x + self.scale * self.act(x)
        x = (x - x.mean(-1, keepdim=True)) * self.gamma + self.beta
        return F.linear(self.norm(x), self.words.weight).mean(1)


def test_parameters_that_are_no_layers_have_their_role_and_what_comes_out() -> None:
    model, ids, labels = Roles().double(), torch.arange(30).reshape(6, 5) % 7, torch.arange(6) % 7
    seen = survey(model, ids, labels)
    parameters = {row["name"]: row for row in seen.parameters}
    assert {name: row["role"] for name, row in parameters.items()} == {
        **{"words.weight": "embedding", "norm.weight": "gain", "norm.bias": "shift", "act.weight": "slope"},
        **{"gamma": "gain", "beta": "shift", "positions": "shift", "token": "joined", "scale": "gain", "unused": ""},
    }
    assert [(row["name"], row["op"]) for row in seen.layers] == [("words", "linear")]
    x = torch.cat([model.token.expand(6, -1, -1), model.words(ids)], 1) + model.positions
    scaled = model.scale * F.prelu(x, model.act.weight)
    x = x + scaled
    gained = (x - x.mean(-1, keepdim=True)) * model.gamma
    loss = F.cross_entropy(F.linear(model.norm(gained + model.beta), model.words.weight).mean(1), labels)
    dy, dgamma = torch.autograd.grad(loss, [gained, model.gamma])
    row = parameters["gamma"]
    assert row["forward_var"] == pytest.approx(gained.var(correction=0).item(), rel=1e-9)
    assert row["backward_var"] == pytest.approx(36 * dy.var(correction=0).item(), rel=1e-9)
    assert row["weight_grad_rms"] == pytest.approx(dgamma.square().mean().sqrt().item(), rel=1e-9)
    assert (row["value_mean"], row["value_var"], row["numel"], row["op"]) == (1.5, 0.0, 8, "mul")
    assert parameters["scale"]["forward_var"] == pytest.approx(scaled.var(correction=0).item(), rel=1e-9)
    assert seen.unjudged == [("unused", "it takes no part in this pass")]
    assert seen.judged_share == pytest.approx(1 - 3 / sum(p.numel() for p in model.parameters()))


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm"])
def test_the_weight_that_runs_is_the_row_s(kind: str, old: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Flatten(), nn.Linear(40, 3)).double()
    getattr(nn.utils if old else nn.utils.parametrizations, kind)(model[0])
    nn.init.normal_(model[0].weight, std=9.0) if old else None
    seen = survey(model, X, Y)
    ran: list[Tensor] = []
    hook = model[0].register_forward_hook(lambda m, i, y: ran.append(m.weight.detach()))
    # The hook of old spectral norm takes a step of its power method where it trains, and before that knows no norm.
    y = model.train(old)(X)
    hook.remove()
    assert seen.layers[0]["weight_var"] == pytest.approx(ran[0].var(correction=0).item(), rel=1e-9)
    assert seen.layers[0]["name"] == "0" and not seen.unjudged
    assert y.shape == (6, 3)


def test_the_rows_of_modules_are_the_probe_s_to_the_last_digit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(5, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.Conv1d(6, 4, 3), nn.PReLU(), nn.Flatten(), nn.Linear(16, 3)
    )
    x = X.float()
    for row, probed in zip(
        survey(model, x, Y, weight_decay=0.1).layers, measure(model, x, Y, weight_decay=0.1), strict=True
    ):
        assert str({key: row[key] for key in probed}) == str(probed)
        assert set(COLUMNS) < set(row)


class Doubled(torch.autograd.Function):
    """A function of the user's own that torch functions do not show from outside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy() @ w.numpy().T)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        return dy.new_zeros(6, 5, 8), dy.new_zeros(8, 8)


def test_what_cannot_be_seen_is_named_with_the_reason_and_never_called_healthy() -> None:
    scripted = nn.Sequential(
        torch.jit.script(nn.Sequential(nn.Linear(8, 32), nn.ReLU())), nn.Flatten(), nn.Linear(160, 3)
    )
    inspection = inspect(scripted.float(), X.float(), Y)
    assert inspection.unjudged[0] == ("0.0.weight", "torch.jit hides what its functions do")
    traced = torch.jit.trace(nn.Sequential(nn.Linear(8, 8), nn.Flatten(), nn.Linear(40, 3)), X.float())
    inspection = inspect(traced, X.float(), Y)
    assert (inspection.verdict, inspection.healthy, inspection.judged_share) == ("not_judged", False, 0.0)
    assert "torch.jit" in str(inspection) and inspection._repr_html_()
    opaque = survey(Bare((8, 8), Doubled.apply).double(), X, Y)
    assert opaque.unjudged == [("weight_of_mine", "it enters a function that cannot be looked into")]


def test_an_expert_without_a_token_is_named() -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts, self.bare = (
                nn.ModuleList([nn.Linear(8, 3), nn.Linear(8, 3)]),
                nn.Parameter(torch.ones(2, 3, 3)),
            )

        def forward(self, x: Tensor) -> Tensor:
            x = x.mean(1)
            x = torch.cat([self.experts[0](x), self.experts[1](x[:0])])
            return torch.cat([x @ self.bare[0], x[:0] @ self.bare[1]])

    seen = survey(Routed().double(), X, Y)
    assert dict(seen.unjudged) == dict.fromkeys(
        ["experts.1.weight", "experts.1.bias"], "no example of this batch came to it"
    )
    assert {row["name"]: row["calls"] for row in seen.layers} == {"experts.0": 1, "bare": 1, "experts.1": 0}
    assert math.isnan(seen.layers[-1]["forward_var"])


def test_several_outputs_are_several_ends_of_the_users_loss() -> None:
    class ActorCritic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.actor, self.critic = nn.Linear(8, 8), nn.Linear(8, 3), nn.Linear(8, 1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x = self.body(x.mean(1)).tanh()
            return {"actor": self.actor(x), "critic": self.critic(x)}

    def loss(output: Any, labels: Tensor) -> Tensor:
        return F.cross_entropy(output["actor"], labels, reduction="none") + output["critic"].square().mean(1)

    model = ActorCritic().double()
    rows = {row["name"]: row for row in survey(model, X, Y, loss=loss).layers}
    y = model.body(X.mean(1))
    out = {"actor": model.actor(y.tanh()), "critic": model.critic(y.tanh())}
    check(rows["body"], y, loss(out, Y).sum(), model.body.weight)
    check(rows["critic"], out["critic"], loss(out, Y).sum(), model.critic.weight)
    assert inspect(model, X, Y, loss=loss).table.backward_var.tolist() == [row["backward_var"] for row in rows.values()]
    assert forecast(model, X, Y, lr=0.1, loss=loss)
    # A loss of one tensor takes the first.
    first = {row["name"]: row for row in survey(model, X, Y, loss=F.cross_entropy).layers}
    check(first["actor"], out["actor"], total(out["actor"]), model.actor.weight)
    assert math.isnan(first["critic"]["backward_var"])


def test_a_survey_s_share_counts_all_numbers() -> None:
    assert survey(nn.ReLU(), X.float()) == Survey([], [], [], [], 1.0)


class Latents(nn.Module):
    """As a perceiver: parameters attend to the input, through a norm of their own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.latents, self.norm, self.head = nn.Parameter(torch.randn(1, 4, 8)), nn.LayerNorm(8), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        queries = self.norm(self.latents).expand(len(x), -1, -1)
        return self.head(self.attention(queries, x, x)[0].mean(1))


def test_a_layer_applied_to_parameters_gives_a_signal_and_no_weight() -> None:
    model = Latents().double()
    seen = survey(model, X, Y)
    assert [row["calls"] for row in seen.layers] == [1] * 5
    assert {row["name"]: row["role"] for row in seen.parameters}["latents"] == "joined"
    query = F.linear(
        model.norm(model.latents), *(p[:8] for p in (model.attention.in_proj_weight, model.attention.in_proj_bias))
    )
    assert seen.layers[0]["forward_var"] == pytest.approx(query.var(correction=0).item(), rel=1e-9)
    assert not seen.unjudged


def test_what_is_merged_into_a_layer_s_weight_is_seen_with_it() -> None:
    class Merged(nn.Linear):
        def __init__(self) -> None:
            super().__init__(8, 3)
            self.a, self.b = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.zeros(3, 2))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x.mean(1), self.weight + self.b @ self.a, self.bias)

    seen = survey(nn.Sequential(Merged()).double(), X, Y)
    assert {row["name"]: (row["role"], row["layer"]) for row in seen.parameters} == {
        **dict.fromkeys(["0.weight", "0.a", "0.b"], ("weight", "0")), "0.bias": ("bias", "0")
    }  # fmt: skip
    assert [row["name"] for row in seen.layers] == ["0"]


def test_a_layer_inside_vmap_is_measured_over_all_examples() -> None:
    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.inner, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.vmap(self.inner)(x).mean(1))

    model = Mapped().double()
    y = model.inner(X)
    check(rows_of(model)["inner"], y, total(model.head(y.mean(1))), model.inner.weight)


def test_a_parameter_made_in_the_first_pass_is_a_row_and_gone_afterwards() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.late = nn.Linear(8, 3), None

        def forward(self, x: Tensor) -> Tensor:
            if self.late is None:
                self.late = nn.Parameter(torch.eye(x.shape[-1], dtype=x.dtype))
            return self.head(F.linear(x, self.late).mean(1))

    model = Late()
    rows = rows_of(model)
    assert rows["late"]["forward_var"] == pytest.approx(X.var(correction=0).item(), rel=1e-9)
    assert rows["late"]["weight_grad_rms"] > 0
    assert model.late is None and len(list(model.parameters())) == 2


def test_sparse_gradients_of_embeddings_are_measured() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(9, 8, sparse=True, max_norm=1.0), nn.Linear(8, 3)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.words(ids))

    seen = survey(Words().double(), torch.arange(6), Y)
    assert seen.parameters[0]["role"] == "embedding" and seen.parameters[0]["weight_grad_rms"] > 0
