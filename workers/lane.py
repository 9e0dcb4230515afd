"""How one lane works: its pace, its limits, and where its processes find what they need."""

from dataclasses import dataclass, field

from lab.core.spec import Lane

HEARTBEATS_PER_LEASE = 5


@dataclass(frozen=True)
class LanePlan:
    """What a lane's consumer and its children go by. The defaults are the lab's; tests shorten them.

    Attributes:
        lane: chat or batch.
        lease_seconds: how long a claim holds without a heartbeat.
        slots: jobs at a time; 0 lets the consumer decide.
        short_slots: how many short jobs besides, at a time; the chat lane has none.
        jobs: the module with KINDS and parse_spec. Only children import it.
        devices: `module:class` of what a child computes on, made of settings and slot. Only children import
            it.
        cache: `module:class` of the engine's cache of models; "" for none. Only the engine imports it.
        preload: modules that the fork server imports once, so that its children start at once.
        poll_seconds: how often the state of a running job is read.
        grace_seconds: how long a job may take to notice a cancel before its process is killed.
        shutdown_seconds: how long jobs may take to keep a checkpoint when the worker is stopped.
        stall_seconds: how long a job may tell nothing before its process is taken for hung.
        stale_seconds: how long a job may wait before its bell is taken for lost.
        reap_seconds: how often lapsed leases are looked for.
    """

    lane: Lane
    lease_seconds: float = 15.0
    slots: int = 0
    short_slots: int = 1
    jobs: str = "lab.jobs"
    devices: str = "workers.device:Devices"
    cache: str = "lab.models.runtime:ModelCache"
    preload: tuple[str, ...] = field(default=("workers.warm",))
    poll_seconds: float = 0.25
    grace_seconds: float = 10.0
    shutdown_seconds: float = 20.0
    stall_seconds: float = 900.0
    stale_seconds: float = 5.0
    reap_seconds: float = 2.0

    @property
    def keeps_engine(self) -> bool:
        """Whether one warm process runs all jobs of the lane, instead of a new process for each."""
        return self.lane == "chat"

    @property
    def niceness(self) -> int:
        """How far a child steps back for others: long jobs leave the page and the chat their share."""
        return 0 if self.keeps_engine else 5

    @property
    def heartbeat_seconds(self) -> float:
        """How often a lease is renewed."""
        return self.lease_seconds / HEARTBEATS_PER_LEASE
