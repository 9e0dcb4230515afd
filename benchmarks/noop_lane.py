"""Runs a lane on jobs without models: `python -m benchmarks.noop_lane LANE WORKERS [MODULE]`.

At the lab's own pace, with the settings of the environment. It ends when its standard input is closed.
"""

import sys


def main() -> None:
    """Run the lane."""
    from lab.core.settings import read_settings
    from workers.consumer import run_lane
    from workers.lane import LanePlan

    _, lane, places, *kinds = sys.argv
    jobs = kinds[0] if kinds else "benchmarks.noop_kinds"
    plan = LanePlan(
        lane=lane,  # type: ignore[arg-type]
        slots=int(places),
        jobs=jobs,
        preload=("workers.warm", jobs),
    )
    run_lane(read_settings(), plan, with_parent=True)


if __name__ == "__main__":
    main()
