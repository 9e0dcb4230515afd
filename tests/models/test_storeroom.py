"""Hosts that share no folder share models through an object store: whole, checked, published once."""

import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import fsspec
import pytest
from tiny_models import Shape, write_model

from lab.core.errors import BadInput, Fenced, JobFailed, NotFound, Unavailable
from lab.core.job import NewModel, Outcome
from lab.core.settings import Settings
from lab.core.store import NewJob, Store, Success, open_store
from lab.core.store.rows import DatasetRow, JobRow
from lab.data.importing import import_dataset
from lab.models import hostcache
from lab.models.catalog import Catalog
from lab.models.hostcache import Borrower
from lab.models.janitor import Janitor
from lab.models.source import Source
from lab.models.storeroom import Storeroom, key_of
from workers.publishing import Shipment

SMALL = Shape()


@dataclass
class Host:
    """One machine of a lab: its own data folder; database and object store are everybody's."""

    settings: Settings
    store: Store
    catalog: Catalog = field(init=False)

    def __post_init__(self) -> None:
        self.catalog = Catalog(self.store, self.settings)

    @property
    def room(self) -> Storeroom:
        assert self.catalog.room
        return self.catalog.room

    def begin(self, name: str = "", resumable: bool = True) -> JobRow:
        """Hand in a job and claim it."""
        new = NewJob(
            "me", uuid.uuid4().hex, "merge", "batch", "", {}, "5" * 64, resumable, (name,) * bool(name)
        )
        self.store.jobs.insert(new)
        claimed = self.store.jobs.claim("batch", "w", "cpu")
        assert claimed is not None
        return claimed

    def ship(self, row: JobRow, name: str, shape: Shape = SMALL, **watch: object) -> Success:
        """Do all that an attempt does, but for the commit."""
        work = self.settings.jobs / row.id / f"work-{row.attempt}"
        made = Outcome((NewModel(name, write_model(work / name, shape=shape), "merge"),))
        shipment = Shipment.pack(made, row, work, lambda: None)
        shipment.upload(self.room, self.settings.models, Borrower(**watch))  # type: ignore[arg-type]
        return Success(models=shipment.place(self.settings.models, "me"))

    def publish(self, name: str, shape: Shape = SMALL) -> None:
        row = self.begin(name)
        self.store.jobs.succeed(row.id, row.attempt, self.ship(row, name, shape))

    def objects(self, name: str, kind: str) -> list[str]:
        """Return the objects of a model in the store."""
        row = self.store.models.get(name)
        fs, root = fsspec.core.url_to_fs(self.settings.store_url)
        return [str(path) for path in fs.find(f"{root}/{key_of(row)}") if str(path).endswith(kind)]


@dataclass
class Hosts:
    folder: Path
    store_url: str
    all: list[Host] = field(default_factory=list)

    def add(self, **settings: object) -> Host:
        data = self.folder / f"host{len(self.all)}"
        url = f"sqlite:///{self.folder}/lab.db"
        ours = Settings(data=data, database_url=url, store_url=self.store_url, **settings)  # type: ignore[arg-type]
        self.all.append(Host(ours, open_store(ours)))
        return self.all[-1]


@pytest.fixture(params=["file", "memory"])
def hosts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hosts]:
    url = f"file://{tmp_path}/bucket" if request.param == "file" else f"memory://{uuid.uuid4().hex}"
    made = Hosts(tmp_path, url)
    yield made
    for host in made.all:
        host.store.close()


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


