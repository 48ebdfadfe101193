"""What a scheme draws in a model: the weights of its layers, and the matrices packed into attention and recurrence.

A packed weight is several matrices, each with fans and a draw of its own: the rows of query, key and value in
`nn.MultiheadAttention`, those of each gate in `nn.LSTM`. A weight that is stored as (in, out), as in the Conv1D of
Hugging Face, is drawn as the (out, in) that it means.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from initlab.init.shapes import LayerShape, fans
from initlab.init.stored import parameters_of, running, storage_of, store
from initlab.nets.any_module import Transposed, WeightLayer, layer_name, parameter_of

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
RECURRENT = (nn.RNNBase, nn.modules.rnn.RNNCellBase)
# The rows of a recurrent weight, gate by gate, as torch packs them.
GATES = {"LSTM": "ifgo", "LSTMCell": "ifgo", "GRU": "rzn", "GRUCell": "rzn"}


@dataclass(frozen=True)
class Matrix:
    """One matrix that a scheme draws, and the numbers of a bias that go with it."""

    module: nn.Module
    attribute: str  # of the weight, in its module
    layer: LayerShape  # `init_`'s arguments at their defaults; its name is that of the draw
    bias: str | None = None  # attribute of the bias
    start: int = 0  # the first of its rows in the weight and in the bias
    stop: int | None = None  # the row after the last; None where it is the whole
    flipped: bool = False  # whether the weight is stored as (in, out)
    follows: str = "any"  # what gives its input: `any`, `linear` (no activation before it) or `recurrent` (itself)
    forgets: bool = False  # whether it is an LSTM's forget gate, fed by the input
    torch_std: float | None = None  # of torch's own draw where that isn't the one of linear layers and convolutions

    def read(self) -> Tensor:
        """The matrix that runs, (out, in, ...)."""
        weight = running(self.module, self.attribute)
        return weight.T if self.flipped else weight[self.rows]

    @property
    def rows(self) -> slice:
        """Its rows in the weight and in the bias."""
        return slice(self.start, self.stop)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that hold the weight."""
        return parameters_of(self.module, self.attribute)

    @property
    def bias_parameter(self) -> nn.Parameter | None:
        """The bias that goes with it; None where there is none, or one that is computed."""
        return parameter_of(self.module, self.bias) if self.bias else None

    @property
    def state_bias(self) -> nn.Parameter | None:
        """The bias that torch adds to an LSTM's for its state."""
        return parameter_of(self.module, (self.bias or "").replace("_ih", "_hh", 1))

    @property
    def is_scalable(self) -> bool:
        """Whether it is a layer's whole weight, whose size is its own: spectral norm takes that away."""
        whole = isinstance(self.module, WeightLayer) and self.stop is None
        return whole and storage_of(self.module, self.attribute) != "spectral norm"

    def place(self, parameter: nn.Parameter) -> tuple[int, int]:
        """The id of a parameter, and the first of its rows that belong to this matrix."""
        return id(parameter), self.start

    def write(self, drawn: Tensor) -> None:
        """Make a drawn (out, in, ...) the matrix that runs."""
        value = drawn.T if self.flipped else drawn
        if self.stop is not None:
            whole = running(self.module, self.attribute).clone()
            whole[self.rows] = value
            value = whole
        store(self.module, self.attribute, value.to(self.parameters[-1]))


def matrices_of(model: nn.Module) -> list[Matrix]:
    """Every matrix that a scheme draws, in the order of the modules; refuses weights that cannot be set."""
    return numbered([draft for name, module in model.named_modules() for draft in drafts(layer_name(name), module)])


def numbered(matrices: list[Matrix]) -> list[Matrix]:
    """The matrices with their index, their number, and which is the last linear layer, or the last where none is."""
    last = max((i for i, matrix in enumerate(matrices) if matrix.layer.is_linear), default=len(matrices) - 1)
    result = []
    for index, matrix in enumerate(matrices):
        layer = replace(matrix.layer, index=index, num_layers=len(matrices), is_last=index == last)
        result.append(replace(matrix, layer=layer))
    return result


def drafts(name: str, module: nn.Module) -> Iterator[Matrix]:
    """The matrices of one module, not yet numbered."""
    if isinstance(module, WeightLayer):
        groups = getattr(module, "groups", 1)
        shape, is_linear = shape_of(name, module), isinstance(module, nn.Linear)
        layer = LayerShape(shape, *layer_fans(module), name, is_linear=is_linear, groups=groups)
        follows = "linear" if isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear) else "any"
        yield Matrix(module, "weight", layer, "bias", follows=follows)
    elif isinstance(module, nn.MultiheadAttention):
        yield from attention_matrices(name, module)
    elif isinstance(module, RECURRENT):
        yield from recurrent_matrices(name, module)
    elif isinstance(module, nn.Bilinear):
        # y_o = x_1^T W_o x_2.
        out, first, second = shape_of(name, module)
        bilinear = LayerShape((out, first, second), first * second, out * max(first, second), name)
        yield Matrix(module, "weight", bilinear, "bias", torch_std=1 / math.sqrt(3 * max(first, 1)))
    elif (flipped := flipped_linear(module)) is not None:
        rows, columns = shape_of(name, module)
        width, size = (columns, rows) if flipped else (rows, columns)
        linear = LayerShape((width, size), size, width, name, is_linear=True)
        yield Matrix(module, "weight", linear, "bias", flipped=flipped)


