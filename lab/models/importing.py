"""Brings a folder of this machine, or a GGUF file, into the catalog: checked, copied, every weight looked at.

`check` reads headers and configs only; `run` runs in a job's process.
"""

import json
import re
from pathlib import Path

from lab.core.errors import BadInput
from lab.core.job import Job, NewModel, Outcome, Shelf
from lab.models.architecture import check_architecture
from lab.models.catalog import expanded
from lab.models.config import is_adapter, read_adapter_config
from lab.models.ggufimport import check_gguf, convert_gguf, gguf_of
from lab.models.headers import INDEX_FILE, read_headers
from lab.models.inspection import ModelFacts, check_adapter_fits, check_model_folder
from lab.models.publish import full_disk_is_failure
from lab.models.spec import ImportSpec

SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "README.md",
    INDEX_FILE,
)
"""What is copied besides the weights; all else stays where it is."""

_CHUNK_BYTES = 8 << 20


def check(spec: ImportSpec, shelf: Shelf) -> ModelFacts:
    """Check the folder, an adapter against its base, and the room for a copy.

    Returns:
        What the folder holds.

    Raises:
        BadInput: it can't be imported; names file, tensor and reason.
    """
    folder = expanded(spec.path)
    packed = gguf_of(folder)
    try:
        facts = check_gguf(packed) if packed else check_model_folder(folder)
        if not packed and is_adapter(folder):
            check_adapter_fits(folder, _base(spec, folder, shelf)[1])
    except BadInput as error:
        raise error if error.field else error.at("path") from None
    free, need = shelf.free_disk_bytes(), int(facts.size_bytes * 1.2)
    if free < need:
        raise BadInput(
            f"The copy needs {need / 1e9:.2f} GB; {free / 1e9:.2f} GB are free.",
            "The lab keeps its own copy of every model.",
            "Free some disk space, or set LAB_DATA to a larger disk.",
            field="path",
        )
    return facts


def run(spec: ImportSpec, job: Job) -> Outcome:
    """Copy the folder, look at every weight, and hand the model over.

    Raises:
        BadInput: a weight is NaN or infinite, or transformers expects other tensors.
    """
    check(spec, job)
    source, folder = expanded(spec.path), job.folder / "model"
    if packed := gguf_of(source):
        with full_disk_is_failure(f"importing {spec.name}"):
            facts = convert_gguf(packed, folder, job, check_architecture)
        new = NewModel(spec.name, folder, "base", (), f"imported from {facts['source']}", facts)
        return Outcome((new,), {"model": spec.name})
    with full_disk_is_failure(f"copying {spec.name}"):
        _copy_all(source, folder, job)
    facts = {"licence": licence_of(folder), "origin": str(source)}
    if is_adapter(folder):
        base = _base(spec, folder, job)[0]
        _name_base(folder, base)
        new = NewModel(spec.name, folder, "adapter", (base,), f"imported adapter of {base}", facts)
    else:
        new = NewModel(spec.name, folder, "base", (), "imported", facts)
    _look_at_weights(folder, job)
    return Outcome((new,), {"model": spec.name})


def licence_of(folder: Path) -> str:
    """Return the licence that a model card states, or "unknown"."""
    card = folder / "README.md"
    if not card.is_file():
        return "unknown"
    found = re.search(
        r"^license:\s*[\"']?([A-Za-z0-9.+-]{2,60})", card.read_text("utf-8", "replace"), re.MULTILINE
    )
    return found[1] if found else "unknown"


def _base(spec: ImportSpec, folder: Path, shelf: Shelf) -> tuple[str, Path]:
    """Return the name and folder of an adapter's base in the lab."""
    name = spec.base or read_adapter_config(folder).base
    try:
        base = shelf.model(name)
    except BadInput as error:
        raise BadInput(
            f"The adapter's base {name!r} is not in the lab.",
            "An adapter needs its base model, by its name in the lab.",
            "Import the base first, or choose it as base.",
            field="base",
        ) from error
    if is_adapter(base):
        raise BadInput(f"{name} is an adapter itself.", "An adapter stands on a full model.", field="base")
    return name, base


def _copy_all(source: Path, folder: Path, job: Job) -> None:
    """Copy what belongs to a model; a file that an earlier attempt copied whole is not copied again."""
    folder.mkdir(exist_ok=True)
    weights = sorted({tensor.file.name for tensor in read_headers(source).values()})
    names = [name for name in (*SMALL_FILES, *weights) if (source / name).is_file()]
    total = sum((source / name).stat().st_size for name in names)
    copied = 0
    for name in names:
        if not _is_copied(source / name, folder / name):
            _copy(source / name, folder / name, job)
        copied += (source / name).stat().st_size
        job.progress(0.6 * copied / max(total, 1), f"Copied {name}")


def _is_copied(source: Path, target: Path) -> bool:
    return target.is_file() and target.stat().st_size == source.stat().st_size


def _copy(source: Path, target: Path, job: Job) -> None:
    part = target.with_name(f".{target.name}.part")
    try:
        with source.open("rb") as inside, part.open("wb") as outside:
            while chunk := inside.read(_CHUNK_BYTES):
                outside.write(chunk)
                job.breathe()
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)


def _name_base(folder: Path, base: str) -> None:
    """Write the base's name in the lab into an adapter's config, so that the adapter finds it."""
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps({**config, "base_model_name_or_path": base}, indent=2))


def _look_at_weights(folder: Path, job: Job) -> None:
    """Refuse weights that are no numbers, and tensors that transformers doesn't expect."""
    from lab.models.weights import check_finite, open_weights

    with open_weights(folder) as weights:
        job.progress(0.6, "Looking at every weight")
        check_finite(weights, job.breathe)
    if not is_adapter(folder):
        check_architecture(folder)
