"""A child that hangs is killed; one that was frozen together with its supervisor is not."""
from __future__ import annotations

import asyncio
import signal

import pytest

from common.clock import ManualClock
from common.errors import DeadlineExceeded
from node.pulse import HUNG_PULSES, KILL_PULSES, PULSE_S, Pulse

PULSE_US = int(PULSE_S * 1e6)


class Line:
    """A channel whose child answers as `answers` says, one after the other, and properly afterwards."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), 0
        self.may_answer, self.has_run_out = asyncio.Event(), asyncio.Event()

    async def call(self, op, *, timeout_s):
        self.asked += 1
        if self.answers:
            answer = self.answers.pop(0)
            if answer == "later":
                await self.may_answer.wait()
            elif answer == "too late":
                await self.has_run_out.wait()
                raise DeadlineExceeded(what=op)


class Watch:
    def __init__(self, line):
        self.line, self.clock, self.killed = line, ManualClock(), []
        self.pulse = Pulse("x", clock=self.clock, kill=lambda pid, number: self.killed.append((pid, number)))

    async def rounds(self, count, *, us=PULSE_US):
        for _ in range(count):
            self.clock.advance(us)
            self.pulse.take(self.line, 7)
            for _ in range(3):
                await asyncio.sleep(0)


async def test_one_that_stays_silent_is_killed_in_time_and_again_if_that_did_not_help():
    watch = Watch(Line("later"))
    await watch.rounds(KILL_PULSES)
    assert watch.pulse.is_hung and not watch.killed
    await watch.rounds(1)
    assert watch.killed == [(7, signal.SIGKILL)]
    await watch.rounds(KILL_PULSES)
    assert len(watch.killed) == 2
    watch.pulse.forget()


async def test_one_whose_answer_was_lost_to_its_deadline_is_asked_again_and_lives():
    watch = Watch(Line("too late"))
    watch.line.has_run_out.set()
    await watch.rounds(3 * KILL_PULSES)
    assert not watch.killed and watch.line.asked == 3 * KILL_PULSES and watch.pulse.silent_pulses == 0


async def test_silence_stays_counted_over_a_deadline_and_ends_with_an_answer():
    watch = Watch(Line("too late", "later"))
    await watch.rounds(1 + HUNG_PULSES)
    watch.line.has_run_out.set()
    await watch.rounds(2)                            # one finds it run out, one asks
    assert watch.line.asked == 2 and watch.pulse.silent_pulses == HUNG_PULSES + 1 and watch.pulse.is_hung
    watch.line.may_answer.set()
    await watch.rounds(1)
    assert not watch.pulse.is_hung and not watch.killed


@pytest.mark.parametrize("frozen_s", [2.5 * PULSE_S, 60.0, 86_400.0])
async def test_a_round_that_comes_late_counts_for_nothing(frozen_s):
    watch = Watch(Line("later"))
    await watch.rounds(4 * KILL_PULSES, us=int(frozen_s * 1e6))
    assert watch.pulse.silent_pulses == 0 and not watch.killed
    await watch.rounds(KILL_PULSES)                  # in time again, and still silent
    assert len(watch.killed) == 1
    watch.pulse.forget()
