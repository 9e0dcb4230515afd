"""The web host: the lab's own services, without workers. A line in is an order, a line out what is to tell.

Orders: {"submit": spec}, {"dataset": [path, name]}, {"follow": job}. What a page reads, `follow` reads:
events after a sequence number.
"""

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

POLL_SECONDS = 0.125


def main() -> None:
    from app import build_services
    from lab.core.settings import Settings
    from lab.core.store import open_store
    from lab.data.importing import import_dataset
    from lab.jobs import parse_spec

    settings = Settings()
    services = build_services(settings, open_store(settings))
    tell({"ready": True})
    for line in sys.stdin:
        order = json.loads(line)
        if "submit" in order:
            tell({"submitted": services.desk.submit(parse_spec(order["submit"]), "local").id})
        elif "dataset" in order:
            path, name = order["dataset"]
            folder, keep = settings.datasets, services.catalog.keep_dataset
            tell({"dataset": import_dataset(Path(path), name, "local", services.store, folder, keep)[0].name})
        else:
            threading.Thread(target=follow, args=(services.desk, order["follow"]), daemon=True).start()


def follow(desk: Any, job: str) -> None:
    """Read a job's events as a page does, from the first to the last."""
    seen = 0
    while True:
        for event in desk.follow(job, seen):
            seen = event.seq
            tell({"job": job, "seq": event.seq, "time": event.time, "kind": event.kind, **event.payload})
        time.sleep(POLL_SECONDS)


def tell(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
