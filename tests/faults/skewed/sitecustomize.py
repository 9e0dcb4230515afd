"""Sets the clock of every Python process that finds this first on its path: CLOCK_SKEW seconds off.

The kernel's clock is not touched: a database beside such a process keeps its own time, as one on another
machine would.
"""

import datetime as dt
import os
import time

SKEW = float(os.environ.get("CLOCK_SKEW", "0"))
_time, _time_ns, _datetime = time.time, time.time_ns, dt.datetime


class SkewedDatetime(_datetime):
    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> "SkewedDatetime":
        return cls.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls) -> "SkewedDatetime":
        return cls.now(dt.UTC).replace(tzinfo=None)


time.time = lambda: _time() + SKEW
time.time_ns = lambda: _time_ns() + int(SKEW * 1e9)
dt.datetime = SkewedDatetime  # type: ignore[misc]
