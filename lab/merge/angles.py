"""Lengths and angles between whole tensors, each taken as one vector. Pure: tensors and numbers only.

Everything that stays in the span of the models is worked out on their Gram matrix, in float64, so that a
mean on the sphere costs one pass over the tensors however many steps it takes.
"""

from collections.abc import Sequence
from math import acos, cos, sin, sqrt

import numpy as np

from lab.merge.registry import Stack
from lab.models.lazytorch import Tensor, torch

NEARLY_PARALLEL = 0.9995
"""Cosine beyond which slerp's arc is a line, as in mergekit."""


def gram(rows: Tensor) -> np.ndarray:
    """Return all dot products. Shape (models, *any) -> (models, models), float64."""
    flat, count = rows.flatten(1), len(rows)
    products = np.zeros((count, count))
    for a in range(count):
        for b in range(a, count):  # one by one: a product of matrices so long and low takes longer
            products[a, b] = products[b, a] = torch.dot(flat[a], flat[b]).item()
    return products


def gram_streamed(stack: Stack) -> np.ndarray:
    """Return all dot products, in one pass. Shape (models, models), float64."""
    total = np.zeros((stack.models, stack.models))
    for rows in stack.chunks():
        total += gram(rows)
    return total


def cosine(products: np.ndarray, a: int, b: int) -> float:
    """Return the cosine between two models; zero where one of them is zero."""
    scale = sqrt(products[a, a] * products[b, b])
    return max(-1.0, min(1.0, float(products[a, b]) / scale)) if scale else 0.0


def arc_shares(cosine: float, t: float, line_beyond: float) -> tuple[float, float]:
    """Return the factors of the two ends of an arc: sin((1-t)theta) / sin(theta), sin(t theta) / sin(theta).

    Args:
        cosine: of the angle between them.
        t: where between the two, from 0 to 1.
        line_beyond: where the cosine goes beyond this, either way, the arc is the line: 1-t, t.
    """
    if abs(cosine) > line_beyond:
        return 1.0 - t, t
    theta = acos(cosine)
    return sin((1.0 - t) * theta) / sin(theta), sin(t * theta) / sin(theta)


def unit_products(products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the models' lengths, and the dot products of their directions; a zero model has none."""
    lengths = np.sqrt(np.maximum(np.diag(products), 0.0))
    scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return lengths, products * np.outer(scale, scale)


def direction_sum(units: np.ndarray, weights: Sequence[float]) -> float:
    """Return the length of sum_i w_i u_i, of directions u_i with these dot products."""
    says = np.asarray(weights)
    return sqrt(max(0.0, float(says @ units @ says)))


def karcher_shares(products: np.ndarray, steps: int, tolerance: float) -> np.ndarray:
    """Return the factors of the models in their mean on the sphere, times their mean length.

    Args:
        products: the models' dot products.
        steps: the most steps.
        tolerance: a step shorter than this ends the search, and a model nearer than this doesn't pull.
    """
    lengths, units = unit_products(products)
    present = lengths > 0
    if not present.any():
        return np.zeros(len(lengths))
    pulls = present / present.sum()
    mean = _normalised(pulls, units)  # the mean direction, as factors of the models' directions
    if mean is None:
        mean = np.eye(len(lengths))[int(np.argmax(present))]
    for _ in range(steps):
        step = _step(mean, units, pulls, tolerance)
        length = direction_sum(units, step.tolist())
        if length < tolerance:
            break
        moved = cos(length) * mean + sin(length) * step / length
        mean = _normalised(moved, units)
        if mean is None:
            break
    if mean is None:
        return np.zeros(len(lengths))
    scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=present)
    return np.asarray(mean * scale * lengths.mean())


def _step(mean: np.ndarray, units: np.ndarray, pulls: np.ndarray, tolerance: float) -> np.ndarray:
    """Return sum_i a_i theta_i / sin(theta_i) (u_i - cos(theta_i) mean), in factors of the directions."""
    cosines = np.clip(units @ mean, -1.0, 1.0)
    angles = np.arccos(cosines)
    sines = np.sin(angles)
    counts = (angles >= tolerance) & (sines > 0)
    pull = np.where(counts, pulls * angles / np.where(counts, sines, 1.0), 0.0)
    return np.asarray(pull - float(pull @ cosines) * mean)


def _normalised(factors: np.ndarray, units: np.ndarray) -> np.ndarray | None:
    """Return the factors scaled to a direction of length one; None where they cancel out."""
    length = direction_sum(units, factors.tolist())
    return factors / length if length > 1e-9 * float(np.abs(factors).sum()) else None
