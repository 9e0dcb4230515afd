"""Runs a lane's consumer on toy jobs, at a quicker pace: `python toy_lane.py DATA LANE PACE`.

PACE is a JSON object of what a LanePlan is to have otherwise, and `most_crashes`, the number of crashes that
makes a job poison. The database and the queue are those of the environment.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))


def main() -> None:
    import lab.core.store.second_chances
    from lab.core.settings import Settings
    from workers.consumer import run_lane
    from workers.lane import LanePlan

    _, data, lane, pace = sys.argv
    told = json.loads(pace)
    lab.core.store.second_chances.MOST_CRASHES = told.pop(
        "most_crashes", lab.core.store.second_chances.MOST_CRASHES
    )
    ours = {
        "poll_seconds": 0.05,
        "grace_seconds": 1.0,
        "shutdown_seconds": 1.5,
        "stale_seconds": 0.3,
        "reap_seconds": 0.2,
    }
    plan = LanePlan(
        lane=lane,  # type: ignore[arg-type]
        jobs="toy_kind",
        devices="toy_kind:ToyDevices",
        cache="",
        preload=("toy_kind", "workers.bench", "workers.runner"),
        **{**ours, **told},
    )
    run_lane(Settings(data=Path(data)), plan, with_parent=True)


if __name__ == "__main__":
    main()
