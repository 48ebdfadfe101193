"""The standard deviation of which `init_` draws a single layer's weight."""

from typing import Any

from torch import nn

from initlab import init_


def drawn_std(scheme: str, shape: tuple[int, ...], **options: Any) -> float | None:
    """That of a weight (out, in, *kernel) as `init_` reports it; None where a scheme is not one standard deviation."""
    out, channels, *kernel = shape
    layer = nn.Conv2d(channels, out, tuple(kernel)) if kernel else nn.Linear(channels, out)
    rows: list[dict[str, Any]] = []
    init_(nn.Sequential(layer), scheme, on_parameter=rows.append, **options)
    std: float | None = rows[0]["scheme_std"]
    return std
