"""The value of a recipe's parameter for one tensor: one number, a gradient over layers, or a list of filters.

Knows mergekit's rules for gradients, filters and precedence; knows no method and no file.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from lab.core.spec import Spec

Scalar = bool | int | float | str
Gradient = Annotated[tuple[Scalar, ...], Field(min_length=1, max_length=1024)]


class Filtered(Spec):
    """A value for the tensors whose name contains `filter`; none or "*" means every tensor."""

    filter: Annotated[str, Field(max_length=200)] | None = None
    value: Scalar | Gradient

    def matches(self, tensor: str) -> bool:
        """Whether this value is for that tensor."""
        return self.filter is None or self.filter == "*" or self.filter in tensor


def _in_one_message(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    """Refuse a setting once, not once for each form that it might have had."""
    try:
        return handler(value)
    except ValidationError:
        raise ValueError(
            f"We saw {str(value)[:60]!r}. A value is a number, true or false, a list of those (a gradient "
            "over the layers), or a list of {filter, value}; none of them is NaN or infinite."
        ) from None


Setting = Annotated[
    Scalar | Gradient | Annotated[tuple[Filtered, ...], Field(min_length=1, max_length=256)],
    WrapValidator(_in_one_message),
]
"""One parameter as a recipe has it: a scalar, a gradient over the layers, or filters, the first match of
which counts."""

Settings = Mapping[str, Setting]


def value_for(
    parameter: str, levels: Iterable[Settings], tensor: str, place: float, default: Scalar | None = None
) -> Scalar | None:
    """Return a parameter's value for one tensor: that of the first level that has one.

    Args:
        parameter: its name.
        levels: settings by parameter, the narrowest first: of the model, of the slice, of the recipe.
        tensor: the tensor's name, for filters.
        place: where its layer lies within the slice, from 0 to 1; 0 for tensors outside layers.
        default: what counts where no level has a value.
    """
    for settings in levels:
        if parameter not in settings:
            continue
        found = _resolve(settings[parameter], tensor, place)
        if found is not None:
            return found
    return default


def over(narrow: Mapping[str, object], wide: Mapping[str, object]) -> dict[str, object]:
    """Lay the settings of one level over those of the next, as unchecked values of a recipe.

    Where filters of the narrow level leave tensors over, the wide level's value counts for them.
    """
    both = {name: [*_filters(narrow[name]), *_filters(wide[name])] for name in narrow if name in wide}
    return {**wide, **narrow, **{name: value for name, value in both.items() if _is_open(narrow[name])}}


def place_of(layer: int, layers: int) -> float:
    """Return where a layer lies within its slice: 0 for the first, 1 for the last (and for an only one)."""
    return layer / (layers - 1) if layers > 1 else 1.0


def mapped(setting: Setting, change: Callable[[Scalar], Scalar]) -> Setting:
    """Return the same setting with every scalar in it changed."""
    if isinstance(setting, tuple):
        return tuple(
            Filtered(filter=item.filter, value=_each(item.value, change))
            if isinstance(item, Filtered)
            else change(item)
            for item in setting
        )  # type: ignore[return-value]  # a tuple of one sort stays of that sort
    return change(setting)


def _each(
    value: Scalar | tuple[Scalar, ...], change: Callable[[Scalar], Scalar]
) -> Scalar | tuple[Scalar, ...]:
    return tuple(change(item) for item in value) if isinstance(value, tuple) else change(value)


def _resolve(setting: Setting, tensor: str, place: float) -> Scalar | None:
    if not isinstance(setting, tuple):
        return setting
    if not isinstance(setting[0], Filtered):
        return _on_gradient(setting, place)
    for item in setting:
        if isinstance(item, Filtered) and item.matches(tensor):
            return _on_gradient(item.value, place) if isinstance(item.value, tuple) else item.value
    return None


def _on_gradient(values: tuple[Scalar, ...], place: float) -> Scalar:
    """Interpolate between the values that lie around the place; words and switches step."""
    at = place * (len(values) - 1)
    low = int(at)
    here, there = values[low], values[min(len(values) - 1, low + 1)]
    if isinstance(here, bool | str) or isinstance(there, bool | str):
        return here
    return here + (there - here) * (at - low)


def _is_open(value: object) -> bool:
    """Whether a recipe's value leaves some tensors to the next level."""
    filters = (
        [item.get("filter") for item in value if isinstance(item, dict)] if isinstance(value, list) else []
    )
    return bool(filters) and not {None, "*"} & set(filters)


def _filters(value: object) -> list[object]:
    is_filters = isinstance(value, list) and all(isinstance(item, dict) for item in value)
    return list(value) if is_filters and isinstance(value, list) else [{"value": value}]
