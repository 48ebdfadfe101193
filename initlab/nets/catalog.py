"""The catalog: nets of any depth, and those of the paper, layer for layer (He et al. 2015, tables 1 and 3), with VGG's.

The paper's have convolutions, pools and three linear layers; activation, norm and skips are the caller's choice.
What the paper leaves open and how it is settled here:

- 2x2 convolutions cannot keep a map's side, so each run of them alternates padding 1 and 0: 37, 36, 37, 36 from 36 and
  19, 18 from 18, where arXiv 1412.1710 says "mostly 36" and "mostly 18". `conv1` has no padding: 224 becomes 109, and
  `pool1`, rounding down, 36.
- The 16 layers that make 30 of 14 layers have 256 filters, so they lengthen stage 3 from 6 to 22 convolutions.
- B+3, B+6 and B+9 have one, two and three more convolutions in each of B's three stages.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import count as numbers, pairwise

from initlab.data.facts import FACTS
from initlab.nets.architecture import LINEAR_LAYERS, SPP, Conv, Flatten, InputShape, Layer, MaxPool, NetChoices, plain
from initlab.nets.counts import output_shapes
from initlab.nets.equal_layers import lstm, mlp, transformer
from initlab.nets.variants import after_convs, variant

LINEAR_WIDTH = 4096
INPUT_SIZE = 224
NUM_CLASSES = 1000

# From the number of the image's channels; the last layer is a Flatten or an SPP.
ConvPart = Callable[[int], list[Layer]]


@dataclass(frozen=True)
class PaperNet:
    """A net of the catalog: its convolution part, and what the paper prints of its operations."""

    conv_part: ConvPart
    printed_multiply_adds: float | None = None  # of one 224 x 224 image and 1000 classes (table 3)

    @cached_property
    def depth(self) -> int:
        """Weight layers."""
        return sum(isinstance(layer, Conv) for layer in self.conv_part(3)) + LINEAR_LAYERS


def small(stage_3: int, channels: int) -> list[Layer]:
    """The small model of table 1, with `stage_3` convolutions in its last stage; SPP of 50 bins."""
    layers: list[Layer] = [Conv("conv1", channels, 64, kernel=7, stride=2), MaxPool("pool1", kernel=3, stride=3)]
    layers += stage("conv2", 4, 64, 128, kernel=2)
    layers += [MaxPool("pool2", kernel=2, stride=2), *stage("conv3", stage_3, 128, 256, kernel=2)]
    return [*layers, SPP("spp", (6, 3, 2, 1))]


def large(each: int, channels: int, widths: Sequence[int] = (256, 512, 512)) -> list[Layer]:
    """The large models of table 3: 7x7 of stride 2, then three stages of `each` 3x3 convolutions; SPP of 63 bins."""
    layers: list[Layer] = [Conv("conv1", channels, 96, kernel=7, stride=2, padding=3)]
    for number, (before, width) in enumerate(pairwise((96, *widths)), start=2):
        layers += [MaxPool(f"pool{number - 1}", kernel=2, stride=2), *stage(f"conv{number}", each, before, width)]
    return [*layers, SPP("spp", (7, 3, 2, 1))]


def vgg(stages: Sequence[int], channels: int) -> list[Layer]:
    """VGG (Simonyan and Zisserman 2015, table 1): five stages of 3x3 convolutions, each ending in a 2x2 pool."""
    layers: list[Layer] = []
    widths = pairwise((channels, 64, 128, 256, 512, 512))
    for number, (convs, (before, width)) in enumerate(zip(stages, widths, strict=True), start=1):
        layers += [*stage(f"conv{number}", convs, before, width), MaxPool(f"pool{number}", kernel=2, stride=2)]
    return [*layers, Flatten("flatten")]


def stage(name: str, convs: int, channels: int, width: int, kernel: int = 3) -> list[Layer]:
    """Convolutions on one map size: 3x3 with padding 1, or 2x2 with padding 1 and 0 in turn."""
    return [
        Conv(f"{name}_{i + 1}", width if i else channels, width, kernel, padding=1 if kernel == 3 else 1 - i % 2)
        for i in range(convs)
    ]


PAPER_NETS = {
    "small-14": PaperNet(partial(small, 6)),
    "small-30": PaperNet(partial(small, 22)),
    "vgg-16": PaperNet(partial(vgg, (2, 2, 3, 3, 3))),
    "vgg-19": PaperNet(partial(vgg, (2, 2, 4, 4, 4)), 1.96e10),
    "A": PaperNet(partial(large, 5), 1.90e10),
    "B": PaperNet(partial(large, 6), 2.32e10),
    "C": PaperNet(partial(large, 6, widths=(384, 768, 896)), 5.30e10),
    "B+3": PaperNet(partial(large, 7)),
    "B+6": PaperNet(partial(large, 8)),
    "B+9": PaperNet(partial(large, 9)),
}
# From classes, the shape of an input and choices.
DESCRIPTIONS = {"plain": plain, "mlp": mlp, "transformer": transformer, "lstm": lstm}
SEQUENCE_NETS = ("transformer", "lstm")
ACTIVATED = frozenset({"activation", "negative_slope", "dropout"})
# The names that a study may give a net, and which of `NetChoices` there are for it.
FIELDS: dict[str, frozenset[str]] = {
    "plain": ACTIVATED | {"depth", "width", "widths", "stages", "linear_width", "downsample", "norm", "skip"},
    "mlp": ACTIVATED | {"depth", "width"},
    "transformer": ACTIVATED | {"depth", "width", "heads", "norm", "branch_factor"},
    "lstm": frozenset({"depth", "width"}),
    **dict.fromkeys(PAPER_NETS, ACTIVATED | {"norm", "skip"}),
}
CATALOG = tuple(FIELDS)


def default_input(name: str) -> tuple[int, InputShape]:
    """(classes, shape of one input) to show a net of the catalog with: those of digits, topics or ImageNet."""
    if name in SEQUENCE_NETS:
        return FACTS["topics"].num_classes, (FACTS["topics"].size,)
    return (10, (1, 16, 16)) if name in DESCRIPTIONS else (NUM_CLASSES, (3, INPUT_SIZE, INPUT_SIZE))


def describe_net(name: str, num_classes: int, input_shape: InputShape, choices: NetChoices) -> list[Layer]:
    """The layers of any net of the catalog.

    Raises:
        ValueError: as the net's own function, and `variant`.
    """
    args = num_classes, input_shape, choices
    layers = DESCRIPTIONS[name](*args) if name in DESCRIPTIONS else paper_net(name, *args)
    return variant(layers, norm=choices.norm, skip=choices.skip) if "skip" in FIELDS[name] else layers


def paper_net(
    name: str,
    num_classes: int = NUM_CLASSES,
    input_shape: InputShape = (3, INPUT_SIZE, INPUT_SIZE),
    choices: NetChoices | None = None,
) -> list[Layer]:
    """The layers of a net of `PAPER_NETS`: convolutions, SPP (VGG: flattened), linear layers of 4096, 4096 and classes.

    An activation follows every convolution and the first two linear layers (sec. 2.1); the paper's dropout is 0.5.
    `paper_net("small-14")` has 11 convolutions, and 74,993,896 parameters with `relu`.

    Raises:
        ValueError: unknown name or activation, or an image too small for the net.
    """
    if name not in PAPER_NETS:
        raise ValueError(f"net.name: unknown net (got {name!r}); allowed: {', '.join(PAPER_NETS)}")
    choices = choices or NetChoices()
    choices.check(name)
    if problem := size_problem(name, *input_shape[1:]):
        raise ValueError(f"{name}: images {problem}")
    conv_part = PAPER_NETS[name].conv_part(input_shape[0])
    (features,) = output_shapes(conv_part, input_shape)[-1]
    activation = choices.activation_layer
    layers = after_convs(conv_part, lambda conv, number: [activation(f"act{number}", conv.out_channels)])
    return [*layers, *choices.linear_part(features, LINEAR_WIDTH, num_classes)]


def size_problem(name: str, height: int, width: int) -> str | None:
    """Why images of this size do not go through a net of the paper, or None: `too small (got 8x8 pixels); …`."""
    if fits(name, height, width):
        return None
    least = next(side for side in numbers(1) if fits(name, side, side))
    return f"too small for {name} (got {height}x{width} pixels); allowed: at least {least}x{least}"


@lru_cache(maxsize=1024)
def fits(name: str, height: int, width: int) -> bool:
    """Whether every map is as large as the windows and bins that go over it; 77 pixels a side for `small-14`."""
    try:
        output_shapes(PAPER_NETS[name].conv_part(1), (1, height, width))
    except ValueError:
        return False
    return True