def attention_matrices(name: str, module: nn.MultiheadAttention) -> Iterator[Matrix]:
    """Query, key and value of attention, packed or not; its output projection is a linear layer of its own."""
    width = module.embed_dim
    for place, role in enumerate(("q", "k", "v")):
        packed = module._qkv_same_embed_dim
        attribute = "in_proj_weight" if packed else f"{role}_proj_weight"
        start, stop = (place * width, (place + 1) * width) if packed else (0, None)
        size = width if packed else shape_of(name, module, attribute)[1]
        # torch draws the packed weight as one matrix of 3 * width rows.
        std = math.sqrt(2 / ((3 * width if packed else width) + size))
        layer = LayerShape((width, size), size, width, f"{name}.{role}".lstrip("."), is_linear=True)
        bias = "in_proj_bias" if packed or place == 0 else None
        yield Matrix(module, attribute, layer, bias, start, stop, follows="linear", torch_std=std)


def recurrent_matrices(name: str, module: nn.Module) -> Iterator[Matrix]:
    """The gates of a recurrent module: those fed by its input, and those fed by its own state."""
    hidden = int(module.hidden_size)  # type: ignore[arg-type]
    gates = GATES.get(str(getattr(module, "mode", type(module).__name__)), "")
    # A norm on one of them has taken its parameter away, so the names are the module's own.
    names = getattr(module, "_flat_weights_names", ("weight_ih", "weight_hh"))
    for attribute in (name for name in names if name.startswith("weight_")):
        recurrent, bias = attribute.startswith("weight_hh"), attribute.replace("weight", "bias", 1)
        shape = shape_of(name, module, attribute)
        # The projection of an LSTM's state, (proj_size, hidden), has no gates and no bias.
        parts = gates if gates and shape[0] == len(gates) * hidden else " "
        out = shape[0] // len(parts)
        for place, gate in enumerate(parts):
            layer = LayerShape((out, *shape[1:]), *fans((out, *shape[1:])), f"{name}.{attribute}.{gate}".strip(". "))
            yield Matrix(
                *(module, attribute, layer, bias if hasattr(module, bias) else None),
                start=place * out,
                stop=(place + 1) * out,
                follows="recurrent" if recurrent else "linear",
                forgets=gate == "f" and not recurrent,
                torch_std=1 / math.sqrt(3 * hidden),
            )


def flipped_linear(module: nn.Module) -> bool | None:
    """Whether a linear layer of another library stores its weight as (in, out); None for any other module."""
    weight = parameter_of(module, "weight")
    if weight is None or weight.dim() != 2 or isinstance(module, EMBEDDINGS):
        return None
    shape = tuple(weight.shape)
    # Hugging Face's Conv1D, the linear layer of GPT-2, knows its number of outputs alone.
    if type(module).__name__ == "Conv1D" and shape[1] == getattr(module, "nf", None):
        return True
    for kind in ("features", "channels"):
        sides = getattr(module, f"out_{kind}", None), getattr(module, f"in_{kind}", None)
        if shape in (sides, sides[::-1]):
            return shape != sides
    return None


def norm_parameters(module: nn.Module) -> Iterator[tuple[float, nn.Parameter]]:
    """(where a norm starts, its parameter) of its gain and its shift, which not every norm has."""
    for name, start in (("weight", 1.0), ("bias", 0.0)):
        if (parameter := parameter_of(module, name)) is not None and parameter.numel():
            yield start, parameter


def shape_of(name: str, module: nn.Module, attribute: str = "weight") -> tuple[int, ...]:
    """The shape of a weight that can be written.

    Raises:
        ValueError: it has no shape yet, or is computed from other parameters in a way that cannot be inverted.
    """
    kind = type(module).__name__
    if any(isinstance(parameter, UninitializedParameter) for parameter in parameters_of(module, attribute)):
        place = name or "model"
        raise ValueError(f"{place}: its weight has no shape yet (got a lazy {kind}); run the model on a batch first")
    if storage_of(module, attribute) == "computed":
        raise ValueError(
            f"{name or 'model'}: its weight is computed from other parameters (got a parametrized {kind}); "
            "initialise the model before that is put on"
        )
    return tuple(parameters_of(module, attribute)[-1].shape)


def layer_fans(layer: WeightLayer) -> tuple[float, float]:
    """(fan_in, fan_out) of a weight layer, with its groups and, where it is transposed, its stride."""
    groups, stride = getattr(layer, "groups", 1), getattr(layer, "stride", ())
    # Reading `weight` itself would take spectral norm's power method a step further.
    computed = storage_of(layer, "weight") == "computed"
    shape = layer.weight.shape if computed else parameters_of(layer, "weight")[-1].shape
    return fans(tuple(shape), groups=groups, stride=stride, transposed=isinstance(layer, Transposed))
