"""Random decisions of a merge that repeat exactly: in any order, on any threads, in chunks of any length.

A number depends on the seed, the tensor's name, the model's place and the element's place, and on
nothing that was drawn before. Pure: numbers only.
"""

import hashlib

import numpy as np

from lab.models.lazytorch import Tensor, torch

_BLOCK_BYTES = 32
"""What the generator makes for each step of its counter: four numbers of 64 bits."""


class Draws:
    """The random numbers of one tensor.

    They come from Philox 4x64 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011),
    whose key is the sha256 of seed, tensor and model, and whose counter is the element's place. One is
    for one thread: it keeps its generators, to go on where the last chunk ended.

    Args:
        seed: what the recipe says.
        tensor: the tensor's name in the result.
    """

    def __init__(self, seed: int = 0, tensor: str = "") -> None:
        self._name = f"{seed}\0{tensor}\0"
        self._generators: dict[str, tuple[np.random.Philox, int]] = {}  # and the block that each is at

    def integers(self, model: int, start: int, count: int) -> np.ndarray:
        """Return `count` numbers of 16 bits for the elements from `start` on, each equally likely.

        Args:
            model: the model's place among the inputs.
            start: the first element's place in the tensor.
            count: how many elements.

        Returns:
            Shape (count,), uint16.
        """
        return self._bytes(f"{model}", 2 * start, 2 * count).view("<u2")

    def keep(self, model: int, probability: float, start: int, count: int) -> Tensor:
        """Decide for each element, apart from all others, with the probability that it is kept.

        Exact to 40 bits: where 8 bits don't decide, which is once in 256 times, 32 more do.

        Returns:
            Shape (count,), bool.
        """
        if probability >= 1:
            return torch.ones(count, dtype=torch.bool)
        whole, rest = divmod(max(probability, 0.0) * 256, 1)
        drawn = self._bytes(f"{model}\0keep", start, count)
        kept = drawn < np.uint8(whole)
        if rest:
            undecided = np.flatnonzero(drawn == np.uint8(whole))
            kept[undecided] = self._fractions(f"{model}\0more", start + undecided) < rest
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

    def _bytes(self, stream: str, start: int, count: int) -> np.ndarray:
        """Return bytes from `start` on, whatever was asked for before."""
        block, skip = divmod(start, _BLOCK_BYTES)
        blocks = -(-(skip + count) // _BLOCK_BYTES)
        generator, at = self._generators.get(stream, (None, 0))
        if generator is None or at != block:
            generator = np.random.Philox(key=self._key(stream), counter=block)
        self._generators[stream] = generator, block + blocks
        drawn = generator.random_raw(4 * blocks).astype("<u8", copy=False)
        return drawn.view(np.uint8)[skip : skip + count]

    def _fractions(self, stream: str, places: np.ndarray) -> np.ndarray:
        """Return numbers in [0, 1) for elements here and there: SplitMix64's mixing of key and place."""
        mixed = places.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed += np.uint64(self._key(stream) & (1 << 64) - 1)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        return np.asarray((mixed >> np.uint64(32)).astype(np.float64) / 2**32)

    def _key(self, stream: str) -> int:
        return int.from_bytes(hashlib.sha256((self._name + stream).encode()).digest()[:16], "little")
