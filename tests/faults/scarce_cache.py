"""A cache for the chat's engine that holds one large model until it is told to let go."""


class KeptModels:
    """Says that it holds a model of six gigabytes; nothing is really in memory."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ("pirate",)

    def names(self) -> tuple[str, ...]:
        return self._names

    def size_bytes(self) -> int:
        return len(self._names) * (6 << 30)

    def clear(self) -> None:
        self._names = ()
