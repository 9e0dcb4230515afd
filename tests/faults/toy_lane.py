"""Runs a lane's consumer on toy jobs, at a quicker pace: `python toy_lane.py DATA LANE LEASE STALL`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))


def main() -> None:
    from lab.core.settings import Settings
    from workers.consumer import run_lane
    from workers.lane import LanePlan

    _, data, lane, lease, stall = sys.argv
    plan = LanePlan(
        lane=lane,  # type: ignore[arg-type]
        lease_seconds=float(lease),
        jobs="toy_kind",
        devices="toy_kind:ToyDevices",
        cache="",
        preload=("toy_kind", "workers.bench", "workers.runner"),
        poll_seconds=0.05,
        grace_seconds=1.0,
        shutdown_seconds=1.5,
        stall_seconds=float(stall),
        stale_seconds=0.3,
        reap_seconds=0.2,
    )
    run_lane(Settings(data=Path(data)), plan, with_parent=True)


if __name__ == "__main__":
    main()
