"""A loop that is held up is counted and told of, one that is not makes no noise."""
import asyncio

import pytest

from common.log import Sink
from common.metrics import Registry
from node.looplag import ALARM_S, PERIOD_S, LoopLag


class HandClock:
    def __init__(self):
        self.s = 100.0

    def monotonic_s(self):
        return self.s

    def now_us(self):
        return int(self.s * 1e6)


@pytest.fixture
def lines(monkeypatch):
    found = []
    monkeypatch.setattr(Sink, "write", lambda self, level, name, event, fields: found.append((event, fields)))
    return found


async def lag_of(*late_s):
    """The histogram after looks that came so late."""
    registry, clock = Registry(), HandClock()
    lag = LoopLag(registry, clock)
    lag.start()
    for seconds in late_s:
        clock.s += PERIOD_S + seconds
        lag.look()
    lag.close()
    return registry.snapshot()["holdfast_loop_lag_seconds"]["samples"][0][1]


async def test_each_look_is_counted_by_how_late_it_came(lines):
    counts = await lag_of(0.0, 0.0005, 0.03, 0.3)
    assert sum(counts[:-1]) == 4 and counts[0] == 2
    assert counts[-1] == pytest.approx(0.3305)


async def test_a_loop_that_was_held_up_is_told_of_once_in_ten_seconds(lines):
    await lag_of(ALARM_S * 2, ALARM_S * 2, ALARM_S * 2)
    assert [event for event, _ in lines] == ["event loop was held up"]
    assert lines[0][1]["ms"] == pytest.approx(40, abs=0.1)


async def test_a_loop_in_time_says_nothing(lines):
    await lag_of(0.0, ALARM_S / 2)
    assert lines == []


async def test_a_job_that_blocks_the_loop_is_seen():
    registry, clock = Registry(), HandClock()
    lag = LoopLag(registry, clock)
    lag.start()
    await asyncio.sleep(0)
    clock.s += 3.0                               # nobody else had a turn meanwhile
    lag.look()
    lag.close()
    assert registry.snapshot()["holdfast_loop_lag_seconds"]["samples"][0][1][-1] == pytest.approx(2.9)
