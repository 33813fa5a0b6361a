"""Calls and events between supervisor and worker, and what the end of one means for the other."""
from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager

import pytest

from common.errors import DeadlineExceeded, NotFound, Overloaded, StorageError, TransportLost
from node.channel import CALLS_WAITING_MAX, Channel


async def serve(op, fields):
    if op == "echo":
        return {"got": fields["value"]}
    if op == "missing":
        raise NotFound(what="worker", reason="gone")
    if op == "never":
        await asyncio.Event().wait()
    raise ValueError("a bug")


@asynccontextmanager
async def pair(**caller):
    ours, theirs = socket.socketpair()
    one, two = Channel(**caller), Channel(on_call=serve)
    await one.open(ours)
    await two.open(theirs)
    try:
        yield one, two
    finally:
        await one.close()
        await two.close()


async def test_a_call_is_answered_with_what_the_other_end_returns():
    async with pair() as (one, _):
        assert await one.call("echo", timeout_s=5, value=["é\n", None, 2**70]) == {"got": ["é\n", None, 2**70]}


async def test_answers_find_their_calls():
    async with pair() as (one, _):
        answers = await asyncio.gather(*(one.call("echo", timeout_s=5, value=n) for n in range(50)))
        assert [answer["got"] for answer in answers] == list(range(50))


async def test_an_error_of_ours_is_raised_again_with_its_fields():
    async with pair() as (one, _):
        with pytest.raises(NotFound) as caught:
            await one.call("missing", timeout_s=5)
        assert caught.value.fields == {"what": "worker", "reason": "gone"}


async def test_a_bug_in_a_handler_is_an_error_and_not_the_end():
    async with pair() as (one, _):
        with pytest.raises(StorageError, match="a bug"):
            await one.call("bug", timeout_s=5)
        assert await one.call("echo", timeout_s=5, value=1) == {"got": 1}


async def test_a_call_without_an_answer_ends_at_its_deadline():
    async with pair() as (one, _):
        with pytest.raises(DeadlineExceeded):
            await one.call("never", timeout_s=0.01)


async def test_the_end_of_the_other_process_ends_what_waits_and_is_told():
    ended = asyncio.Event()
    async with pair(on_end=ended.set) as (one, two):
        waiting = asyncio.create_task(one.call("never", timeout_s=30))
        await asyncio.sleep(0)
        await two.close()
        with pytest.raises(TransportLost):
            await waiting
        await ended.wait()
        with pytest.raises(TransportLost):
            await one.call("echo", timeout_s=5, value=1)


async def test_events_arrive_in_their_order():
    seen = []
    async with pair(on_event=lambda event, fields: seen.append((event, fields.get("n")))) as (one, two):
        two.emit("ready")
        two.emit("count", n=2)
        await one.call("echo", timeout_s=5, value=0)
        assert seen == [("ready", None), ("count", 2)]


async def test_half_a_line_of_a_killed_process_is_its_end_and_no_error():
    ours, theirs = socket.socketpair()
    ended = asyncio.Event()
    one = Channel(on_end=ended.set)
    await one.open(ours)
    theirs.sendall(b'{"event": "re')
    theirs.close()
    await ended.wait()
    with pytest.raises(TransportLost):
        one.emit("x")
    await one.close()


async def test_a_sign_of_life_is_given_beside_a_call_that_is_under_way_and_other_calls_wait_for_it():
    async with pair() as (one, _):
        long = asyncio.create_task(one.call("never", timeout_s=30))
        next_one = asyncio.create_task(one.call("echo", timeout_s=30, value=1))
        for _ in range(3):
            await one.call("ping", timeout_s=30)
        assert not long.done() and not next_one.done()
        long.cancel()
        next_one.cancel()


async def test_a_call_too_many_behind_one_that_takes_long_is_told_so_and_signs_of_life_go_on():
    async with pair() as (one, _):
        calls = [asyncio.create_task(one.call("never", timeout_s=30))]
        await one.call("ping", timeout_s=30)             # that one is under way now
        calls += [asyncio.create_task(one.call("never", timeout_s=30)) for _ in range(CALLS_WAITING_MAX)]
        await one.call("ping", timeout_s=30)
        with pytest.raises(Overloaded):
            await one.call("echo", timeout_s=30, value=1)
        await one.call("ping", timeout_s=30)
        assert not any(call.done() for call in calls)
        for call in calls:
            call.cancel()


async def test_the_end_of_the_caller_is_told_beside_a_call_that_is_under_way():
    ours, theirs = socket.socketpair()
    ended = asyncio.Event()
    callee = Channel(on_call=serve, on_end=ended.set)
    await callee.open(theirs)
    ours.sendall(b'{"id": 1, "op": "never"}\n')
    ours.close()
    await ended.wait()
    await callee.close()
