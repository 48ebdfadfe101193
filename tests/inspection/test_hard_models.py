"""Models that do what few do: they are measured, or refused in one line; where theory can't follow, that is said."""

from collections import UserDict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import initlab

X, Y = torch.randn(6, 8, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 3


def by_name(inspection: initlab.Inspection) -> dict[str, Any]:
    return {row.name: row for row in inspection.table.set_index("name", drop=False).itertuples(index=False)}


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.inner, self.head, self.reentrant = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3), reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        if self.reentrant is None:
            return self.head(self.inner(x))
        return self.head(checkpoint(self.inner, x, use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_model_is_measured_as_the_plain_one(reentrant: bool) -> None:
    plain, checked = (initlab.inspect(Checkpointed(kind), X, Y).table for kind in (None, reentrant))
    for column in ("forward_var", "backward_var", "weight_grad_rms"):
        assert checked[column].tolist() == plain[column].tolist()


def test_a_layer_that_returns_its_bias_beside_y_is_measured_and_scaled() -> None:
    class WithBias(nn.Linear):
        def forward(self, input: Tensor) -> Any:
            return F.linear(input, self.weight), self.bias

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = WithBias(8, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            y, bias = self.layer(x)
            return self.head(y + bias)

    model = Net()
    row = by_name(initlab.inspect(model, X, Y))["layer"]
    assert row.forward_var == pytest.approx(F.linear(X, model.layer.weight).var(correction=0).item(), rel=1e-5)
    initlab.lint(model, X)
    initlab.init_(model, "lsuv", batch=X)
    assert F.linear(X, model.layer.weight).var(correction=0).item() == pytest.approx(1, rel=0.01)


def test_an_expert_that_gets_no_token_is_unused_and_the_others_are_judged() -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts, self.head = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)]), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            expert, y = torch.tensor([0, 1, 0, 1, 0, 1]), torch.zeros_like(x)
            for number, layer in enumerate(self.experts):
                y[expert == number] = layer(x[expert == number])
            return self.head(y)

    model = Routed()
    inspection = initlab.inspect(model, X, Y)
    rows = by_name(inspection)
    assert inspection.verdict == "healthy"
    assert (rows["experts.2"].status, rows["experts.2"].calls) == ("unused", 0)
    expected = model.experts[0](X[::2]).var(correction=0).item()
    assert rows["experts.0"].forward_var == pytest.approx(expected, rel=1e-5)
    initlab.init_(model, "lsuv", batch=X)


class Force(nn.Module):
    """The output is the gradient of an energy by the positions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.requires_grad_()
        return torch.autograd.grad(self.last(self.first(x).tanh()).sum(), x, create_graph=True)[0]


class Meta(nn.Module):
    """One step of gradient descent on the layer's own weight, inside forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.linear(x, self.layer.weight).square().mean()
        (gradient,) = torch.autograd.grad(inner, self.layer.weight, create_graph=True)
        return self.layer(x) + F.linear(x, self.layer.weight - 0.1 * gradient)


@pytest.mark.parametrize("model", [Force(), Meta()])
def test_models_that_compute_gradients_in_forward_are_measured(model: nn.Module) -> None:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return output.square().mean(1)

    inspection = initlab.inspect(model, X, Y, loss=loss)
    assert inspection.table.forward_var.gt(0).all() and inspection.table.weight_grad_rms.gt(0).all()
    assert len(initlab.inspect(model, X).table) == len(inspection.table)


def test_complex_layers_have_moments_of_their_modulus() -> None:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(8, 8, dtype=torch.complex64), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(torch.complex(x, -x)).abs())

    torch.manual_seed(0)
    model = Complex()
    inspection = initlab.inspect(model, X, Y)
    y = model.layer(torch.complex(X, -X)).detach()
    row = by_name(inspection)["layer"]
    assert row.forward_var == pytest.approx(y.var(correction=0).item(), rel=1e-5)
    assert row.forward_mean == pytest.approx(y.mean().abs().item(), rel=1e-5)
    assert row.weight_var == pytest.approx(model.layer.weight.var(correction=0).item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(X), Y), model.layer.weight)
    assert row.weight_grad_rms == pytest.approx(gradient.abs().square().mean().sqrt().item(), rel=1e-4)


def test_an_exported_program_is_refused_in_one_line_that_says_what_to_give() -> None:
    program = torch.export.export(nn.Sequential(nn.Linear(8, 3)), (X,))
    with pytest.raises(ValueError, match=r"takes an nn.Module \(got ExportedProgram\); of an exported program its"):
        initlab.inspect(program, X)  # type: ignore[arg-type]


