"""Calls: answered each with its own, errors by class, deadlines, refusals that say why."""
from __future__ import annotations

import asyncio
import os
import random
import socket
from contextlib import asynccontextmanager

import pytest

from common.errors import (
    BodyTooLarge,
    Conflict,
    DeadlineExceeded,
    HandshakeRefused,
    NotFound,
    Overloaded,
    TransportLost,
    UnknownError,
)
from common.faultnet import FaultRules
from common.frames import FrameWriter
from common.rpc_client import QUIET_FAILURES
from common.transport import Credentials, RpcClient, RpcServer, cluster_keys, tcp_connector, unix_connector

ECHO, FUTURE, TASK, FAIL, BUG, NEVER, WHO, BAD = range(16, 24)
T = 20.0


def credentials(name, *, secret=b"secret", fingerprint="f", version=1):
    return Credentials(name=name, role="worker", fingerprint=fingerprint, keys=cluster_keys(secret), version=version)


class Handlers:
    """Handlers of every kind; `held` are the futures that the test resolves."""

    def __init__(self):
        self.held = []
        self.calls = []

    def table(self):
        return {ECHO: self.echo, FUTURE: self.future, TASK: self.task, FAIL: self.fail, BUG: lambda call: 1 // 0,
                NEVER: lambda call: asyncio.get_running_loop().create_future(),
                WHO: lambda call: ((call.peer, call.role), b""), BAD: lambda call: ((object(),), b"")}

    def echo(self, call):
        self.calls.append(call.fields)
        return call.fields, call.body

    def future(self, call):
        self.held.append((asyncio.get_running_loop().create_future(), call))
        return self.held[-1][0]

    async def task(self, call):
        await asyncio.sleep(0)
        if call.fields == ["fail"]:
            raise Conflict(what="container")
        return call.fields, call.body

    def fail(self, call):
        raise NotFound(what="object", nested={"a": [1, b"2"]})


@asynccontextmanager
async def pair(tmp_path, *, server=None, client=None, expected="", faults=None, **options):
    handlers = Handlers()
    rpc = RpcServer(handlers.table(), credentials=server or credentials("n2/w0"), **options)
    await rpc.listen_unix(tmp_path / "s")
    ask = RpcClient(unix_connector(tmp_path / "s"), credentials=client or credentials("n1/w0"), expected=expected, faults=faults,
                    rng=random.Random(1))
    handlers.server = rpc
    try:
        yield ask, handlers
    finally:
        await ask.close()
        await rpc.close()


@pytest.mark.parametrize("op", [ECHO, TASK])
async def test_fields_and_body_come_back(tmp_path, op):
    async with pair(tmp_path) as (client, _):
        for fields, body in [([], b""), ([1, "é", b"\xff", None, [1, {"a": 2}], "\udc80"], b"ab"), ([-5], bytes(5 << 20))]:
            assert await client.call(op, fields, body, timeout_s=T) == (fields, body)


async def test_the_handler_sees_the_proved_name_of_its_peer(tmp_path):
    async with pair(tmp_path) as (client, _):
        assert (await client.call(WHO, [], timeout_s=T))[0] == ["n1/w0", "worker"]
        assert client.peer.name == "n2/w0"


async def test_answers_out_of_order_reach_their_own_calls(tmp_path):
    async with pair(tmp_path) as (client, handlers):
        calls = [client.call(FUTURE, [n], timeout_s=T) for n in range(100)]
        await client.call(ECHO, [], timeout_s=T)
        held = list(handlers.held)
        random.Random(3).shuffle(held)
        for future, call in held:
            future.set_result((call.fields, str(call.fields[0]).encode()))
        assert await asyncio.gather(*calls) == [([n], str(n).encode()) for n in range(100)]


async def test_ten_thousand_calls_are_in_flight_at_once(tmp_path):
    async with pair(tmp_path) as (client, handlers):
        await client.connected(timeout_s=T)
        calls = [client.call(FUTURE, [n], b"x" * 100, timeout_s=T) for n in range(10_000)]
        await client.call(ECHO, [], timeout_s=T)
        assert len(handlers.held) == client.in_flight_count == 10_000
        for future, call in handlers.held:
            future.set_result((call.fields, b""))
        assert [fields for fields, _ in await asyncio.gather(*calls)] == [[n] for n in range(10_000)]
        assert client.in_flight_count == 0


