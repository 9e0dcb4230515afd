"""Changes of a matrix as products of two thin factors: stacked exactly, or cut to a rank. Pure.

A change is up @ down, with up of shape (rows, rank) and down of shape (rank, columns), in float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lab.models.lazytorch import Tensor, torch

EXACT_SIDE = 256
"""Up to this many rows or columns, whichever are fewer, singular values are computed exactly."""

_MORE_DIRECTIONS = 32  # than the rank, in the randomised search
_MOST_ROUNDS = 20
_GAIN = 1e-6  # a round that adds less of what is kept is the last


@dataclass(frozen=True)
class Factors:
    """A change of rank r, and how near it comes to the one that was asked for.

    Attributes:
        up: shape (rows, r).
        down: shape (r, columns).
        lost: the squared Frobenius norm of what the cut left out; 0 where nothing was cut.
        whole: the squared Frobenius norm of the change before the cut.
    """

    up: Tensor
    down: Tensor
    lost: float
    whole: float

    def padded(self, rank: int) -> "Factors":
        """Return the same change with factors of a higher rank, filled up with zeros."""
        more = rank - self.down.shape[0]
        if more <= 0:
            return self
        up = torch.nn.functional.pad(self.up, (0, more))
        down = torch.nn.functional.pad(self.down, (0, 0, 0, more))
        return Factors(up, down, self.lost, self.whole)


def weighted_stack(pairs: Sequence[tuple[Tensor, Tensor]], coefficients: Sequence[float]) -> Factors:
    """Return sum_i c_i up_i @ down_i exactly, as factors whose rank is the sum of the ranks.

    Args:
        pairs: up and down of each change; the ranks may differ.
        coefficients: one for each change.
    """
    up = torch.cat([up * factor for (up, _), factor in zip(pairs, coefficients, strict=True)], dim=1)
    down = torch.cat([down for _, down in pairs])
    # |up @ down|^2 = sum of (up^T up) * (down down^T), without the product itself.
    whole = ((up.double().T @ up.double()) * (down.double() @ down.double().T)).sum().item()
    return Factors(up, down, 0.0, max(whole, 0.0))


def cut_product(factors: Factors, rank: int) -> Factors:
    """Return the best approximation of up @ down at a rank (Eckart-Young), never forming the product.

    up = Q R and down^T = P S, so up @ down = Q (R S^T) P^T, and the middle is as small as the rank.
    """
    if factors.down.shape[0] <= rank:
        return factors
    left, upper = torch.linalg.qr(factors.up)
    right, lower = torch.linalg.qr(factors.down.T)
    u, values, v = torch.linalg.svd(upper @ lower.T)
    return _balanced(left @ u[:, :rank], values, v[:rank] @ right.T, rank)


def cut_matrix(change: Tensor, rank: int, generator: torch.Generator) -> Factors:
    """Return an approximation of a whole matrix at a rank.

    It is the best one (Eckart-Young) where a side has at most `EXACT_SIDE` entries. Beyond, the leading
    directions come from a randomised subspace iteration (Halko, Martinsson and Tropp, arXiv:0909.4061,
    algorithm 4.4), which ends when a round keeps hardly more; `lost` says what is left out.

    Args:
        change: shape (rows, columns), float32.
        rank: the most columns of `up`.
        generator: draws the directions to begin with.
    """
    if min(change.shape) <= EXACT_SIDE:
        u, values, v = torch.linalg.svd(change, full_matrices=False)
        return _balanced(u[:, :rank], values, v[:rank], rank)
    directions = min(rank + _MORE_DIRECTIONS, *change.shape)
    right = torch.randn(change.shape[1], directions, generator=generator)
    kept = 0.0
    for _ in range(_MOST_ROUNDS):
        left = torch.linalg.qr(change @ right).Q
        u, values, v = torch.linalg.svd(left.T @ change, full_matrices=False)
        before, kept = kept, values[:rank].double().square().sum().item()
        if kept - before <= _GAIN * kept:
            break
        right = v.T
    cut = _balanced(left @ u[:, :rank], values, v[:rank], rank)
    whole = change.pow(2).sum(dtype=torch.float64).item()
    return Factors(cut.up, cut.down, max(whole - kept, 0.0), whole)


def _balanced(u: Tensor, values: Tensor, v: Tensor, rank: int) -> Factors:
    """Give each factor the square root of the singular values, so that neither is large."""
    root = values[:rank].clamp_min(0).sqrt()
    squares = values.double().square()
    return Factors(u * root, root[:, None] * v, squares[rank:].sum().item(), squares.sum().item())
