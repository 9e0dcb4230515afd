"""Numbers as people read them: durations, sizes, counts, ages. Plain text, no HTML."""

import math


def duration(seconds: float) -> str:
    """Say a time span with its two largest units: "3 min 20 s", "2 h 5 min", "0.4 s"."""
    if not math.isfinite(seconds) or seconds < 0:
        return "unknown"
    if seconds < 10:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def time_left(seconds: float | None) -> str:
    """Say how long a job still takes: "3 min 20 s left"; nothing where nobody knows."""
    return (
        f"{duration(max(seconds, 1) if seconds < 1 else round(seconds))} left" if seconds is not None else ""
    )


def size(count_bytes: float) -> str:
    """Say a size in decimal units: "269 MB", "1.08 GB"."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count_bytes >= scale:
            return f"{_three_digits(count_bytes / scale)} {unit}"
    return f"{count_bytes:.0f} bytes"


def count(number: float) -> str:
    """Say a large count: "134.5 M", "1.24 B", "12,400"."""
    if number >= 1e9:
        return f"{_three_digits(number / 1e9)} B"
    if number >= 1e6:
        return f"{number / 1e6:.1f} M"
    return f"{number:,.0f}"


def ago(then: float, now: float) -> str:
    """Say how long ago something was: "just now", "4 min ago", "3 days ago"."""
    seconds = max(now - then, 0)
    for unit, span in (("day", 86400), ("h", 3600), ("min", 60)):
        if seconds >= span:
            number = int(seconds // span)
            plural = "s" if unit == "day" and number > 1 else ""
            return f"{number} {unit}{plural} ago"
    return "just now"


def percent(share: float) -> str:
    """Say a share as a whole percentage: "42 %"."""
    return f"{100 * share:.0f} %"


def listed(names: list[str] | tuple[str, ...]) -> str:
    """Join names as in a sentence: "a, b and c"."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _three_digits(number: float) -> str:
    return f"{number:.2f}" if number < 10 else f"{number:.1f}" if number < 100 else f"{number:.0f}"
