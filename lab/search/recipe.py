"""A search's spec as YAML, in and out: the merge in mergekit's language, the rest as `SearchSpec` has it."""

from typing import Any

import yaml

from lab.core.errors import BadInput
from lab.core.plain_yaml import read_settings
from lab.merge import recipe as merges
from lab.search.spec import SearchSpec

BEST = "best"
"""What the merge is called where nobody gives it a name."""


def read_search(text: str, **defaults: Any) -> SearchSpec:
    """Read a search from YAML: `recipe` holds a mergekit recipe, `vary` a list of ranges.

    Args:
        text: the YAML; what it leaves out keeps its default.
        defaults: fields that the text may leave out, such as the name.

    Raises:
        BadInput: it is no such table; a misspelt key is named with the nearest known one, a missing one
            with what to write.
        ValidationError: a value won't do; the field is named.
    """
    table = read_settings(text, SearchSpec.model_fields, of="a search", expected=_SHAPE, do="Mend the file.")
    for key in ("recipe", "vary", "data"):
        if table.get(key) is None:
            raise BadInput(f"The search has no {key}.", _SHAPE, f"Add `{key}: ...`.", field=key)
    try:
        recipe = merges.read_recipe(yaml.safe_dump(table["recipe"]), name=BEST)
    except BadInput as error:
        raise error.at(f"recipe.{error.field}" if error.field else "recipe") from None
    return SearchSpec.model_validate({**defaults, **table, "recipe": recipe})


def write_search(spec: SearchSpec) -> str:
    """Return the YAML that `read_search` makes the same search of, but for the recipe's name."""
    table = spec.model_dump(mode="json", exclude={"kind", "recipe"})
    table["recipe"] = yaml.safe_load(merges.write_recipe(spec.recipe))
    return str(yaml.safe_dump(table, sort_keys=False, allow_unicode=True, width=100))


_SHAPE = "It says what is merged (recipe), what moves how far (vary), and what it is scored on (data)."
