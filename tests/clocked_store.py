"""A store whose clock the test moves, and jobs in it in every state."""

from collections.abc import Callable

from sqlalchemy import literal_column, text

from lab.core.store import NewJob, Store, Success
from lab.core.store.rows import JobRow

CLOCK = literal_column("(SELECT seconds FROM clock)")


def open_with_clock(url: str) -> Store:
    store = Store(url, now=CLOCK)
    store.database.migrate()
    with store.database.write() as connection:
        connection.execute(text("CREATE TABLE clock (seconds DOUBLE PRECISION)"))
        connection.execute(text("INSERT INTO clock VALUES (1000.0)"))
    return store


def pass_time(store: Store, seconds: float) -> None:
    with store.database.write() as connection:
        connection.execute(text("UPDATE clock SET seconds = seconds + :s"), {"s": seconds})


def wish(key: str = "k", **fields: object) -> NewJob:
    values = {
        "owner": "ada",
        "key": key,
        "kind": "merge",
        "lane": "batch",
        "title": "a merge",
        "spec": {"a": 1},
    }
    return NewJob(**{**values, "spec_sha256": "0" * 64, "resumable": True, **fields})  # type: ignore[arg-type]


def running(store: Store, **fields: object) -> JobRow:
    store.jobs.insert(wish(**fields))
    job = store.jobs.claim("batch", "w1", "cpu")
    assert job is not None
    return job


REACH: dict[str, Callable[[Store], JobRow]] = {
    "queued": lambda store: store.jobs.insert(wish())[0],
    "running": running,
    "cancelling": lambda store: store.jobs.request_cancel(running(store).id),
    "succeeded": lambda store: store.jobs.succeed(running(store).id, 1, Success()),
    "failed": lambda store: store.jobs.fail(running(store).id, 1, "bad", "it broke"),
    "cancelled": lambda store: store.jobs.request_cancel(REACH["queued"](store).id),
}
