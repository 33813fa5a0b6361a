"""Now: the one place that reads a clock. Code takes a `Clock`, tests and the simulation pass a `ManualClock`."""
from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks: one that names moments, one that measures durations."""

    def now_us(self) -> int:
        """Microseconds since 1970-01-01 UTC."""

    def monotonic_s(self) -> float:
        """Seconds that never run backwards; only differences mean something."""


class SystemClock:
    """The clocks of this machine."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic_s(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that stands still until `advance`."""

    def __init__(self, now_us: int = 1_700_000_000_000_000) -> None:
        self._now_us = now_us

    def now_us(self) -> int:
        return self._now_us

    def monotonic_s(self) -> float:
        return self._now_us / 1e6

    def advance(self, us: int) -> None:
        self._now_us += us
