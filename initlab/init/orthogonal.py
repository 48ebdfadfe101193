"""Orthogonal schemes: random rotations of the channels, from a layer's standard normals."""

import torch
from torch import Tensor

from initlab.init.shapes import LayerShape


def haar(normals: Tensor) -> Tensor:
    """Orthonormal columns, or rows where those are fewer, of standard normals (rows, columns), by the Haar measure.

    That is uniform over all such matrices. The Q of a QR decomposition alone is not: LAPACK's signs give
    E[Q_11] = -2/pi for 2x2. With R's diagonal made positive, Q is unique and the normals' rotation invariance carries
    over, so E[Q_11] = 0 (Mezzadri 2007).
    """
    rows, columns = normals.shape
    tall = normals.double() if rows >= columns else normals.double().T
    q, r = torch.linalg.qr(tall)
    orthonormal: Tensor = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
    return orthonormal if rows >= columns else orthonormal.T


def orthogonal(normals: Tensor, layer: LayerShape) -> Tensor:
    """Haar matrix times the rectifier's gain sqrt(2 / (1 + a^2)) (Saxe et al. 2014, sec. 3).

    As in torch, a convolution's weight is taken as the matrix (out, in k^2), each group's own one where it has groups.
    The shorter side is orthonormal: W W^T = gain^2 I for out <= in k^2, else W^T W. With more rows than columns,
    each response has in k^2 / out of He's variance: 27/64 in a first layer of 3x3 on 3 channels with 64 filters.
    """
    matrices = [haar(part.flatten(1)) for part in normals.chunk(layer.groups)]
    return layer.gain * torch.cat(matrices).reshape(normals.shape)


def delta_orthogonal(normals: Tensor, layer: LayerShape) -> Tensor:
    """Haar matrix (out, in) times the gain at the kernel's centre, 0 elsewhere (Xiao et al. 2018, algorithm 1).

    With stride 1 and out >= in it keeps the norm of every pixel up to the gain, whatever the padding. With out < in,
    which their algorithm refuses, the rows are orthonormal instead: the mean square of the channels is kept on average,
    not that of every pixel. An even kernel's centre is the tap k // 2. On linear layers it is `orthogonal`.
    """
    weight = torch.zeros(normals.shape, dtype=torch.float64)
    centre, drawn = weight, normals
    for size in normals.shape[2:]:
        centre, drawn = centre.select(2, size // 2), drawn.select(2, size // 2)
    centre.copy_(orthogonal(drawn, layer))
    return weight
