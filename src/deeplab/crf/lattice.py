"""Gaussian filtering of any dimension on the permutohedral lattice, in torch.

Adams, Baek, Davis, "Fast high-dimensional filtering using the permutohedral lattice" (2010): values are
splatted to the corners of the simplex around each feature vector, blurred along the lattice's axes and
sliced back. `mean_field.cpp` does the same in compiled code.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# A lattice point is known by sum(multiplier * coordinate) modulo 2^64: neighbours are then a constant apart, in
# any dimension. Two points of one image share a key with probability below 1e-5 (ten million points).
_MIX = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
MOST_DIMENSIONS = 64


def key_multipliers(dimensions: int) -> Tensor:
    """int64 [dimensions + 1]: a fixed odd number for each coordinate but the last, which is implied and gets 0."""
    found = []
    for i in range(1, dimensions + 1):
        bits = i * _MIX[0] % 2**64
        bits = (bits ^ bits >> 30) * _MIX[1] % 2**64
        bits = (bits ^ bits >> 27) * _MIX[2] % 2**64
        bits = (bits ^ bits >> 31) | 1
        found.append(bits - 2**64 if bits >= 2**63 else bits)
    return torch.tensor([*found, 0], dtype=torch.int64)


class Lattice(NamedTuple):
    """Points around given feature vectors.

    Attributes:
        point: int64 [pixels, d + 1], the corners of the simplex around each feature vector.
        weight: float32 [pixels, d + 1], barycentric; rows sum to 1.
        neighbours: int64 [d + 1, 2, points], along each axis; `points` where there is none.
    """

    point: Tensor
    weight: Tensor
    neighbours: Tensor

    def filter(self, values: Tensor) -> Tensor:
        """float32 [pixels, channels] -> the same shape, up to a constant factor."""
        points = self.neighbours.shape[2]
        rows = values.new_zeros(points + 1, values.shape[1])
        for corner in range(self.point.shape[1]):
            rows.index_add_(0, self.point[:, corner], values * self.weight[:, corner, None])
        for before, after in self.neighbours:
            rows[:points] += 0.5 * (rows[before] + rows[after])
        out = torch.zeros_like(values)
        for corner in range(self.point.shape[1]):
            out += rows[self.point[:, corner]] * self.weight[:, corner, None]
        return out


def build_lattice(features: Tensor) -> Lattice:
    """The lattice in which a blur has standard deviation 1 (Adams et al., sections 3.1 and 3.2).

    Args:
        features: float64 [pixels, dimensions]: weights are what is left of coordinates that grow with the photo, and
            rounding these moves pixels between simplices.
    """
    d = features.shape[1]
    elevated = _elevate(features)
    origin, rank = _nearest_remainder_zero(elevated)
    multiplier = key_multipliers(d)
    keys, point = torch.unique(_corner_keys(origin, rank, multiplier), return_inverse=True)
    steps = (d + 1) * multiplier - multiplier.sum()
    neighbours = torch.stack([torch.stack((_find(keys, -step), _find(keys, step))) for step in steps])
    return Lattice(point, _barycentric(elevated, origin, rank), neighbours)


def _elevate(features: Tensor) -> Tensor:
    """Onto the hyperplane of coordinates that sum to 0: float64 [pixels, d + 1]."""
    d = features.shape[1]
    spread = [(d + 1) * math.sqrt(2 / 3) / math.sqrt((i + 1) * (i + 2)) for i in range(d)]
    scaled = features * features.new_tensor(spread)
    elevated = features.new_empty(features.shape[0], d + 1)
    total = features.new_zeros(features.shape[0])
    for j in range(d, 0, -1):
        elevated[:, j] = total - j * scaled[:, j - 1]
        total = total + scaled[:, j - 1]
    elevated[:, 0] = total
    return elevated


def _nearest_remainder_zero(elevated: Tensor) -> tuple[Tensor, Tensor]:
    """The closest point with all coordinates divisible by d + 1, and the order of what is left (0 = largest)."""
    size = elevated.shape[1]
    nearest = torch.round(elevated / size)
    rest = elevated - nearest * size
    rank = torch.zeros(elevated.shape, dtype=torch.int64)
    for i in range(size):
        for j in range(i + 1, size):
            less = rest[:, i] < rest[:, j]
            rank[:, i] += less
            rank[:, j] += ~less
    rank += nearest.sum(1, keepdim=True).long()
    turn = (rank < 0).long() - (rank >= size).long()
    return nearest.long() * size + turn * size, rank + turn * size


def _barycentric(elevated: Tensor, origin: Tensor, rank: Tensor) -> Tensor:
    pixels, size = elevated.shape
    share = (elevated - origin) / size
    weight = elevated.new_zeros(pixels, size + 1)
    weight.scatter_add_(1, size - 1 - rank, share)
    weight.scatter_add_(1, size - rank, -share)
    weight[:, 0] += 1 + weight[:, size]
    return weight[:, :size].float()


def _corner_keys(origin: Tensor, rank: Tensor, multiplier: Tensor) -> Tensor:
    """int64 [pixels, d + 1]; corner k adds k to all coordinates and takes d + 1 from the k last in rank."""
    size = origin.shape[1]
    by_rank = torch.zeros_like(rank).scatter_(1, rank, multiplier.expand_as(rank))
    steps = multiplier.sum() - size * by_rank.flip(1)
    keys = (origin * multiplier).sum(1, keepdim=True)
    return torch.cat((keys, keys + steps[:, :-1].cumsum(1)), dim=1)


def _find(keys: Tensor, step: Tensor) -> Tensor:
    """Index in the sorted `keys` of each key + step; their number where it is not there."""
    wanted = keys + step
    place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    return torch.where(keys[place] == wanted, place, len(keys))
