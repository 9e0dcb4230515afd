"""Rows for the tests of the pages."""

from typing import Any

from lab.core.store.rows import JobRow, ModelRow

NASTY = "<img src=x onerror=alert(1)>\"'&"


def job(**changes: Any) -> JobRow:
    """Make a job's row; keywords override its fields."""
    fields: dict[str, Any] = {
        "id": "j1", "owner": "local", "kind": "merge", "lane": "batch", "title": "ties merge of a and b",
        "spec": {"kind": "merge"}, "spec_sha256": "ab" * 32, "state": "running", "attempt": 1,
        "crash_count": 0,
        "priority": 0, "resumable": True, "stop_requested": False, "stopped_early": False, "parent_id": None,
        "worker_id": "w", "device": "CPU", "last_seq": 0, "progress": 0.5, "progress_words": "step 3 of 6",
        "seconds_left": 200.0, "created": 0.0, "started": 1.0, "finished": None, "lease_until": None,
        "error_code": None, "error_text": None, "result": {},
    }  # fmt: skip
    return JobRow(**{**fields, **changes})


def model(name: str = "m", **changes: Any) -> ModelRow:
    """Make a model's row; keywords override its fields."""
    fields: dict[str, Any] = {
        "kind": "base", "owner": "local", "parents": (), "words": "", "facts": {"parameters": 10},
        "size_bytes": 100,
        "manifest_sha256": "cd" * 32, "job_id": None, "created": 0.0,
    }  # fmt: skip
    return ModelRow(name=name, **{**fields, **changes})
