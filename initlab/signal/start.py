"""How a model starts, from one pass: the loss as it is trained, what chance has, and how the layers are wired."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from initlab.nets.any_module import WeightLayer, layer_name, on_weight_layers
from initlab.nets.autograd_graph import Node, in_order, is_leaf, last_function, with_nodes
from initlab.nets.undisturbed import (
    Batch,
    autocast_of,
    first_tensor,
    map_tensors,
    run_model,
    tensors_in,
    to_model,
    untouched,
)
from initlab.signal.paths import Wiring, wiring_of
from initlab.signal.probe import Loss, summed_loss

# Of the probabilities that an output must hold, in nats, for it to be taken for logarithms of probabilities.
NORMALISED = 1e-3


@dataclass(frozen=True)
class Start:
    """What the first pass gives."""

    wiring: Wiring
    loss: float  # its mean as trained, in the precision that ran; NaN without labels
    chance: float  # what guessing has: ln K, or the loss at an output of zeros; NaN where that says nothing
    classes: int  # K of a loss on class labels; 0 for any other
    entropy: float  # of the labels in the batch: what their shares alone can reach; NaN without classes
    logits_rms: float  # of the output, each example's mean taken away
    strangers: tuple[nn.Parameter, ...] = ()  # at work, but none of the model's
    ending: str = ""  # autograd's name of the function that gives the output, shapes aside

    @property
    def ratio(self) -> float:
        """The loss over chance; NaN where one is not known."""
        return self.loss / self.chance


def start_of(
    model: nn.Module, batch: Batch, labels: Any = None, loss: Loss | None = None, autocast: torch.dtype | None = None
) -> Start:
    """Run the model once; it is left as it was.

    `start_of(nn.Linear(4, 10), torch.zeros(2, 4), torch.tensor([3, 7]))` has a loss near ln 10 = 2.303, its chance.

    Args:
        batch, labels, loss, autocast: as `initlab.signal.survey.survey` takes them.

    Raises:
        ValueError: the model's output holds no tensor, or the loss has a wrong shape.
    """
    layers: dict[Node, tuple[str, Node]] = {}

    def note(name: str, _: WeightLayer, inputs: tuple[Any, ...], y: Tensor) -> None:
        """Note the node of a call, and the node that made its input."""
        if y.grad_fn is not None:
            first = next((value for value in inputs if isinstance(value, Tensor)), None)
            layers[y.grad_fn] = name, None if first is None else first.grad_fn

    with torch.inference_mode(False), untouched(model, backward=True), parametrize.cached():
        inputs, targets = to_model(model, batch, labels)
        inputs, origins = with_nodes(inputs)
        with on_weight_layers(model, note), autocast_of(model, autocast):
            given = run_model(model, inputs)
        output = first_tensor(given)
        matrices = {
            id(parameter): layer_name(name)
            for name, parameter in model.named_parameters()
            if sum(size > 1 for size in parameter.shape) > 1
        }
        wiring = wiring_of([output, *tensors_in(given)], layers, matrices, origins)
        others, ending = strangers_of(model, tensors_in(given)), last_function(output.grad_fn)
        output = output.detach()
        if targets is None:
            return Start(wiring, math.nan, math.nan, 0, math.nan, spread(output), others, ending)
        with torch.no_grad():
            mean = mean_loss(given if loss else output, targets, loss)
            chance, classes = chance_of(given, targets, loss)
    shares = entropy(targets) if classes else math.nan
    return Start(wiring, mean, chance, classes, shares, spread(output), others, ending)


def strangers_of(model: nn.Module, outputs: Iterable[Tensor]) -> tuple[nn.Parameter, ...]:
    """The parameters behind some outputs that are not the model's, as of layers in a list of Python's."""
    own = {id(parameter) for parameter in model.parameters()}
    leaves = [node.variable for node in in_order(tensor.grad_fn for tensor in outputs) if is_leaf(node)]
    return tuple(leaf for leaf in leaves if isinstance(leaf, nn.Parameter) and id(leaf) not in own)


def mean_loss(output: Any, labels: Any, loss: Loss | None) -> float:
    """The loss as it is trained: cross-entropy's mean over labels, a loss of one's own over examples."""
    if loss is None:
        targets = labels[labels != -100] if isinstance(labels, Tensor) else labels
        counts = targets.numel() if not labels.is_floating_point() else len(labels)
        return float(summed_loss(output.float(), labels, None)) / max(counts, 1)
    return float(summed_loss(output, labels, loss)) / max(len(labels), 1)


def chance_of(given: Any, labels: Any, loss: Loss | None) -> tuple[float, int]:
    """What guessing has, and the number of classes: the loss at logits of zero, which is ln K for cross-entropy.

    An output of log-probabilities, as of `log_softmax`, has ln K too. NaN for a loss that zeros do not fit, or that
    is 0 there, as where the labels are zeros themselves.
    """
    output = first_tensor(given).detach()
    named = isinstance(labels, Tensor) and not labels.is_floating_point()
    axis = 1 if output.dim() > 1 and isinstance(labels, Tensor) and labels.shape[1:] == output.shape[2:] else -1
    if named and output.dim() and labels.shape == output.shape[:-1]:
        axis = -1
    classes = output.shape[axis] if named and output.dim() else 0
    if loss is None:
        return (math.log(classes), classes) if classes > 1 else (math.nan, 0)
    if classes > 1 and output.logsumexp(axis).abs().max() < NORMALISED:
        return math.log(classes), classes
    try:
        chance = mean_loss(map_tensors(given, torch.zeros_like), labels, loss)
    # Of the user's loss, which may refuse an output of zeros.
    except (ValueError, RuntimeError):
        return math.nan, 0
    if not 0 < chance < math.inf:
        return math.nan, 0
    # What is measured of cross-entropy is rounded.
    if classes > 1 and abs(chance - math.log(classes)) < NORMALISED:
        return math.log(classes), classes
    return chance, 0


def entropy(labels: Tensor) -> float:
    """Of the shares of the labels, in nats: ln 2 for two that are as frequent."""
    shares = labels[labels != -100].unique(return_counts=True)[1].double()
    shares /= shares.sum()
    return float(-(shares * shares.log()).sum())


def spread(output: Tensor) -> float:
    """Root of the mean square of an output, each example's own mean taken away; NaN of a single number."""
    if output.numel() < 2 or output.dim() < 2 or not output.is_floating_point():
        return math.nan
    return float(output.double().flatten(0, -2).var(dim=1, correction=0).mean().sqrt())
