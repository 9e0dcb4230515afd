"""Runs a lane as the lab does, with the kinds of real_kinds.py: `python real_lane.py DATA LANE`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))


def main() -> None:
    from lab.core.settings import Settings
    from workers.consumer import run_lane
    from workers.lane import LanePlan

    _, data, lane = sys.argv
    plan = LanePlan(lane=lane, jobs="real_kinds", preload=("workers.warm", "real_kinds"))  # type: ignore[arg-type]
    run_lane(Settings(data=Path(data), threads=1), plan, with_parent=True)


if __name__ == "__main__":
    main()
