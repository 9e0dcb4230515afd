"""A fine-tune's spec as YAML, in and out: what the page gives and takes, and the command line reads."""

from typing import Any

import yaml

from lab.core.errors import BadInput
from lab.core.plain_yaml import read_settings
from lab.tune.spec import TuneSpec


def read_recipe(text: str, **defaults: Any) -> TuneSpec:
    """Read a fine-tune from YAML: a table of `TuneSpec`'s fields.

    Args:
        text: the YAML; what it leaves out keeps its default.
        defaults: fields that the text may leave out, such as the name.

    Raises:
        BadInput: it is no such table; a misspelt key is named with the nearest known one, a missing one
            with what to write.
        ValidationError: a value won't do; the field is named.
    """
    table = read_settings(
        text, TuneSpec.model_fields, of="a fine-tune", expected="It has lines such as `rank: 16`.",
        do="Copy it again from the Fine-tune page.",
    )  # fmt: skip
    settings = {**defaults, **table}
    for key, field in TuneSpec.model_fields.items():
        if field.is_required() and settings.get(key) is None:
            raise BadInput(
                f"The recipe has no {key}.",
                "It says what the model, the dataset and the name of the adapter are.",
                f"Add a line `{key}: ...`.",
                field=key,
            )
    return TuneSpec.model_validate(settings)


def write_recipe(spec: TuneSpec) -> str:
    """Return the YAML that `read_recipe` makes the same spec of, every setting written in."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)
