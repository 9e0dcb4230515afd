"""Runs a lane where something is scarce, at a quick pace: `python scarce_lane.py DATA LANE`.

The batch lane has the kinds of scarce_kinds.py; the chat lane toys, and an engine that keeps a large model.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))


def main() -> None:
    from lab.core.settings import Settings
    from workers.consumer import run_lane
    from workers.lane import LanePlan

    _, data, lane = sys.argv
    batch = {"jobs": "scarce_kinds", "preload": ("workers.warm", "scarce_kinds")}
    chat = {"jobs": "toy_kind", "cache": "scarce_cache:KeptModels", "preload": ("toy_kind", "workers.bench")}
    plan = LanePlan(
        lane=lane,  # type: ignore[arg-type]
        devices="toy_kind:ToyDevices",
        **(batch if lane == "batch" else chat),  # type: ignore[arg-type]
        poll_seconds=0.05,
        stale_seconds=0.3,
        reap_seconds=0.2,
    )
    run_lane(Settings(data=Path(data), threads=1), plan, with_parent=True)


if __name__ == "__main__":
    main()
