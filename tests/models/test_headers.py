"""A safetensors file is believed only after every claim in its header was checked."""

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_models import Bench, write_model

from lab.core.errors import BadInput
from lab.models.headers import read_header, read_headers
from lab.models.weights import check_finite, first_bad_tensor, open_weights

GOOD = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def file_of(path: Path, header: object, data: bytes = b"\0" * 8) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def entry(**changes: object) -> dict[str, object]:
    return {"a": {**GOOD["a"], **changes}}


HOSTILE = {
    "a hole before the data": ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, "hole"),
    "overlapping offsets": (
        {**GOOD, "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        "overlaps",
    ),
    "a size that doesn't fit the shape": (entry(shape=[3]), "takes 12 bytes"),
    "a shape whose product overflows": (entry(shape=[2**40, 2**40]), "too large"),
    "an empty tensor with a huge side": (entry(shape=[0, 2**60], data_offsets=[0, 0]), "too large"),
    "a negative size": (entry(shape=[-2]), "none negative"),
    "a boolean as size": (entry(shape=[True]), "none negative"),
    "a negative offset": (entry(data_offsets=[-8, 0]), "data_offsets"),
    "offsets the wrong way round": (entry(data_offsets=[8, 0]), "data_offsets"),
    "an unknown dtype": (entry(dtype="Q4_1"), "dtype"),
    "a dtype that is no text": (entry(dtype=["F32"]), "dtype"),
    "a tensor named like a path": ({"../../x": GOOD["a"]}, "characters of a path"),
    "a tensor named like a Windows path": ({"..\\x": GOOD["a"]}, "characters of a path"),
    "a missing key": ({"a": {"dtype": "F32", "shape": [2]}}, "needs dtype"),
    "an entry that is a list": ({"a": [1]}, "needs dtype"),
    "data cut off": (entry(shape=[4], data_offsets=[0, 16]), "cut off"),
    "no tensor": ({}, "no tensor"),
    "a header that is a list": ([], "not a JSON object"),
    "metadata that is no text": ({**GOOD, "__metadata__": {"format": 1}}, "__metadata__"),
    "a header that is not UTF-8": (b'{"\xff": 1}', "not UTF-8"),
    "a header that is not JSON": (b"{oops", "not JSON"),
    "a header nested 200,000 deep": (b'{"a":' + b"[" * 200_000, "nested too deeply"),
    "a key twice": (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        "twice",
    ),
}


class TestOneFile:
    def test_a_good_file_reads_as_safetensors_itself_reads_it(self, tiny: Path) -> None:
        with safe_open(tiny / "model.safetensors", "pt") as oracle:
            expected = {name: tuple(oracle.get_slice(name).get_shape()) for name in oracle.keys()}  # noqa: SIM118
        header = read_header(tiny / "model.safetensors")
        assert expected == {name: info.shape for name, info in header.items()}
        assert {info.dtype for info in header.values()} == {"F32"}

    @pytest.mark.parametrize("case", HOSTILE)
    def test_a_lying_header_is_refused_by_file_and_reason(self, case: str, tmp_path: Path) -> None:
        header, reason = HOSTILE[case]
        with pytest.raises(BadInput, match=reason) as caught:
            read_header(file_of(tmp_path / "model.safetensors", header))
        assert caught.value.saw.startswith("model.safetensors")

    def test_a_refusal_names_the_tensor(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match=r"model\.safetensors, tensor 'a'"):
            read_header(file_of(tmp_path / "model.safetensors", entry(dtype="X")))

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "empty"),
            (b"1234567", "7 bytes"),
            (struct.pack("<Q", 2**64 - 1) + b"{}", "format allows"),
            (struct.pack("<Q", 100_000_001) + b"{}", "format allows"),
            (struct.pack("<Q", 50) + b"{}", "cut off"),
        ],
    )
    def test_a_file_that_is_too_short_for_its_header_is_refused(
        self, content: bytes, reason: str, tmp_path: Path
    ) -> None:
        (tmp_path / "x.safetensors").write_bytes(content)
        with pytest.raises(BadInput, match=reason):
            read_header(tmp_path / "x.safetensors")

    def test_bytes_after_the_last_tensor_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="5 bytes follow"):
            read_header(file_of(tmp_path / "x.safetensors", GOOD, b"\0" * 13))

    def test_a_truncated_real_file_is_refused_naming_the_tensor(self, tiny: Path, tmp_path: Path) -> None:
        whole = (tiny / "model.safetensors").read_bytes()
        (tmp_path / "model.safetensors").write_bytes(whole[:-100])
        with pytest.raises(BadInput, match=r"tensor 'model\.\S+': its data ends at byte"):
            read_header(tmp_path / "model.safetensors")

    @given(st.data())
    def test_whatever_is_damaged_the_answer_is_a_refusal_or_the_truth(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        raw = bytearray(json.dumps(GOOD).encode())
        for _ in range(data.draw(st.integers(1, 4))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        file = file_of(tmp_path_factory.mktemp("fuzz") / "x.safetensors", bytes(raw))
        try:
            [info] = read_header(file).values()
        except BadInput:
            return
        assert info.end - info.start == info.size_bytes <= 8
        assert info.end <= file.stat().st_size


class TestShards:
    @pytest.fixture
    def sharded(self, tmp_path: Path) -> Path:
        return write_model(tmp_path / "sharded", shards=2)

    def edit(self, folder: Path, **changes: str | None) -> None:
        index = folder / "model.safetensors.index.json"
        content = json.loads(index.read_text())
        for name, shard in changes.items():
            if shard is None:
                del content["weight_map"][name.replace("__", ".")]
            else:
                content["weight_map"][name.replace("__", ".")] = shard
        index.write_text(json.dumps(content))

    def test_shards_together_hold_what_one_file_holds(self, sharded: Path, tiny: Path) -> None:
        one, many = read_headers(tiny), read_headers(sharded)
        assert {name: info.shape for name, info in one.items()} == {
            name: info.shape for name, info in many.items()
        }

    @pytest.mark.parametrize("shard", ["../a.safetensors", "/etc/passwd", "a/b.safetensors", "..safetensors"])
    def test_a_shard_elsewhere_is_refused(self, sharded: Path, shard: str) -> None:
        self.edit(sharded, model__norm__weight=shard)
        with pytest.raises(BadInput, match="no file name of a shard"):
            read_headers(sharded)

    def test_a_missing_shard_is_named(self, sharded: Path) -> None:
        (sharded / "model-00002-of-00002.safetensors").unlink()
        with pytest.raises(BadInput, match=r"model-00002-of-00002\.safetensors, which is not there"):
            read_headers(sharded)

    def test_a_tensor_that_the_index_gives_to_another_shard_is_refused(self, sharded: Path) -> None:
        weight_map = json.loads((sharded / "model.safetensors.index.json").read_text())["weight_map"]
        other = next(file for file in weight_map.values() if file != weight_map["model.norm.weight"])
        self.edit(sharded, model__norm__weight=other)
        with pytest.raises(BadInput, match=r"tensor 'model\.norm\.weight': the file holds it but the index"):
            read_headers(sharded)

    def test_a_tensor_that_no_shard_holds_is_refused(self, sharded: Path) -> None:
        self.edit(sharded, model__ghost="model-00001-of-00002.safetensors")
        with pytest.raises(BadInput, match=r"tensor 'model\.ghost'.*doesn't hold it"):
            read_headers(sharded)

    def test_a_tensor_that_the_index_forgets_is_refused(self, sharded: Path) -> None:
        self.edit(sharded, model__norm__weight=None)
        with pytest.raises(BadInput, match="no shard"):
            read_headers(sharded)

    def test_an_index_without_a_map_is_refused(self, sharded: Path) -> None:
        (sharded / "model.safetensors.index.json").write_text('{"weight_map": {}}')
        with pytest.raises(BadInput, match="no weight_map"):
            read_headers(sharded)


class TestFolders:
    def test_a_folder_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="not there"):
            read_headers(tmp_path / "nowhere")

    def test_pickled_weights_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
        with pytest.raises(BadInput, match="can run code"):
            read_headers(tmp_path)

    def test_an_empty_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="holds no model"):
            read_headers(tmp_path)


