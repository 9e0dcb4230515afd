"""What a model is found to be while it reads texts: how sensitive its weights are, what its layers are fed.

Runs a loaded model on token ids; knows no file and no merge. Statistics are float32.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab.data.encoding import IGNORED

Row = tuple[Sequence[int], Sequence[int]]
"""A text: its token ids, and labels that are the ids where it counts and IGNORED elsewhere."""

Breathe = Callable[[], None]


def fisher_of(
    model: nn.Module, rows: Sequence[Row], names: Iterable[str], breathe: Breathe
) -> dict[str, Tensor]:
    """Estimate the diagonal of the empirical Fisher information: F = mean_n (d log p(y_n | x_n) / d w)^2.

    The gradients are those of each text by itself, squared, then averaged over the texts: not the
    square of a batch's gradient. y_n is what the text says, not drawn from the model.

    Args:
        model: a causal language model of transformers.
        rows: at least one text; log p is summed over its labelled tokens.
        names: the parameters to estimate for.
        breathe: called before each text; may raise.

    Returns:
        For each name a tensor of the parameter's shape.
    """
    wanted = set(names)
    parameters = {name: one for name, one in model.named_parameters() if name in wanted}
    for one in model.parameters():
        one.requires_grad_(False)
    for one in parameters.values():
        one.requires_grad_(True)
    totals = {name: torch.zeros_like(one, dtype=torch.float32) for name, one in parameters.items()}
    for row in rows:
        breathe()
        model.zero_grad(set_to_none=True)
        _negative_log_likelihood(model, row).backward()
        for name, one in parameters.items():
            if one.grad is not None:
                totals[name].addcmul_(one.grad.float(), one.grad.float())
    model.zero_grad(set_to_none=True)
    return {name: total.div_(len(rows)).cpu() for name, total in totals.items()}


@torch.inference_mode()
def shared_inputs(model: nn.Module, row: Row) -> dict[str, str]:
    """Find which linear layers are fed the very same tensor, such as query, key and value.

    Returns:
        For each linear layer that runs, by name, the first that has its input.
    """
    owner: dict[str, str] = {}
    last: list[tuple[str, Tensor]] = []

    def note(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, given: tuple[Any, ...]) -> None:
            if not last or last[0][1] is not given[0]:
                last[:] = [(name, given[0])]
            owner.setdefault(name, last[0][0])

        return hook

    with _Hooks({name: (module, note(name)) for name, module in linear_layers(model).items()}):
        model(input_ids=_ids(model, row))
    return owner


@torch.inference_mode()
def grams_of(
    model: nn.Module, rows: Sequence[Row], names: Iterable[str], breathe: Breathe
) -> dict[str, Tensor]:
    """Return G = X^T X / n for some linear layers, X the n inputs that they are fed while the texts are read.

    Args:
        model: a causal language model of transformers.
        rows: at least one text; all of its tokens count.
        names: the layers.
        breathe: called before each text; may raise.

    Returns:
        For each name a matrix (inputs, inputs).
    """
    layers = linear_layers(model)
    grams = {name: torch.zeros(2 * [layers[name].in_features], device=_device(model)) for name in names}

    def add_to(gram: Tensor) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, given: tuple[Any, ...]) -> None:
            inputs = given[0].flatten(0, -2).float()  # (tokens, inputs)
            gram.addmm_(inputs.T, inputs)

        return hook

    with _Hooks({name: (layers[name], add_to(gram)) for name, gram in grams.items()}):
        for row in rows:
            breathe()
            model(input_ids=_ids(model, row))
    count = sum(len(ids) for ids, _ in rows)
    return {name: gram.div_(count).cpu() for name, gram in grams.items()}


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


class _Hooks:
    """Calls functions before modules run, while the block lasts."""

    def __init__(self, hooks: Mapping[str, tuple[nn.Module, Callable[..., None]]]) -> None:
        self._hooks = hooks
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        self._handles = [module.register_forward_pre_hook(hook) for module, hook in self._hooks.values()]

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


def _negative_log_likelihood(model: nn.Module, row: Row) -> Tensor:
    labels = torch.tensor(row[1], device=_device(model))
    logits = model(input_ids=_ids(model, row), use_cache=False).logits[0, :-1].float()
    return F.cross_entropy(logits, labels[1:], ignore_index=IGNORED, reduction="sum")


def _ids(model: nn.Module, row: Row) -> Tensor:
    return torch.tensor([list(row[0])], device=_device(model))


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