async def test_calls_of_one_turn_leave_in_one_write(tmp_path):
    async with pair(tmp_path) as (client, _):
        await client.connected(timeout_s=T)
        writes, real = [], client._link.transport

        class Spy:
            def write(self, data):
                writes.append(data)
                real.write(data)

            def __getattr__(self, name):
                return getattr(real, name)

        client._link.transport = Spy()
        await asyncio.gather(*[client.call(ECHO, [n], b"x" * 4096, timeout_s=T) for n in range(50)])
        assert len(writes) == 1


async def test_errors_come_back_as_their_class_with_their_facts(tmp_path):
    async with pair(tmp_path) as (client, _):
        with pytest.raises(NotFound) as caught:
            await client.call(FAIL, [], timeout_s=T)
        assert caught.value.fields == {"what": "object", "nested": {"a": [1, b"2"]}}
        with pytest.raises(Conflict):
            await client.call(TASK, ["fail"], timeout_s=T)
        for op in (BUG, BAD, 999):
            with pytest.raises(UnknownError):
                await client.call(op, [], timeout_s=T)
        assert await client.call(ECHO, [1], timeout_s=T) == ([1], b"")


async def test_what_no_frame_can_hold_is_refused_at_once_and_hurts_no_other_call(tmp_path):
    async with pair(tmp_path) as (client, _):
        await client.connected(timeout_s=T)
        fine = client.call(ECHO, [1], timeout_s=T)
        with pytest.raises(BodyTooLarge):
            client.call(ECHO, [], bytes(9 << 20), timeout_s=T)
        with pytest.raises(TypeError):
            client.call(ECHO, [object()], timeout_s=T)
        assert await fine == ([1], b"")
        assert client.in_flight_count == 0


async def test_a_call_without_an_answer_ends_at_its_deadline(tmp_path):
    async with pair(tmp_path) as (client, _handlers):
        late, soon, patient = (client.call(NEVER, [], timeout_s=t) for t in (0.04, 0.01, T))
        for call in (soon, late):
            with pytest.raises(DeadlineExceeded):
                await call
        assert not patient.done()
        patient.cancel()


async def test_a_cancelled_call_drops_its_answer_quietly(tmp_path):
    async with pair(tmp_path) as (client, handlers):
        call = client.call(FUTURE, [], timeout_s=T)
        await client.call(ECHO, [], timeout_s=T)
        call.cancel()
        handlers.held[0][0].set_result(([], b""))
        await client.call(ECHO, [], timeout_s=T)
        assert client.in_flight_count == 0


async def test_no_timer_is_left_when_nothing_is_in_flight(tmp_path):
    async with pair(tmp_path) as (client, _):
        with pytest.raises(DeadlineExceeded):
            await client.call(NEVER, [], timeout_s=0.01)
        assert client._timer is None


@pytest.mark.parametrize(("other", "word"), [
    (credentials("n2/w0", secret=b"other"), "key"), (credentials("n2/w0", fingerprint="g"), "configuration"),
    (credentials("n2/w0", version=9), "version"), (credentials("n3/w0"), "not n2/w0"),
])
async def test_a_peer_that_does_not_belong_here_is_refused_and_all_calls_say_why(tmp_path, other, word):
    async with pair(tmp_path, server=other, expected="n2/w0") as (client, handlers):
        waiting = client.call(ECHO, [1], timeout_s=T)
        with pytest.raises(HandshakeRefused, match=word):
            await client.connected(timeout_s=T)
        for call in (waiting, client.call(ECHO, [2], timeout_s=T)):
            with pytest.raises(HandshakeRefused, match=word):
                await call
        assert handlers.calls == []