class TestViews:
    def test_views_are_equal_to_what_safetensors_loads(self, bench: Bench) -> None:
        with open_weights(bench.sums) as weights:
            for file in bench.sums.glob("*.safetensors"):
                with safe_open(file, "pt") as oracle:
                    for name in oracle.keys():  # noqa: SIM118
                        assert torch.equal(oracle.get_tensor(name), weights.view(name))

    def test_every_dtype_reads_back(self, tmp_path: Path) -> None:
        saved = {
            "half": torch.randn(3, 5).half(),
            "brain": torch.randn(7).bfloat16(),
            "eight": torch.randn(4).to(torch.float8_e4m3fn),
            "whole": torch.arange(6).reshape(2, 3),
            "truth": torch.tensor([True, False]),
            "scalar": torch.tensor(2.5),
            "nothing": torch.empty(0, 4),
        }
        save_file(saved, tmp_path / "model.safetensors")
        with open_weights(tmp_path) as weights:
            for name, tensor in saved.items():
                view = weights.view(name)
                assert (tensor.dtype, tensor.shape) == (view.dtype, view.shape)
                assert torch.equal(tensor.float(), view.float())

    def test_writing_to_a_view_leaves_the_file_alone(self, tmp_path: Path) -> None:
        folder = write_model(tmp_path / "m")
        before = (folder / "model.safetensors").read_bytes()
        weights = open_weights(folder)
        view = weights.view("model.norm.weight")
        view.zero_()
        weights.close()
        assert float(view.sum()) == 0
        assert (folder / "model.safetensors").read_bytes() == before

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
    def test_a_weight_that_is_no_number_is_found_by_tensor(
        self, value: float, dtype: torch.dtype, tmp_path: Path
    ) -> None:
        bad = torch.ones(1000, dtype=dtype)
        bad[777] = value
        save_file({"good": torch.ones(5, dtype=dtype), "tainted": bad}, tmp_path / "model.safetensors")
        with open_weights(tmp_path) as weights:
            assert first_bad_tensor(weights) == "tainted"
            with pytest.raises(BadInput, match=r"model\.safetensors, tensor 'tainted'"):
                check_finite(weights)

    def test_large_finite_weights_are_not_taken_for_infinite_ones(self, tmp_path: Path) -> None:
        save_file({"a": torch.full((1000,), 3e38)}, tmp_path / "model.safetensors")
        with open_weights(tmp_path) as weights:
            assert first_bad_tensor(weights) is None
