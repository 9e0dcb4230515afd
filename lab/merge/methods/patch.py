"""What a fine-tune learned on its old base, carried over to another base."""

from typing import Annotated

from pydantic import Field

from lab.merge.registry import merge_methods
from lab.models.lazytorch import Tensor


@merge_methods.register(
    "patch",
    source="PortLLM, arXiv:2410.10870; the same sum as Chat Vector, arXiv:2310.04799",
    space="weight",
    models=(3, 3),
    weighted=False,
    base="first",
    elementwise=True,
    nanoseconds=1.5,
    use="When a base has a newer release: choose it as base, A the fine-tune, B what that was tuned from.",
)
def patch(
    models: Tensor,
    weights: Tensor,  # noqa: ARG001  every method has the same two
    *,
    scale: Annotated[float, Field(description="How much of what was learned is added; 1 is all of it")] = 1.0,
) -> Tensor:
    """Add a portable patch: new base + scale * (tuned - its old base).

    Also known as the instruction residual, or chat vector: continue to train a base, then add what made
    its earlier release an assistant. An adapter counts as its base plus B A, so its patch is B A alone.

    Args:
        models: the new base, the tuned model, its old base. Shape (3, *weight), float32.
        weights: not used.
        scale: factor of the patch; negative takes it away.

    Returns:
        Shape (*weight).
    """
    new, tuned, old = models
    return (tuned - old).mul_(scale).add_(new)
