"""What is known of each built-in data set before it is loaded: sizes, shapes, defaults. No torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """Images as delivered: `size` is the side in pixels."""

    train: int
    val: int
    num_classes: int
    channels: int
    size: int
    flip: bool  # whether mirrored images keep their class, so that training flips by default


FACTS = {
    "digits": Facts(train=1437, val=360, num_classes=10, channels=1, size=8, flip=False),
    "cifar10": Facts(train=50_000, val=10_000, num_classes=10, channels=3, size=32, flip=True),
    "cifar100": Facts(train=50_000, val=10_000, num_classes=100, channels=3, size=32, flip=True),
    "fashion-mnist": Facts(train=60_000, val=10_000, num_classes=10, channels=1, size=28, flip=True),
    "synthetic": Facts(train=2048, val=512, num_classes=10, channels=3, size=32, flip=False),
}