class TestOpening:
    def test_a_model_made_on_one_host_is_opened_on_another(self, hosts: Hosts) -> None:
        one, two = hosts.add(), hosts.add()
        one.publish("pirate")
        folder = two.catalog.model("pirate")
        assert folder == two.settings.models / "pirate"
        assert content(folder) == content(one.settings.models / "pirate")
        assert two.catalog.get("pirate").is_usable

    def test_a_download_says_how_far_it_is(self, hosts: Hosts) -> None:
        one, two = hosts.add(), hosts.add()
        one.publish("pirate")
        told: list[tuple[float, str]] = []
        two.catalog.lent_to(Borrower(lambda *words: told.append(words))).model("pirate")
        assert told[-1] == (1.0, "fetching pirate from the store, 100%")

    def test_processes_that_open_it_at_once_fetch_it_once(
        self, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two = hosts.add(), hosts.add()
        one.publish("pirate")
        fetched: list[str] = []
        real = Storeroom.fetch_file

        def count(room: Storeroom, key: str, *rest: object) -> None:
            fetched.append(key)
            real(room, key, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(Storeroom, "fetch_file", count)
        threads = [threading.Thread(target=two.catalog.model, args=("pirate",)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(fetched) == len(set(fetched)) > 0
        assert content(two.settings.models / "pirate") == content(one.settings.models / "pirate")

    def test_a_damaged_object_is_refused_by_file_and_hashes(self, hosts: Hosts) -> None:
        one, two = hosts.add(), hosts.add()
        one.publish("pirate")
        (weights,) = one.objects("pirate", ".safetensors")
        fs, _ = fsspec.core.url_to_fs(hosts.store_url)
        raw = fs.cat_file(weights)
        fs.pipe_file(weights, raw[:-1] + bytes([raw[-1] ^ 1]))
        with pytest.raises(
            BadInput, match=r"model\.safetensors is damaged: its sha256 is [0-9a-f]{64}\. The mani"
        ):
            two.catalog.model("pirate")
        assert not (two.settings.models / "pirate").exists()
        assert not list((two.settings.models / ".incoming").iterdir())

    def test_another_model_under_the_same_name_takes_the_place_of_the_old_copy(self, hosts: Hosts) -> None:
        one, two = hosts.add(), hosts.add()
        one.publish("pirate")
        two.catalog.model("pirate")
        one.catalog.delete("pirate")
        one.publish("pirate", Shape(layers=3))
        assert content(two.catalog.model("pirate")) == content(one.settings.models / "pirate")

    @pytest.mark.parametrize("fault", ["cut off", "removed"])
    def test_a_copy_that_lost_a_part_is_fetched_again(self, hosts: Hosts, fault: str) -> None:
        one, two = hosts.add(), hosts.add()
        one.publish("pirate")
        weights = two.catalog.model("pirate") / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1]) if fault == "cut off" else weights.unlink()
        assert content(two.catalog.model("pirate")) == content(one.settings.models / "pirate")

    def test_a_process_that_died_while_it_fetched_leaves_nothing_in_the_way(self, hosts: Hosts) -> None:
        one, two = hosts.add(), hosts.add()
        one.publish("pirate")

        def die() -> None:
            raise Fenced("killed")

        with pytest.raises(Fenced):
            two.catalog.lent_to(Borrower(breathe=die)).model("pirate")
        left = two.settings.models / ".incoming" / "pirate"
        left.mkdir()
        (left / "model.safetensors").write_bytes(b"half")
        assert content(two.catalog.model("pirate")) == content(one.settings.models / "pirate")

    def test_what_the_store_has_lost_is_told(self, hosts: Hosts) -> None:
        one, two = hosts.add(), hosts.add()
        one.publish("pirate")
        one.room.remove(key_of(one.store.models.get("pirate")))
        with pytest.raises(NotFound, match="is not in the store"):
            two.catalog.model("pirate")

    def test_checks_read_headers_and_fetch_no_weights(self, hosts: Hosts) -> None:
        one, web = hosts.add(), hosts.add()
        one.publish("large", Shape(hidden=256, layers=4))
        shelf = web.catalog.for_checks()
        facts = Source.find("large", shelf).check()
        folder, whole = shelf.model("large"), one.settings.models / "large"
        assert facts == Source.find("large", one.catalog).check()
        weights = folder / "model.safetensors"
        assert weights.stat().st_size == (whole / weights.name).stat().st_size > hostcache.WHOLE_BYTES
        assert weights.stat().st_blocks * 512 < 100_000
        assert not (web.settings.models / "large").exists()


class TestPublishing:
    def test_a_fenced_attempts_upload_is_never_listed_and_swept_away(self, hosts: Hosts) -> None:
        cut, other = hosts.add(), hosts.add()
        first = cut.begin("pirate")
        cut.store.jobs.release(first.id, first.attempt, "its host was cut off")
        late = cut.ship(first, "pirate")  # it can still reach the store
        second = other.store.jobs.claim("batch", "w2", "cpu")
        assert second is not None
        with pytest.raises(Fenced):
            cut.store.jobs.succeed(first.id, first.attempt, late)
        assert cut.catalog.list() == []
        other.store.jobs.succeed(second.id, second.attempt, other.ship(second, "pirate"))
        assert len(other.room.keys("models")) == 2
        Janitor(other.settings, other.store).sweep(older_than=0)
        assert other.room.keys("models") == [key_of(other.store.models.get("pirate"))]
        assert content(cut.catalog.model("pirate")) == content(other.settings.models / "pirate")

    def test_a_live_jobs_upload_is_left_alone(self, hosts: Hosts) -> None:
        host = hosts.add()
        host.ship(host.begin("pirate"), "pirate")
        Janitor(host.settings, host.store).sweep(older_than=0)
        assert len(host.room.keys("models")) == 1

    def test_leftovers_are_spared_until_they_are_old_enough(self, hosts: Hosts) -> None:
        host = hosts.add()
        host.publish("pirate")
        host.store.models.delete("pirate")
        janitor = Janitor(host.settings, host.store)
        janitor.sweep(older_than=3600)
        assert len(host.room.keys("models")) == 1
        janitor.sweep(older_than=0)
        assert host.room.keys("models") == []

    def test_the_manifest_goes_up_last(self, hosts: Hosts) -> None:
        host = hosts.add()
        row = host.begin("pirate")

        def die() -> None:
            raise Fenced("cut off")

        with pytest.raises(Fenced):
            host.ship(row, "pirate", breathe=die)
        (key,) = host.room.keys("models")
        assert not host.room.has(f"{key}/manifest.json")

    def test_an_upload_that_is_whole_is_not_sent_again(
        self, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host = hosts.add()
        row = host.begin("pirate")
        work = hosts.folder / "work"
        made = Outcome((NewModel("pirate", write_model(work / "pirate"), "merge"),))
        Shipment.pack(made, row, work, lambda: None).upload(host.room, host.settings.models, Borrower())
        monkeypatch.setattr(Storeroom, "put_file", lambda *_: pytest.fail("sent again"))
        found = Shipment.left_by_an_earlier_attempt(work, host.settings.models)
        assert found is not None
        found.upload(host.room, host.settings.models, Borrower())

    def test_a_deleted_model_leaves_the_store(self, hosts: Hosts) -> None:
        host = hosts.add()
        host.publish("pirate")
        host.catalog.delete("pirate")
        assert host.room.keys("models") == []

    def test_a_store_that_does_not_answer_is_asked_again_then_fails_the_job(
        self, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two = hosts.add(), hosts.add()
        one.publish("pirate")
        monkeypatch.setattr(hostcache, "STORE_PAUSE_SECONDS", 0.01)
        monkeypatch.setattr(Storeroom, "fetch_manifest", _away)
        told: list[str] = []
        borrower = Borrower(lambda _, words: told.append(words), patience=0.1)
        with pytest.raises(JobFailed, match="away") as caught:
            two.catalog.lent_to(borrower).model("pirate")
        assert caught.value.code == "store_unavailable"
        assert len(told) > 1


def _away(*_: object) -> bytes:
    raise Unavailable("The store is away.")


class TestEviction:
    def test_the_least_recently_used_goes_when_room_is_short(self, hosts: Hosts) -> None:
        one = hosts.add()
        for name in ("a", "b", "c"):
            one.publish(name)
        size = one.store.models.get("a").size_bytes
        two = hosts.add(cache_gb=2.5 * size / 1e9)
        for name in ("a", "b", "a", "c"):
            borrower = Borrower()
            two.catalog.lent_to(borrower).model(name)
            borrower.give_back()
        kept = {folder.name for folder in two.settings.models.iterdir() if folder.name[0] != "."}
        assert kept == {"a", "c"}

    def test_what_a_live_job_uses_is_never_evicted(self, hosts: Hosts) -> None:
        one = hosts.add()
        for name in ("a", "b"):
            one.publish(name)
        two = hosts.add(cache_gb=1e-6)
        borrower = Borrower()
        folder = two.catalog.lent_to(borrower).model("a")
        two.catalog.model("b")
        assert (folder / "model.safetensors").is_file()
        borrower.give_back()
        hostcache.HostCache(two.settings, two.room).evict(0)
        assert not folder.exists()

    def test_what_the_store_lacks_is_never_evicted(self, hosts: Hosts) -> None:
        one = hosts.add(cache_gb=1e-6)
        one.publish("a")
        one.room.remove(key_of(one.store.models.get("a")))
        assert hostcache.HostCache(one.settings, one.room).evict(0) == []


class TestDatasets:
    def test_a_dataset_uploaded_on_the_web_host_is_read_on_a_worker_host(self, hosts: Hosts) -> None:
        web, worker = hosts.add(), hosts.add()
        brought = hosts.folder / "mine.jsonl"
        brought.write_text('{"instruction": "hello", "output": "ahoy"}\n' * 3)
        folder, keep = web.settings.datasets, web.catalog.keep_dataset
        row, _ = import_dataset(brought, "mine", "me", web.store, folder, keep)
        file = worker.catalog.dataset("mine")
        assert file.read_bytes() == (web.settings.datasets / "mine.jsonl").read_bytes()
        web.catalog.delete_dataset("mine")
        assert web.room.keys("datasets") == []
        assert isinstance(row, DatasetRow)

    def test_a_dataset_of_another_content_is_fetched_anew(self, hosts: Hosts) -> None:
        web, worker = hosts.add(), hosts.add()
        brought = hosts.folder / "mine.jsonl"
        for text in ("ahoy", "farewell"):
            brought.write_text(f'{{"instruction": "hello", "output": "{text}"}}\n')
            import_dataset(brought, "mine", "me", web.store, web.settings.datasets, web.catalog.keep_dataset)
            assert text in worker.catalog.dataset("mine").read_text()
            web.catalog.delete_dataset("mine")


def test_a_store_that_nobody_knows_is_refused_by_its_setting() -> None:
    with pytest.raises(BadInput, match=r"'nowhere://bucket' can't be reached.*LAB_STORE_URL"):
        Storeroom("nowhere://bucket")
