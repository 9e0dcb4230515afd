"""A lab with a small family of real tiny models, each with the job that made it, without running any."""

from pathlib import Path

from tiny_models import write_model

from lab.core.job import NewModel
from lab.core.settings import Settings
from lab.core.store import NewJob, Store, Success, open_store
from lab.core.store.rows import ModelRow
from lab.merge.spec import merge_of
from lab.models.publish import finish, model_row, place

OWNER = "local"


def family(data: Path) -> Store:
    """Make two bases and their linear merge, which has two children; return the store."""
    settings = Settings(data=data)
    store = open_store(settings)
    for seed, name in enumerate(("left", "right")):
        _publish(store, settings, name, {}, (), seed)
    for name, parents in (("both", ("left", "right")), ("child", ("both", "left")), ("lost", ("both",))):
        inputs = [(parent, 1.0) for parent in parents]
        spec = merge_of("linear", inputs * (3 - len(inputs)), name=name)
        _publish(store, settings, name, spec.model_dump(mode="json"), parents, 7)
    return store


def _publish(
    store: Store, settings: Settings, name: str, spec: dict[str, object], parents: tuple[str, ...], seed: int
) -> ModelRow:
    new = NewJob(OWNER, name, "merge", "batch", f"make {name}", spec, "0" * 64, resumable=True)
    store.jobs.insert(new)
    job = store.jobs.claim("batch", "w", "cpu")
    assert job is not None
    draft = write_model(settings.jobs / name, seed=seed)
    kind = "merge" if parents else "base"
    facts = {} if parents else {"licence": "Apache-2.0"}
    manifest = finish(NewModel(name, draft, kind, parents, "", facts), "s" * 64, job.id, 1, {})
    place(draft, settings.models / name)
    row = model_row(manifest, OWNER)
    store.jobs.succeed(job.id, 1, Success(models=[row]))
    return row
