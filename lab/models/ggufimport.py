"""Turns a GGUF file into a model folder: config, tokenizer, then the weights piece by piece to bfloat16.

`check_gguf` reads the header only; `convert_gguf` runs in a job's process. Memory is a few million numbers
of one tensor, whatever the file's size.
"""

import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from lab.core.errors import BadInput
from lab.core.job import Job
from lab.models.gguf import GgufHeader, read_gguf_header, refuse_gguf
from lab.models.ggufnames import (
    ROPE_FACTORS,
    SPECIAL,
    Family,
    Settings,
    config_of,
    family_of,
    heads_of,
    names_of,
    quantisation_words,
)
from lab.models.headers import TensorInfo
from lab.models.inspection import ModelFacts

if TYPE_CHECKING:
    from torch import Tensor

PIECE = 1 << 22
"""About how many numbers are read back at a time."""

_BLOCK_OF = re.compile(r"model\.layers\.(\d+)\.(.+)")


def gguf_of(path: Path) -> Path | None:
    """Return the GGUF file that a path means: itself, or the only one in a folder without safetensors."""
    if path.is_file() and path.suffix.lower() == ".gguf":
        return path
    if not path.is_dir() or any(path.glob("*.safetensors")):
        return None
    found = [file for file in path.iterdir() if file.suffix.lower() == ".gguf" and file.is_file()]
    return found[0] if len(found) == 1 else None


def check_gguf(file: Path) -> ModelFacts:
    """Check a file's header: all that can be known before a weight is read.

    Returns:
        What comes out, as bfloat16.

    Raises:
        BadInput: the header doesn't tell the truth, or the lab doesn't read this family or quantisation.
    """
    header = read_gguf_header(file)
    family = family_of(header)
    names = names_of(header, family)
    if "token_embd.weight" not in header.tensors:
        refuse_gguf(file, "it has no token_embd.weight")
    config = config_of(header, family, _rope_factors(header))
    _check_blocks(header, names, config["num_hidden_layers"])
    tokens = header.settings.get("tokenizer.ggml.tokens", ())
    if not isinstance(tokens, tuple) or not 0 < len(tokens) <= config["vocab_size"]:
        refuse_gguf(
            file, f"it has {len(tokens) if isinstance(tokens, tuple) else 0} tokens for its embedding"
        )
    parameters = sum(header.tensors[name].elements for name in names)
    return ModelFacts(
        family.architecture,
        parameters,
        2 * parameters,
        "BF16",
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        vocab=config["vocab_size"],
        context=config["max_position_embeddings"],
        tied=config["tie_word_embeddings"],
        has_chat_template="tokenizer.chat_template" in header.settings,
    )


def convert_gguf(file: Path, folder: Path, job: Job, check: Callable[..., None]) -> dict[str, str]:
    """Write a GGUF file as a model folder.

    Args:
        file: what to read.
        folder: where to; what an earlier attempt finished there is not written again.
        job: told how far it is.
        check: compares tensors with those that transformers expects: check(folder, tensors).

    Returns:
        Facts for the catalog: licence, origin, and how the weights were kept.

    Raises:
        BadInput: a weight is NaN or infinite, or transformers expects other tensors.
    """
    header = read_gguf_header(file)
    family = family_of(header)
    names = names_of(header, family)
    config = config_of(header, family, _rope_factors(header))
    folder.mkdir(exist_ok=True)
    job.progress(0.02, "Reading config and tokenizer")
    _write_companions(header, config, folder)
    shapes = {name: header.tensors[kept].shape for kept, name in names.items()}
    check(folder, {name: TensorInfo("BF16", shape, file, 0, 0) for name, shape in shapes.items()})
    _write_weights(header, family, config, folder, job)
    return {
        "licence": _licence(header),
        "origin": str(file),
        "source": f"GGUF {quantisation_words(header)}, read back as bfloat16",
    }


def _check_blocks(header: GgufHeader, names: Mapping[str, str], layers: int) -> None:
    """Check that there are as many blocks as the settings say, all with the same tensors."""
    blocks: dict[int, set[str]] = {}
    for name in names.values():
        if match := _BLOCK_OF.fullmatch(name):
            blocks.setdefault(int(match[1]), set()).add(match[2])
    if sorted(blocks) != list(range(layers)):
        refuse_gguf(header.file, f"it says {layers} blocks and holds {len(blocks)}")
    every = set().union(*blocks.values())
    for layer, block in sorted(blocks.items()):
        if missing := sorted(every - block):
            refuse_gguf(header.file, f"block {layer} lacks {missing[0]}, which other blocks have")