def test_where_only_recording_fails_the_measurement_is_given_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counts(nn.Module):
        """A model that cannot run under the recorder of operations, as one whose code looks at its own stack."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            from initlab.signal.theory.recorder import Recorder

            stack = [torch._C._get_function_stack_at(i) for i in range(torch._C._len_torch_function_stack())]
            if any(isinstance(mode, Recorder) for mode in stack):
                raise KeyError("no recording here")
            return self.layer(x)

    model = Counts()
    inspection = initlab.inspect(model, X, Y)
    assert inspection.table.forward_var.iloc[0] == pytest.approx(model(X).var(correction=0).item(), rel=1e-5)
    # The weights are drawn again all the same.
    assert set(inspection.table.basis) == {"redrawn"}
    assert initlab.inspect(model, X, Y, redraws=0).table.forward_predicted.isna().all()
    assert "recording this model failed" in " ".join(str(inspection).split())


def test_models_that_give_their_loss_first_and_dicts_of_losses_are_measured() -> None:
    class LossFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 3)

        def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.layer(x)
            return F.cross_entropy(logits, labels), logits

    model = LossFirst()
    inspection = initlab.inspect(model, {"x": X, "labels": Y}, Y)
    (gradient,) = torch.autograd.grad(F.cross_entropy(model.layer(X), Y), model.layer.weight)
    assert inspection.table.weight_grad_rms.iloc[0] == pytest.approx(gradient.square().mean().sqrt().item(), rel=1e-5)


class Encoder(nn.Module):
    """As Hugging Face's: arguments by name, a dict-like batch, a loss of its own where labels are among them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.words, self.encoder, self.head = nn.Embedding(50, 16), nn.TransformerEncoder(layer, 2), nn.Linear(16, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Any:
        x = self.encoder(self.words(input_ids), src_key_padding_mask=attention_mask == 0)
        logits = self.head(x.mean(1))
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


def test_a_padded_batch_of_named_arguments_goes_through_everything() -> None:
    ids = torch.arange(48).reshape(4, 12) % 50
    mask = torch.ones_like(ids)
    mask[0, 8:] = 0
    batch, labels = UserDict(input_ids=ids, attention_mask=mask), torch.arange(4) % 3
    model = Encoder()
    inspection = initlab.inspect(model, batch, labels)
    # Attention's fast path, which calls no module, is off.
    assert inspection.table.calls.gt(0).all() and not inspection.unjudged
    own = initlab.inspect(model, UserDict(batch, labels=labels))
    assert own.table.backward_var.tolist() == pytest.approx(inspection.table.backward_var.tolist(), rel=1e-4)
    initlab.lint(model, batch)
    initlab.predict(model, batch=batch, labels=labels)
    initlab.init_(model, "lsuv", batch=batch)
    assert torch.backends.mha.get_fastpath_enabled()


def test_scripted_and_exported_models_go_through_everything() -> None:
    plain = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    exported = torch.export.export(plain, (X,)).module()
    seen = initlab.inspect(exported, X, Y)
    assert seen.table.forward_var.tolist() == initlab.inspect(plain, X, Y).table.forward_var.tolist()
    for model in (exported, torch.jit.script(plain)):
        initlab.lint(model, X)
        initlab.lint(model)
        initlab.predict(model, batch=X, labels=Y)
        initlab.init_(model, "lsuv", batch=X)


def test_pictures_of_several_sizes_and_dicts_of_losses_as_detectors_have_them() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body, self.box = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, images: list[Tensor], targets: list[Tensor]) -> dict[str, Tensor]:
            boxes = torch.stack([self.box(self.body(image).relu().mean((1, 2))) for image in images])
            return {"box": (boxes - torch.stack(targets)).square().mean(), "size": boxes.square().mean()}

    model, images = Detector(), [torch.rand(3, 9, 9), torch.rand(3, 8, 9)]
    batch = (images, [torch.ones(2), torch.zeros(2)])
    inspection = initlab.inspect(model, batch)
    (gradient,) = torch.autograd.grad(sum(model(*batch).values()), model.box.weight)
    row = by_name(inspection)["box"]
    assert row.weight_grad_rms == pytest.approx(gradient.square().mean().sqrt().item(), rel=1e-4)
    assert by_name(inspection)["body"].calls == 2


def test_packed_sequences_go_through_everything() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.gru, self.head = nn.Embedding(50, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 3)

        def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(self.words(ids), lengths, batch_first=True)
            return self.head(self.gru(packed)[1][0])

    model, batch = Tagger(), (torch.arange(20).reshape(4, 5), torch.tensor([5, 3, 3, 1]))
    inspection = initlab.inspect(model, batch, Y[:4], redraws=0)
    assert inspection.steps.step.tolist() == [0, 1, 2, 3, 4]
    assert inspection.judged_share == 1.0 and not inspection.notes
    initlab.lint(model, batch)


@pytest.mark.parametrize("look", [initlab.inspect, initlab.lint, lambda m, x: initlab.predict(m, batch=x)])
def test_lazy_models_are_refused_in_one_line(look: Any) -> None:
    with pytest.raises(ValueError, match=r"0\.weight is not there yet \(lazy\); run the model on a batch first"):
        look(nn.Sequential(nn.LazyLinear(3)), X)
