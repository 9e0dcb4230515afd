"""Random decisions of a merge that repeat exactly: in any order, on any threads, in chunks of any length.

A number depends on the seed, the tensor's name, the model's place and the element's place, and on
nothing that was drawn before. Pure: numbers only.
"""

import hashlib

import numpy as np

from lab.models.lazytorch import Tensor, torch

_BLOCK = 16
"""Numbers of 16 bits in what the generator's counter counts: four of 64 bits."""


class Draws:
    """The random numbers of one tensor.

    They come from Philox 4x64 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011),
    whose key is the sha256 of seed, tensor and model, and whose counter is the element's place. A draw
    has 16 bits: four of them from each 64 that the generator makes.

    Args:
        seed: what the recipe says.
        tensor: the tensor's name in the result.
    """

    def __init__(self, seed: int = 0, tensor: str = "") -> None:
        self._name = f"{seed}\0{tensor}\0"

    def integers(self, model: int, start: int, count: int) -> np.ndarray:
        """Return `count` numbers of 16 bits for the elements from `start` on, each equally likely.

        Args:
            model: the model's place among the inputs.
            start: the first element's place in the tensor.
            count: how many elements.

        Returns:
            Shape (count,), uint16.
        """
        block, skip = divmod(start, _BLOCK)
        words = -(-(skip + count) // 4)
        drawn = self._generator(f"{model}", block).random_raw(words)
        return drawn.astype("<u8", copy=False).view(np.uint16)[skip : skip + count]

    def keep(self, model: int, probability: float, start: int, count: int) -> Tensor:
        """Decide for each element, apart from all others, with the probability that it is kept.

        Exact to 48 bits: where 16 bits don't decide, which is once in 65,536 times, 32 more do.

        Returns:
            Shape (count,), bool.
        """
        if probability >= 1:
            return torch.ones(count, dtype=torch.bool)
        whole, rest = divmod(max(probability, 0.0) * 65536, 1)
        drawn = self.integers(model, start, count)
        kept = drawn < np.uint16(whole)
        if rest:
            undecided = np.flatnonzero(drawn == np.uint16(whole))
            kept[undecided] = [self._fraction(model, start + int(place)) < rest for place in undecided]
        return torch.from_numpy(kept)

    def keep_each(self, model: int, probabilities: np.ndarray, start: int) -> np.ndarray:
        """Decide for each element with a probability of its own, which is rounded to 16 bits.

        Args:
            model: the model's place among the inputs.
            probabilities: of the elements from `start` on, in 65,536ths. Shape (count,), uint16.
            start: the first element's place in the tensor.

        Returns:
            Shape (count,), bool.
        """
        return np.asarray(self.integers(model, start, len(probabilities)) < probabilities)

    def _fraction(self, model: int, place: int) -> float:
        """Return a number in [0, 1) for one element, of its own stream."""
        return int(self._generator(f"{model}\0more", place).random_raw() >> 32) / 2**32

    def _generator(self, stream: str, counter: int) -> np.random.Philox:
        key = hashlib.sha256((self._name + stream).encode()).digest()
        return np.random.Philox(key=int.from_bytes(key[:16], "little"), counter=counter)