def _rope_factors(header: GgufHeader) -> list[float]:
    """Read the factors of Llama 3's rotary scaling: a few dozen numbers, needed for the config."""
    tensor = header.tensors.get(ROPE_FACTORS)
    if tensor is None:
        return []
    if tensor.quantisation != "F32" or tensor.elements > 1 << 12:
        refuse_gguf(header.file, f"its {ROPE_FACTORS} is no short list of F32")
    with header.file.open("rb") as handle:
        handle.seek(tensor.start)
        return list(struct.unpack(f"<{tensor.elements}f", handle.read(4 * tensor.elements)))


def _licence(header: GgufHeader) -> str:
    found = header.settings.get("general.license", "")
    return found if isinstance(found, str) and re.fullmatch(r"[A-Za-z0-9.+-]{2,60}", found) else "unknown"


def _write_companions(header: GgufHeader, config: Mapping[str, Any], folder: Path) -> None:
    """Write config, generation settings, tokenizer and a short card."""
    from transformers import AutoConfig, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    read = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    read.architectures = config["architectures"]
    read.save_pretrained(folder)
    settings = Settings(header)
    special = {f"{short}_token_id": settings.token(long) for short, long in SPECIAL.items()}
    generation = {name: token for name, token in special.items() if token is not None}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", "utf-8")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            header.file.parent, gguf_file=header.file.name, local_files_only=True, trust_remote_code=False
        )
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        refuse_gguf(
            header.file,
            f"transformers can't build its tokenizer ({str(error)[:160]})",
            "Import the model's own folder.",
        )
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(_card(header), "utf-8")


def _card(header: GgufHeader) -> str:
    return (
        f"---\nlicense: {_licence(header)}\n---\n# {header.file.stem}\n\nRead from the GGUF file "
        f"{header.file.name} ({quantisation_words(header)}) and kept as bfloat16, so its weights are "
        "those of the quantised file.\n"
    )


def _write_weights(
    header: GgufHeader, family: Family, config: Mapping[str, Any], folder: Path, job: Job
) -> None:
    from lab.models.tensorfiles import write_tensors

    names = {name: kept for kept, name in names_of(header, family).items()}
    total = sum(header.tensors[kept].elements for kept in names.values())
    done = 0

    with header.file.open("rb") as handle:

        def pieces(name: str) -> Iterator["Tensor"]:
            nonlocal done
            for piece in read_back(handle, header, names[name], heads_of(config, family, names[name])):
                kept = (piece - family.norm_offset if name.endswith("norm.weight") else piece).bfloat16()
                if not kept.isfinite().all():
                    _refuse_numbers(header, names[name])
                done += kept.numel()
                job.breathe()
                job.progress(0.05 + 0.95 * done / total, f"{done / 1e6:,.0f} of {total / 1e6:,.0f} million")
                yield kept

        write_tensors(folder, {name: header.tensors[kept].shape for name, kept in names.items()}, pieces)


def read_back(handle: BinaryIO, header: GgufHeader, name: str, heads: int = 0) -> Iterator["Tensor"]:
    """Return one tensor's values in order, as float32, a few million at a time.

    Args:
        handle: the file.
        header: its checked header.
        name: of the tensor.
        heads: of how many heads the rows lie in the order of rotary pairs, and are put back: 0, 1, 0, 1
            becomes 0, 0, 1, 1. 0 leaves them as they are.
    """
    import numpy as np
    import torch
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    tensor = header.tensors[name]
    rows = prod(tensor.shape[:-1])
    if len(tensor.shape) == 1 and heads:  # a bias: its entries are the rows
        rows = tensor.shape[0]
    row_bytes = (tensor.end - tensor.start) // rows
    unit = rows // heads if heads else 1  # rows that stay together
    step = max(1, PIECE * rows // (tensor.elements * unit)) * unit
    handle.seek(tensor.start)
    for first in range(0, rows, step):
        count = min(step, rows - first)
        raw = np.frombuffer(handle.read(count * row_bytes), np.uint8).reshape(count, row_bytes)
        values = torch.from_numpy(dequantize(raw, GGMLQuantizationType(tensor.type)).copy())
        if heads:
            values = values.view(count // unit, unit // 2, 2, -1).transpose(1, 2)
        yield values.reshape(-1)


def _refuse_numbers(header: GgufHeader, name: str) -> None:
    raise BadInput(
        f"{header.file.name}, tensor {name!r}: it holds NaN or infinite values.",
        "Every weight is a finite number.",
        "The file was damaged: download it again.",
    )
