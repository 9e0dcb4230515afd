"""Named places where a fault test may make something go wrong: LABFAIL=name[:nth]:deed, with a deed of DEEDS.

Without that setting a failpoint costs one comparison of strings.
"""

import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from lab.core.errors import BadInput

DEEDS = ("kill", "raise", "sleep", "nap", "enospc", "eio", "erofs")
PLACES = ("popped", "claimed", "started", "breathe", "worked", "packed", "uploaded", "placing", "placed")
"""In order: rung for, not yet claimed; claimed, not yet in a process; about to run; at a breath; run, not yet
sealed; sealed, not yet published; in the object store (where there is one), nowhere else yet; between
chunks of a copy to the disk of the models; published, not yet committed."""
SLEEP_SECONDS, NAP_SECONDS = 3600.0, 2.0


@dataclass(frozen=True)
class Failpoints:
    """At most one failpoint, and what happens there.

    Attributes:
        place: its name; "" for none.
        nth: at which visit it strikes, counted over all processes of the data folder; 0 for each.
        deed: kill this process, raise, sleep for good, sleep for two seconds and go on, or have the
            disk say that it is full, has an error or can only be read.
        tally: the file that counts the visits.
    """

    place: str = ""
    nth: int = 0
    deed: str = "raise"
    tally: Path = Path()

    @classmethod
    def parse(cls, text: str, data: Path) -> "Failpoints":
        """Read the setting.

        Raises:
            BadInput: it names no place or deed of ours.
        """
        if not text:
            return cls()
        place, _, rest = text.partition(":")
        nth, _, deed = rest.rpartition(":")
        if place not in PLACES or deed not in DEEDS or not (nth or "0").isdigit():
            raise BadInput(
                f"LABFAIL is {text!r}.",
                f"It is name[:nth]:deed with a name of {', '.join(PLACES)} and a deed of {', '.join(DEEDS)}.",
                "Unset it, unless you test faults.",
                field="LABFAIL",
            )
        return cls(place, int(nth or 0), deed, data / f"failpoint-{place}")

    def reach(self, place: str) -> None:
        """Pass a named place; where it is the failpoint and its time has come, do the deed."""
        if place != self.place or not self._is_time():
            return
        if self.deed == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.deed == "sleep":
            time.sleep(SLEEP_SECONDS)
        elif self.deed == "nap":
            time.sleep(NAP_SECONDS)
            return
        elif self.deed in ("enospc", "eio", "erofs"):
            number = getattr(errno, self.deed.upper())
            raise OSError(number, os.strerror(number))
        raise RuntimeError(f"failpoint {place}")

    def _is_time(self) -> bool:
        if not self.nth:
            return True
        with self.tally.open("ab") as tally:
            tally.write(b".")
        return self.tally.stat().st_size == self.nth
