"""The three roles of a carried fine-tune, from the form to the spec."""

import inspect

import pytest

from lab.core.errors import BadInput
from lab.ui.carryform import CarryForm, _spec_of


def test_the_form_s_roles_become_a_patch_of_the_new_base() -> None:
    spec = _spec_of("assistant", "v1", "v2", 0.5, " carried ")
    assert (spec.method, spec.name, spec.base_model) == ("patch", "carried", "v2")
    assert spec.models_used() == ("v2", "assistant", "v1")
    assert spec.parameters["scale"] == 0.5


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        ((None, "v1", "v2"), "The fine-tune is missing"),
        (("assistant", "", "v2"), "The old base is missing"),
        (("assistant", "v1", None), "The new base is missing"),
        (("assistant", "v1", "v1"), "Two of the three are the same"),
    ],
)
def test_a_role_that_is_empty_or_given_twice_is_refused_in_words(roles: tuple, words: str) -> None:
    with pytest.raises(BadInput, match=words) as refused:
        _spec_of(*roles, 1.0, "carried")
    assert refused.value.field == "models"


@pytest.mark.parametrize("handler", [CarryForm.check, CarryForm.start])
def test_a_handler_of_many_values_takes_the_request_first(handler: object) -> None:
    """Gradio 6.31 gives a request to a positional argument only."""
    assert list(inspect.signature(handler).parameters)[:2] == ["self", "request"]  # type: ignore[arg-type]
