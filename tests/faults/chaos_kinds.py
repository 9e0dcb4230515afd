"""The kinds of real_kinds.py, in a lab where no number of deaths makes a job poison. For chaos_lane.py."""

from real_kinds import KINDS, parse_spec

from lab.core.store import second_chances

__all__ = ["KINDS", "parse_spec"]

NEVER = 1_000_000

second_chances.MOST_CRASHES = second_chances.MOST_STALLS = NEVER
