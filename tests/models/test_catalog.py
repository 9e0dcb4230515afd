"""The catalog shows what is listed, trusts only what was published, and finds by name alone."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import insert
from tiny_models import write_model

from lab.core.errors import NotFound, UnknownName
from lab.core.job import NewModel
from lab.core.settings import Settings
from lab.core.store import Store, open_store
from lab.core.store.schema import models
from lab.models.catalog import Catalog, Link, PathShelf
from lab.models.publish import finish, model_row, place
from lab.models.weights import open_weights


class Lab:
    """A lab on a folder, and a way to list models in it without running jobs."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(data=folder)
        self.store: Store = open_store(self.settings)
        self.catalog = Catalog(self.store, self.settings)

    def add(self, name: str, *parents: str) -> Path:
        draft = write_model(self.settings.jobs / name)
        manifest = finish(NewModel(name, draft, "merge", parents), "s" * 64, "job", 1, {})
        place(draft, self.settings.models / name)
        row = replace(model_row(manifest, "local"), job_id=None, created=float(len(self.store.models.list())))
        with self.store.database.write() as connection:
            connection.execute(insert(models).values({**vars(row), "parents": list(row.parents)}))
        return self.settings.models / name


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "data")


class TestFinding:
    def test_a_model_is_found_by_its_name(self, lab: Lab) -> None:
        assert lab.add("base") == lab.catalog.model("base")

    def test_an_unknown_name_suggests_the_nearest(self, lab: Lab) -> None:
        lab.add("pirate")
        with pytest.raises(UnknownName, match="Did you mean 'pirate'"):
            lab.catalog.model("pirat")

    @pytest.mark.parametrize("ref", ["../base", "/etc", "models/base", "base/", "file:///etc", "b\u0430se"])
    def test_a_path_is_no_name(self, lab: Lab, ref: str) -> None:
        lab.add("base")
        with pytest.raises(UnknownName):
            lab.catalog.model(ref)

    def test_a_missing_folder_is_told_not_crashed_on(self, lab: Lab) -> None:
        shutil.rmtree(lab.add("base"))
        with pytest.raises(NotFound, match="folder of 'base' is missing"):
            lab.catalog.model("base")
        [entry] = lab.catalog.list()
        assert (entry.is_usable, entry.fault) == (False, "The folder of 'base' is missing.")

    def test_a_changed_manifest_is_not_trusted(self, lab: Lab) -> None:
        manifest = lab.add("base") / "manifest.json"
        manifest.write_text(manifest.read_text().replace("Llama", "Alpaca"))
        with pytest.raises(NotFound, match="not the one that was published"):
            lab.catalog.model("base")

    def test_a_folder_without_a_row_is_never_listed(self, lab: Lab) -> None:
        write_model(lab.settings.models / "stranger")
        assert lab.catalog.list() == []

    def test_a_dataset_is_found_by_its_name(self, lab: Lab) -> None:
        with pytest.raises(UnknownName):
            lab.catalog.dataset("nothing")

    def test_room_is_measured(self, lab: Lab) -> None:
        assert lab.catalog.free_disk_bytes() > 0
        assert lab.catalog.memory_bytes() > 1 << 28

    def test_the_fullest_disk_counts_and_a_reserve_stays(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        free = {lab.settings.data: 9 << 30, lab.settings.models: 3 << 30, lab.settings.jobs: 4 << 30}
        monkeypatch.setattr("shutil.disk_usage", lambda room: SimpleNamespace(free=free[room]))
        assert lab.catalog.free_disk_bytes() == (3 << 30) - (512 << 20)
        free[lab.settings.jobs] = 100 << 20
        assert lab.catalog.free_disk_bytes() == 0

    def test_a_file_that_was_cut_short_is_noticed_when_the_model_is_opened(self, lab: Lab) -> None:
        lab.add("base")
        (lab.settings.models / "base" / "config.json").write_text("{}")
        with pytest.raises(NotFound, match=r"config\.json of 'base' is not the one that was published"):
            lab.catalog.model("base")
        (lab.settings.models / "base" / "config.json").unlink()
        with pytest.raises(NotFound, match=r"config\.json of 'base' is missing"):
            lab.catalog.model("base")


class TestLineage:
    @pytest.fixture
    def family(self, lab: Lab) -> Lab:
        lab.add("base")
        lab.add("pirate", "base")
        lab.add("sums", "base")
        lab.add("both", "base", "pirate", "sums")
        lab.add("stranger")
        return lab

    def test_children_are_known(self, family: Lab) -> None:
        assert family.catalog.get("base").children == ("pirate", "sums", "both")
        assert family.catalog.get("both").children == ()

    def test_the_whole_graph(self, family: Lab) -> None:
        assert Link("base", "pirate") in family.catalog.lineage()
        assert len(family.catalog.lineage()) == 5

    def test_one_models_family_is_its_ancestors_and_descendants(self, family: Lab) -> None:
        links = family.catalog.lineage("pirate")
        assert set(links) == {Link("base", "pirate"), Link("pirate", "both")}
        assert family.catalog.lineage("stranger") == []


class TestDeleting:
    def test_a_deleted_model_is_gone_from_list_and_disk(self, lab: Lab) -> None:
        folder = lab.add("base")
        lab.catalog.delete("base")
        assert (lab.catalog.list(), folder.exists()) == ([], False)

    def test_a_model_whose_folder_is_missing_can_be_deleted(self, lab: Lab) -> None:
        shutil.rmtree(lab.add("base"))
        lab.catalog.delete("base")
        assert lab.catalog.list() == []

    def test_a_job_that_has_a_deleted_model_open_goes_on(self, lab: Lab) -> None:
        with open_weights(lab.add("base")) as weights:
            norm = weights.view("model.norm.weight")
            lab.catalog.delete("base")
            assert float(norm.sum()) == 64

    def test_deleting_by_a_path_deletes_nothing(self, lab: Lab) -> None:
        folder = lab.add("base")
        with pytest.raises(UnknownName):
            lab.catalog.delete("../models/base")
        assert folder.is_dir()


class TestCommandLine:
    def test_a_folder_is_found_by_its_path(self, tiny: Path, tmp_path: Path) -> None:
        assert PathShelf(None, tmp_path / "out").model(str(tiny)) == tiny

    def test_a_path_opens_no_lab(self, tiny: Path, tmp_path: Path) -> None:
        def opened() -> Catalog:
            raise AssertionError("the lab was opened")

        assert PathShelf(opened, tmp_path / "out").model(str(tiny)) == tiny

    def test_a_name_is_found_in_the_catalog(self, lab: Lab, tmp_path: Path) -> None:
        folder = lab.add("base")
        assert PathShelf(lambda: lab.catalog, tmp_path).model("base") == folder

    def test_what_is_neither_is_refused(self, tmp_path: Path) -> None:
        shelf = PathShelf(None, tmp_path)
        with pytest.raises(NotFound, match="no folder and no model"):
            shelf.model("./nowhere")
        with pytest.raises(NotFound, match="no file and no dataset"):
            shelf.dataset("./nowhere.jsonl")

    def test_free_disk_is_known_before_the_output_folder_is(self, tmp_path: Path) -> None:
        assert PathShelf(None, tmp_path / "a" / "b").free_disk_bytes() > 0
