"""Calls inside of a process are harmed like messages: lost both ways, late, and whole again without rules."""
from __future__ import annotations

import asyncio

import pytest

from common.errors import Conflict, DeadlineExceeded
from common.faultnet import Direction, FaultRules
from node.local_faults import FaultyObjectClient, FaultyRowClient, Seam

LOST_S = 0.01


class Device:
    """An object client that counts its calls."""

    device_id, is_local, peer_id = 3, True, "u3"

    def __init__(self):
        self.calls = []

    def look(self, key, ballot, **options):
        self.calls.append("look")
        return "reply"

    def done(self, key, stamp):
        self.calls.append("done")

    async def page(self, key, page, **options):
        self.calls.append("page")
        return "page"

    async def read_body(self, key, body_id, offset, count, *, timeout_s):
        self.calls.append("body")
        yield b"piece"


OPTIONS = {"seen_us": 0, "is_durable": False, "read_body": False}


def test_without_rules_a_call_is_a_call():
    device = Device()
    assert FaultyObjectClient(device, FaultRules()).look(b"k", None, **OPTIONS, timeout_s=1) == "reply"


async def test_a_lost_question_is_never_asked_and_a_lost_answer_was():
    device, rules = Device(), FaultRules()
    client = FaultyObjectClient(device, rules)
    for direction, asked in ((Direction.TO, 0), (Direction.FROM, 1)):
        rule = rules.drop(direction=direction)
        with pytest.raises(DeadlineExceeded):
            await client.look(b"k", None, **OPTIONS, timeout_s=LOST_S)
        assert len(device.calls) == asked
        rules.remove(rule)


async def test_a_held_call_is_answered_when_it_is_let_go():
    device, rules = Device(), FaultRules()
    rule = rules.hold(direction=Direction.FROM)
    answer = FaultyObjectClient(device, rules).look(b"k", None, **OPTIONS, timeout_s=30)
    assert device.calls == ["look"] and not answer.done()
    rules.release(rule)
    assert await answer == "reply"


async def test_coroutines_streams_and_hints_pass_the_same_seam():
    device, rules = Device(), FaultRules()
    rules.drop(match=lambda op, fields: False)
    objects, rows = FaultyObjectClient(device, rules), FaultyRowClient(device, rules)
    assert await rows.page(b"k", None, instance=1, peer=None, timeout_s=30) == "page"
    assert [piece async for piece in objects.read_body(b"k", 1, 0, 5, timeout_s=30)] == [b"piece"]
    objects.done(b"k", None)
    assert device.calls == ["page", "body", "done"]
    rules.drop()
    objects.done(b"k", None)
    with pytest.raises(DeadlineExceeded):
        await rows.page(b"k", None, instance=1, peer=None, timeout_s=LOST_S)
    with pytest.raises(DeadlineExceeded):
        await anext(objects.read_body(b"k", 1, 0, 5, timeout_s=LOST_S))
    assert device.calls == ["page", "body", "done"]


async def test_errors_come_through_raised_or_set():
    rules = FaultRules()
    rules.drop(match=lambda op, fields: False)
    seam = Seam(rules, 3)

    def refuse():
        raise Conflict(what="it")
    with pytest.raises(Conflict):
        await seam.call(16, refuse, timeout_s=30)
    inner = asyncio.get_running_loop().create_future()
    outer = seam.call(16, lambda: inner, timeout_s=30)
    inner.set_exception(Conflict(what="it"))
    with pytest.raises(Conflict):
        await outer
