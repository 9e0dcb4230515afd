"""`python -m workers chat|batch`: the consumer of one lane."""

import argparse
import sys

from lab.core.errors import LabError
from lab.core.settings import read_settings


def main() -> int:
    """Run a lane until it is stopped; return the exit code."""
    from workers.consumer import run_lane
    from workers.lane import LanePlan
    from workers.queue import LANES

    parser = argparse.ArgumentParser(prog="python -m workers", description="Run the jobs of one lane.")
    parser.add_argument("lane", choices=LANES)
    parser.add_argument("--with-parent", action="store_true", help="stop when standard input is closed")
    arguments = parser.parse_args()
    try:
        run_lane(read_settings(), LanePlan(lane=arguments.lane), with_parent=arguments.with_parent)
    except LabError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
