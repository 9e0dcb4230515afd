"""The batch lane of one worker host, two jobs at a time, with the kinds of host_kinds.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))


def main() -> None:
    from lab.core.settings import Settings
    from workers.consumer import run_lane
    from workers.lane import LanePlan

    plan = LanePlan(lane="batch", slots=2, jobs="host_kinds", preload=("workers.warm", "host_kinds"))
    run_lane(Settings(threads=1), plan, with_parent=True)


if __name__ == "__main__":
    main()
