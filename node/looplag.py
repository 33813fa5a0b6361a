"""How late the event loop runs what is due: ten looks a second, a histogram, and a line of log when everybody had to wait.

A loop that is held up for 20 ms holds up each client and peer of this worker. What does it is in the loop (a job that belongs to
a pool) or beside it (no CPU left, memory that is swapped, a process that was stopped).
"""
from __future__ import annotations

import asyncio

from common.clock import Clock
from common.log import Repeats, get_logger
from common.metrics import Registry

PERIOD_S = 0.1
ALARM_S = 0.02
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_log = get_logger("node.looplag")


class LoopLag:
    """One per worker: `start`, then `close`."""

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._clock = clock
        self._seconds = registry.histogram("holdfast_loop_lag_seconds", "how late the event loop was, ten looks a second",
                                           buckets=_BUCKETS_S).labels()
        self._repeats = Repeats(_log, clock=clock)
        self._due_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to look."""
        self._due_s = self._clock.monotonic_s() + PERIOD_S
        self._timer = asyncio.get_running_loop().call_later(PERIOD_S, self.look)

    def look(self) -> None:
        """Take the time that has passed since this was due."""
        lag_s = max(self._clock.monotonic_s() - self._due_s, 0.0)
        self._seconds.observe(lag_s)
        if lag_s > ALARM_S:
            self._repeats.warning("event loop was held up", ms=round(lag_s * 1e3, 1), alarm_ms=ALARM_S * 1e3)
        self.start()

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