async def test_a_refusal_is_logged_once_per_cause_by_the_server(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr("common.log.Logger.log", lambda self, level, event, fields: written.append((event, fields)))
    async with pair(tmp_path, server=credentials("n2/w0", fingerprint="g")) as (_client, _):
        for _ in range(3):
            again = RpcClient(unix_connector(tmp_path / "s"), credentials=credentials("n1/w0"))
            with pytest.raises(HandshakeRefused):
                await again.connected(timeout_s=T)
            await again.close()
    (fields,) = [fields for event, fields in written if event == "connection refused"]
    assert fields["peer"] == "n1/w0" and "configuration" in fields["reason"]


async def test_calls_made_without_a_connection_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("common.rpc_client.WAITING_MAX", 3)
    client = RpcClient(unix_connector(tmp_path / "nobody"), credentials=credentials("n1/w0"))
    waiting = [client.call(ECHO, [], timeout_s=T) for _ in range(3)]
    with pytest.raises(Overloaded):
        await client.call(ECHO, [], timeout_s=T)
    await client.close()
    for call in waiting:
        with pytest.raises(TransportLost):
            await call
    with pytest.raises(TransportLost):
        await client.call(ECHO, [], timeout_s=T)


@pytest.mark.parametrize(("given", "longest_s"), [({}, 1.0), ({"backoff_s_max": 0.2}, 0.2)])
async def test_pauses_between_attempts_grow_up_to_their_bound(monkeypatch, given, longest_s):
    pauses, enough, sleep = [], asyncio.Event(), asyncio.sleep

    async def note_pause(pause_s):
        pauses.append(pause_s)
        if len(pauses) == 20:
            enough.set()
        await sleep(0)

    async def connect(make):
        raise ConnectionRefusedError("nobody there")

    monkeypatch.setattr("common.rpc_client.asyncio.sleep", note_pause)
    client = RpcClient(connect, credentials=credentials("n1/w0"), **given)
    client.call(ECHO, [], timeout_s=T).cancel()
    async with asyncio.timeout(T):
        await enough.wait()
    await client.close()
    assert 0.5 * longest_s <= max(pauses) <= longest_s and max(pauses[:1]) <= 0.1


@pytest.mark.parametrize("is_ending", [False, True])
async def test_a_peer_that_is_away_is_told_of_unless_all_stop(monkeypatch, is_ending):
    monkeypatch.setattr("common.rpc_client.BACKOFF_S_MAX", 0.0)
    told, tries, enough = [], [], asyncio.Event()
    monkeypatch.setattr("common.rpc_client.Repeats.warning", lambda self, event, **fields: told.append(event))

    async def connect(make):
        tries.append(1)
        if len(tries) > 2 * QUIET_FAILURES:
            enough.set()
        raise ConnectionRefusedError("nobody there")

    client = RpcClient(connect, credentials=credentials("n1/w0"))
    if is_ending:
        client.expect_end()
    call = client.call(ECHO, [], timeout_s=T)
    async with asyncio.timeout(T):
        await enough.wait()
    await client.close()
    with pytest.raises(TransportLost):
        await call
    assert bool(told) is not is_ending and set(told) <= {"cannot connect"}


async def test_a_call_without_a_connection_waits_no_longer_than_its_deadline(tmp_path):
    client = RpcClient(unix_connector(tmp_path / "nobody"), credentials=credentials("n1/w0"))
    with pytest.raises(DeadlineExceeded):
        await client.call(ECHO, [], timeout_s=0.01)
    await client.close()


async def test_a_call_beyond_the_limit_of_a_connection_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("common.rpc_server.PENDING_MAX", 2)
    async with pair(tmp_path) as (client, handlers):
        held = [client.call(FUTURE, [], timeout_s=T) for _ in range(2)]
        with pytest.raises(Overloaded):
            await client.call(FUTURE, [], timeout_s=T)
        for future, _ in handlers.held:
            future.set_result(([], b""))
        await asyncio.gather(*held)
        assert await client.call(ECHO, [1], timeout_s=T) == ([1], b"")


async def test_tcp_answers_like_a_unix_socket():
    server = RpcServer(Handlers().table(), credentials=credentials("n2/w0"))
    port = await server.listen_tcp("127.0.0.1", 0)
    client = RpcClient(tcp_connector("127.0.0.1", port), credentials=credentials("n1/w0"))
    assert await client.call(ECHO, [1], b"body", timeout_s=T) == ([1], b"body")
    await client.close()
    await server.close()


async def test_the_socket_is_private_and_is_gone_after_close(tmp_path):
    deep = tmp_path / ("d" * 60) / ("e" * 60)                    # longer than a socket's name may be
    deep.mkdir(parents=True)
    async with pair(deep) as (client, _):
        assert (deep / "s").stat().st_mode & 0o777 == 0o600
        assert await client.call(ECHO, [1], timeout_s=T) == ([1], b"")
    assert not (deep / "s").exists()


async def test_a_socket_left_by_a_dead_process_is_replaced(tmp_path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.fspath(tmp_path / "s"))
    async with pair(tmp_path) as (client, _):
        assert await client.call(ECHO, [1], timeout_s=T) == ([1], b"")


async def test_another_user_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("common.link.os.geteuid", lambda: 4242)
    monkeypatch.setattr("common.link.Link.peer_uid", lambda self: 4243)
    async with pair(tmp_path) as (client, _):
        with pytest.raises(HandshakeRefused, match="user 4243"):
            await client.connected(timeout_s=T)


async def read_all(reader):
    return await asyncio.wait_for(reader.read(), T)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n" * 4, bytes(16), FrameWriter().encode(1, ECHO, [1000, "no handshake"]),
                                  FrameWriter().encode(0, 10, [bytes(32)])])
