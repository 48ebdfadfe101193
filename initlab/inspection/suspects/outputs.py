"""The output as a suspect: probabilities that are given to a loss which takes logits."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from initlab.inspection.suspects.suspect import Suspect
from initlab.nets.autograd_graph import last_function
from initlab.nets.undisturbed import Batch, first_tensor, run_model, to_model, untouched
from initlab.signal.probe import Loss
from initlab.signal.start import mean_loss

# What autograd calls an output of probabilities, and what makes logits of it again.
PROBABILITIES = {"Softmax": "log", "Sigmoid": "logit"}
# Of what the loss is at the start: a perfect output that has more is none that the loss was made for.
FLOOR = 0.1


def odd_outputs(model: nn.Module, batch: Batch, labels: Any, loss: Loss | None) -> Iterator[Suspect]:
    """A softmax or sigmoid at the end whose loss stays high even where every probability is as the labels say.

    The cross-entropy of ten probabilities taken for logits is never below ln(e + 9) - 1 = 1.461.
    """
    if not isinstance(labels, Tensor):
        return
    with untouched(model, backward=True):
        inputs, targets = to_model(model, batch, labels)
        output = first_tensor(run_model(model, inputs))
        kind = last_function(output.grad_fn)
        perfect = perfect_output(output.detach(), targets, kind)
        if perfect is None:
            return
        start, least = mean_loss(output.detach(), targets, loss), mean_loss(perfect, targets, loss)
    if least > FLOOR * start:
        words = (
            f"the output is that of a {kind.lower()}, and the loss takes it for logits: even a perfect output has a "
            f"loss of {least:.3g} (it starts at {start:.3g}); end the model before its {kind.lower()}"
        )
        # The hook takes the function at the end back, as leaving it out in the model's own code does.
        code = f"model.register_forward_hook(lambda module, inputs, output: output.{PROBABILITIES[kind]}())"
        yield Suspect("output", (), words, code)


def perfect_output(output: Tensor, labels: Tensor, kind: str) -> Tensor | None:
    """The probabilities that the labels name, one per class or the labels themselves; None where there are none."""
    if kind == "Softmax" and not labels.is_floating_point() and labels.shape == output.shape[:-1]:
        known = labels.clamp(0, output.shape[-1] - 1)
        return nn.functional.one_hot(known, output.shape[-1]).to(output.dtype)
    if kind == "Sigmoid" and labels.shape == output.shape and bool(((labels == 0) | (labels == 1)).all()):
        return labels.to(output.dtype)
    return None
