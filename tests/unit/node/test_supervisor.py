"""When a worker that died starts again, and what a reload may change."""
from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from common.clock import ManualClock
from node.config import HoldfastConfig
from node.pulse import HUNG_PULSES, KILL_PULSES
from node.state import NodeState
from node.supervisor import Supervisor, merge_reload, restart_delay_s
from proxy.config import TlsConfig, UserRow

OLD = HoldfastConfig()


def test_the_first_three_restarts_in_a_minute_are_immediate():
    assert [restart_delay_s([100.0] * n, 130.0) for n in range(3)] == [0, 0, 0]


def test_a_crash_loop_slows_down_and_never_stops_trying():
    delays = [restart_delay_s([0.0] * n, 1.0) for n in range(3, 60)]
    assert delays[:6] == [1, 2, 4, 8, 16, 30] and set(delays[6:]) == {30}


def test_restarts_of_long_ago_are_forgiven():
    assert restart_delay_s([0.0] * 10, 61.0) == 0
    assert restart_delay_s([0.0] * 10 + [60.0] * 3, 61.0) == 1


def test_users_limits_and_log_follow_a_reload():
    user = UserRow(account="a", user="b", key="k")
    new = replace(OLD, auth=replace(OLD.auth, user=(user,)), log=replace(OLD.log, level="debug"),
                  limits=replace(OLD.limits, max_meta_count=7))
    assert merge_reload(OLD, new) == (new, [])


@pytest.mark.parametrize(("change", "table"), [
    ({"node": replace(OLD.node, listen="127.0.0.1:1")}, "node"),
    ({"cluster": replace(OLD.cluster, id="x")}, "cluster"),
    ({"object": replace(OLD.object, disk_fill_max=0.5)}, "object"),
    ({"policy": ()}, "policy"),
    ({"tls": TlsConfig(cert="c", key="k")}, "tls"),
])
def test_what_was_bound_at_the_start_waits_for_the_next_one(change, table):
    merged, waiting = merge_reload(OLD, replace(OLD, **change))
    assert merged == OLD and waiting == [table]


def test_settings_of_the_identity_api_wait_for_its_next_start_and_the_grace_of_the_gateways_does_not():
    assert merge_reload(OLD, replace(OLD, identity=replace(OLD.identity, token_life_s=60)))[1] == ["identity"]
    assert merge_reload(OLD, replace(OLD, identity=replace(OLD.identity, auth_grace_s=60)))[1] == []


def test_another_certificate_is_taken_by_a_reload():
    old = replace(OLD, tls=TlsConfig(cert="a", key="a"))
    new = replace(OLD, tls=TlsConfig(cert="b", key="b"))
    assert merge_reload(old, new) == (new, [])


class Line:
    """A channel whose worker answers when it is told to."""

    def __init__(self):
        self.asked = []
        self.may_answer = asyncio.Event()

    async def call(self, op, *, timeout_s, **fields):
        self.asked.append(op)
        await self.may_answer.wait()
        return {"op": op}


async def watched():
    """(supervisor of one worker that serves, its channel, what was killed)."""
    killed = []
    state = NodeState(root=Path("/x"), cluster_id="c", node_id="n", hash_prefix="", hash_suffix="", policies=(), devices=())
    supervisor = Supervisor(state, OLD, [[]], clock=ManualClock(), kill=lambda pid, number: killed.append((pid, number)))
    (slot,) = supervisor.slots
    slot.channel, slot.pid, slot.is_ready = Line(), 77, True
    return supervisor, slot.channel, killed


async def pulses(supervisor, count):
    for _ in range(count):
        supervisor.take_pulse()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_a_worker_that_answers_is_never_hung():
    supervisor, line, killed = await watched()
    line.may_answer.set()
    await pulses(supervisor, 40)
    assert line.asked == ["ping"] * 40 and not killed
    assert not supervisor.worker_facts()[0]["is_hung"]


async def test_a_silent_worker_is_told_of_and_asked_nothing_until_it_answers():
    supervisor, line, killed = await watched()
    await pulses(supervisor, 1 + HUNG_PULSES)
    assert supervisor.worker_facts()[0]["is_hung"] and not killed
    assert await supervisor.ask_all("status") == [None] and line.asked == ["ping"]
    line.may_answer.set()
    await pulses(supervisor, 1)
    assert not supervisor.worker_facts()[0]["is_hung"]
    assert await supervisor.ask_all("status") == [{"op": "status"}]


async def test_a_worker_that_stays_silent_is_killed():
    supervisor, _, killed = await watched()
    await pulses(supervisor, KILL_PULSES)
    assert not killed
    await pulses(supervisor, 1)
    assert killed == [(77, signal.SIGKILL)]
    supervisor.slots[0].pulse.forget()


async def test_a_worker_that_started_while_the_configuration_was_loaded_again_takes_the_new_one_when_it_serves():
    supervisor, line, _ = await watched()
    (slot,) = supervisor.slots
    line.may_answer.set()
    slot.given, slot.is_ready = OLD, False               # it was forked, and reads its plan
    await supervisor.reload(replace(OLD, log=replace(OLD.log, level="debug")))
    assert line.asked == []
    supervisor._take_event(slot, "ready", {})
    await supervisor._catching_up[0]
    assert line.asked == ["reload"]
    supervisor._take_event(slot, "ready", {})            # one that has it is told nothing
    assert list(supervisor._catching_up) == [0] and line.asked == ["reload"]