async def test_who_does_not_shake_hands_is_cut_off_and_nothing_is_executed(tmp_path, data):
    async with pair(tmp_path) as (client, handlers):
        reader, writer = await asyncio.open_unix_connection(os.fspath(tmp_path / "s"))
        writer.write(data)
        await read_all(reader)
        writer.close()
        assert handlers.calls == []
        assert await client.call(ECHO, [1], timeout_s=T) == ([1], b"")


async def test_a_silent_connection_is_cut_off_at_the_handshake_deadline(tmp_path):
    async with pair(tmp_path, handshake_s=0.01):
        reader, writer = await asyncio.open_unix_connection(os.fspath(tmp_path / "s"))
        assert b"no handshake in time" in await read_all(reader)
        writer.close()


async def test_a_flood_of_silent_connections_does_not_keep_a_peer_out(tmp_path):
    async with pair(tmp_path, unproved_max=4) as (client, handlers):
        silent = [await asyncio.open_unix_connection(os.fspath(tmp_path / "s")) for _ in range(12)]
        assert await client.call(ECHO, [1], timeout_s=T) == ([1], b"")
        assert len(handlers.server.unproved) <= 4
        for _, writer in silent:
            writer.close()


async def test_close_waits_for_answers_that_are_due(tmp_path):
    async with pair(tmp_path) as (client, handlers):
        call = client.call(FUTURE, [], timeout_s=T)
        await client.call(ECHO, [], timeout_s=T)
        closing = asyncio.create_task(handlers.server.close(grace_s=T))
        await asyncio.sleep(0)
        handlers.held[0][0].set_result((["late"], b""))
        await closing
        assert await call == (["late"], b"")


async def test_dropped_and_held_messages_do_what_the_rule_says(tmp_path):
    faults = FaultRules()
    async with pair(tmp_path, faults=faults) as (client, handlers):
        await client.connected(timeout_s=T)
        rule = faults.drop("n2/w0", match=lambda op, fields: op == ECHO and fields == ["lost"], count_max=1)
        with pytest.raises(DeadlineExceeded):
            await client.call(ECHO, ["lost"], timeout_s=0.01)
        assert rule.seen_count == 1 and handlers.calls == []
        held = faults.hold("n2/w0", match=lambda op, fields: op == TASK)
        call = client.call(TASK, [1], timeout_s=T)
        assert await client.call(ECHO, ["lost"], timeout_s=T) == (["lost"], b"")
        assert not call.done()
        faults.release(held)
        assert await call == ([1], b"")
