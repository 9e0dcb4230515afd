"""Runs a lane for chaos.py, with the settings of the environment: `python chaos_lane.py LANE`.

At the lab's own pace, with two jobs at a time and no poison rule: see chaos_kinds.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))


def main() -> None:
    import chaos_kinds  # noqa: F401  lifts the poison rule in this process; the children import it too

    from lab.core.settings import read_settings
    from workers.consumer import run_lane
    from workers.lane import LanePlan

    plan = LanePlan(
        lane=sys.argv[1],  # type: ignore[arg-type]
        slots=2,
        jobs="chaos_kinds",
        preload=("workers.warm", "chaos_kinds"),
    )
    run_lane(read_settings(), plan, with_parent=True)


if __name__ == "__main__":
    main()
