"""Runs the batch lane with the kinds of scarce_kinds.py, at a quick pace: `python scarce_lane.py DATA`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))


def main() -> None:
    from lab.core.settings import Settings
    from workers.consumer import run_lane
    from workers.lane import LanePlan

    plan = LanePlan(
        lane="batch",
        jobs="scarce_kinds",
        devices="toy_kind:ToyDevices",
        preload=("workers.warm", "scarce_kinds"),
        poll_seconds=0.05,
        stale_seconds=0.3,
        reap_seconds=0.2,
    )
    run_lane(Settings(data=Path(sys.argv[1]), threads=1), plan, with_parent=True)


if __name__ == "__main__":
    main()
