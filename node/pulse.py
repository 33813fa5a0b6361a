"""Signs of life of a child process, asked for by the supervisor every two seconds.

One that hangs (stopped, in an endless loop, on a file system that does not answer) keeps its connections, sockets and devices and
tells nobody. It is told of when three questions were not answered, and killed, and so started again, after eight: a stopped worker
can hold up every quorum. Rounds are counted, not seconds, and a round that comes late counts for nothing: a machine that slept, or
a supervisor that was stopped too, kills none.
"""
from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

from common.clock import Clock
from common.errors import DeadlineExceeded, StorageError
from common.log import get_logger
from node.channel import Channel

PULSE_S = 2.0
HUNG_PULSES, KILL_PULSES = 3, 8
_LATE_S = 2 * PULSE_S                    # since the last round: this process did not run either
_log = get_logger("node.pulse")


class Pulse:
    """Of one child, whichever process that is at the moment."""

    def __init__(self, child: str, *, clock: Clock, kill: Callable[[int, int], None] = os.kill) -> None:
        """child: for the log."""
        self._child, self._clock, self._kill = child, clock, kill
        self._last_s = clock.monotonic_s()                       # of the last round
        self._question: asyncio.Task[None] | None = None         # the one that is out
        self.silent_pulses = 0                                   # for how many it has not been answered

    @property
    def is_hung(self) -> bool:
        """Does not answer."""
        return self.silent_pulses >= HUNG_PULSES

    def take(self, channel: Channel | None, pid: int | None) -> None:
        """One round; None: the child does not serve, and nothing is expected of it. A question stays until it is answered."""
        now_s = self._clock.monotonic_s()
        is_late, self._last_s = now_s - self._last_s > _LATE_S, now_s
        if channel is None or pid is None:
            self.forget()
            return
        if self._question is None:
            self._question = asyncio.create_task(self._ask(channel, pid), name=f"ping {self._child}")
            return
        if is_late:
            return                               # the child may have been frozen with us: it has until the next round
        self.silent_pulses += 1
        if self.silent_pulses == HUNG_PULSES:
            _log.warning("a process does not answer", child=self._child, pid=pid)
        elif self.silent_pulses % KILL_PULSES == 0:
            _log.error("a process hangs, it is killed and started again", child=self._child, pid=pid,
                       silent_s=self.silent_pulses * PULSE_S)
            try:
                self._kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass                             # it has just ended by itself

    def forget(self) -> None:
        """The process has ended; the next one starts afresh."""
        if self._question is not None:
            self._question.cancel()
            self._question = None
        self.silent_pulses = 0

    async def _ask(self, channel: Channel, pid: int) -> None:
        """One question, whenever it is answered: a slow process is not a dead one."""
        try:
            await channel.call("ping", timeout_s=2 * KILL_PULSES * PULSE_S)
        except DeadlineExceeded:
            self._question = None                # asked again in the next round; what was silent stays counted until an answer
            return
        except StorageError:
            return                               # its channel has ended: a process that stays nevertheless is killed in time
        if self.is_hung:
            _log.info("a process answers again", child=self._child, pid=pid)
        self.silent_pulses, self._question = 0, None
