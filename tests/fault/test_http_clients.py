"""Clients that stop, vanish or stall: nothing is left behind and nobody else notices."""
import asyncio
import os
import random
import socket

import pytest

from common.errors import BadRequest, BodyTooShort, ClientTimeout, Overloaded
from proxy.http.message import FileBody, FileSpan, Response
from proxy.http.outlet import SLICE_BYTES, WRITE_HIGH_BYTES
from proxy.http.server import HttpLimits
from tests.unit.proxy.http.front_helpers import LOOPS, Front, run, settle, until

pytestmark = pytest.mark.parametrize("loop", sorted(LOOPS))


def put(length, path="/"):
    return f"PUT {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n".encode()


GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


class Reader:
    """An app that reads the whole body and keeps what happened."""

    def __init__(self):
        self.outcomes = []
        self.started = 0

    async def __call__(self, request):
        self.started += 1
        try:
            await request.body.discard(1 << 40)
            self.outcomes.append("whole")
        except Exception as error:
            self.outcomes.append(error)
        return Response(200, [], b"done")


@pytest.mark.parametrize("announced", [100_000, 300_000, 50_000_000, None])
@pytest.mark.parametrize("sent", [0, 70_000, 1_500_000])
def test_a_client_that_goes_away_in_its_body_is_noticed_and_its_buffers_return(announced, sent, loop):
    if announced is not None and sent >= announced:
        sent = announced - 1

    async def test():
        app = Reader()
        async with Front(app) as front:
            client = await front.connect()
            if announced is None:
                client.writer.write(b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % (sent + 1))
            else:
                client.writer.write(put(announced))
            await client.send(bytes(sent))
            await until(lambda: app.started)
            client.close()
            await until(lambda: app.outcomes)
            (error,) = app.outcomes
            assert isinstance(error, BodyTooShort) and error.fields["got_bytes"] >= sent
            await until(lambda: front.server.connections.open == 0)
            assert front.server.pool.used == 0 and len(front.done) == 1 and not front.server._tasks
    run(test, loop)


def test_a_small_body_cut_short_never_reaches_the_app(loop):
    async def test():
        app = Reader()
        async with Front(app) as front:
            client = await front.connect()
            await client.send(put(4096) + bytes(4000))
            await until(lambda: front.server.connections.open)
            client.close()
            await until(lambda: front.server.connections.open == 0)
            assert app.started == 0
    run(test, loop)


def test_chunk_garbage_reaches_the_reader_and_closes_the_connection(loop):
    async def test():
        app = Reader()
        async with Front(app) as front:
            answer = await front.exchange(
                b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n" + GET)
            assert isinstance(app.outcomes[0], BadRequest) and answer.count(b"HTTP/1.1") == 1
            assert b"Connection: close" in answer
    run(test, loop)


def test_a_handler_runs_to_its_end_when_its_client_vanishes(loop):
    gate, ended = [], []

    async def app(request):
        gate.append(asyncio.Event())
        await gate[0].wait()
        ended.append("committed")
        return Response(200, [], b"nobody reads this")

    async def test():
        async with Front(app) as front:
            client = await front.connect()
            await client.send(GET)
            await until(lambda: gate)
            client.reset()
            await until(lambda: front.server.connections.open == 0)
            gate[0].set()
            await until(lambda: front.done)
            assert ended == ["committed"] and front.done[0][2] == 0
    run(test, loop)


@pytest.mark.parametrize("kind", ["iterator", "file", "bytes"])
def test_a_reader_that_stops_holds_little_memory_and_is_cut_off(kind, loop, tmp_path):
    path = tmp_path / "body"
    size = 40_000_000
    with open(path, "wb") as file:
        file.truncate(size)
    produced, closed = [0], []

    async def produce():
        try:
            while produced[0] < size:
                produced[0] += 1_000_000
                yield bytes(1_000_000)
        finally:
            closed.append("iterator")

    async def app(request):
        if kind == "iterator":
            return Response(200, [], produce(), content_length=size)
        if kind == "bytes":
            return Response(200, [], bytes(size))
        fd = os.open(path, os.O_RDONLY)
        return Response(200, [], FileBody([FileSpan(fd, 0, size)], size, lambda: (closed.append("file"), os.close(fd))))

    async def test():
        async with Front(app) as front:
            client = await connect_small(front)
            client.send(GET)
            await until(lambda: any(c._out.is_blocked for c in front.server._connections))
            await settle(turns=200)
            (connection,) = front.server._connections
            if kind != "bytes":
                assert connection._transport.get_write_buffer_size() <= WRITE_HIGH_BYTES + SLICE_BYTES
                assert produced[0] <= 12_000_000             # what the kernel's buffers take, and one piece
            front.pass_time(60)
            await until(lambda: front.server.connections.open == 0)
            await until(lambda: front.done)
            assert front.done[0][2] < size or kind == "bytes"
            assert closed == ([] if kind == "bytes" else [kind]) and front.server.connections.timeouts == 1
            client.close()
    run(test, loop)


async def connect_small(front):
    """A client with a small receive buffer that never reads by itself."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", front.port))
    return client


def test_a_reader_that_stops_while_pipelining_stops_the_server_reading(loop):
    answers = []

    async def app(request):
        answers.append(1)
        return Response(200, [], bytes(60_000))

    async def test():
        async with Front(app) as front:
            client = await connect_small(front)
            sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(client, GET * 200_000))
            await until(lambda: any(c._is_read_paused for c in front.server._connections))
            (connection,) = front.server._connections
            before = len(answers)
            await settle(turns=200)
            assert len(answers) == before and len(connection._input) < 600_000
            assert connection._transport.get_write_buffer_size() < 1_000_000
            sending.cancel()
            client.close()
            await until(lambda: front.server.connections.open == 0)
    run(test, loop)


@pytest.mark.parametrize("announced", [100_000, 5_000_000])
def test_a_writer_that_stalls_gets_a_timeout_and_gives_its_buffer_back(announced, loop):
    async def test():
        app = Reader()
        async with Front(app) as front:
            client = await front.connect()
            await client.send(put(announced) + bytes(50_000))
            await until(lambda: app.started)
            await settle()
            front.pass_time(45)
            await until(lambda: app.outcomes)
            assert isinstance(app.outcomes[0], ClientTimeout) and front.server.pool.used == 0
            assert (await client.answer())[1]["connection"] == "close"
            client.close()
    run(test, loop)


def test_a_slow_but_steady_writer_is_served(loop):
    async def test():
        app = Reader()
        async with Front(app, HttpLimits(rate_bytes_s_min=100)) as front:
            client = await front.connect()
            await client.send(put(100_000))
            await until(lambda: app.started)
            for i in range(100):
                await client.send(bytes(1000))
                (connection,) = front.server._connections
                await until(lambda i=i, connection=connection: connection._received_bytes >= (i + 1) * 1000)
                front.pass_time(5)
            assert (await client.answer())[2] == b"done" and app.outcomes == ["whole"]
            client.close()
    run(test, loop)


@pytest.mark.parametrize("beginning", [b"GET / HT", put(1000) + bytes(10)])
def test_an_unfinished_request_gets_408(beginning, loop):
    async def test():
        async with Front(Reader()) as front:
            client = await front.connect()
            await client.send(beginning)
            await until(lambda: any(not c.is_idle for c in front.server._connections))
            front.pass_time(10)
            assert front.server.connections.refused == 0
            front.pass_time(20)
            assert (await client.answer())[0] == 408
            assert await client.reader.read(-1) == b""
            client.close()
    run(test, loop)


def test_an_idle_connection_is_closed_in_silence_and_a_handler_may_take_its_time(loop):
    gate = []

    async def app(request):
        if request.path == b"/long":
            gate.append(asyncio.Event())
            await gate[0].wait()
        return Response(200)

    async def test():
        async with Front(app) as front:
            idle, busy = await front.connect(), await front.connect()
            await idle.send(GET)
            await idle.answer()
            await busy.send(GET.replace(b"/ ", b"/long "))
            await until(lambda: gate)
            front.pass_time(200)
            assert await idle.reader.read(-1) == b""
            gate[0].set()
            assert (await busy.answer())[0] == 200
            busy.close()
    run(test, loop)


def test_a_client_that_sends_on_after_its_last_answer_is_cut_off(loop):
    async def app(request):
        return Response(403)

    async def test():
        async with Front(app) as front:
            client = await front.connect()
            client.writer.write(put(1 << 40) + bytes(100_000))
            await client.answer()
            assert front.server.connections.open == 1        # lingers, so that the answer is not lost to a reset
            client.writer.write(bytes(3_000_000))
            front.pass_time(10)
            await until(lambda: front.server.connections.open == 0)
            client.close()
    run(test, loop)


def test_a_file_that_became_shorter_breaks_the_answer_off(loop, tmp_path):
    path = tmp_path / "short"
    path.write_bytes(bytes(1000))
    closed = []

    async def app(request):
        fd = os.open(path, os.O_RDONLY)
        return Response(200, [], FileBody([FileSpan(fd, 0, 5000)], 5000, lambda: (closed.append(1), os.close(fd))))

    async def test():
        async with Front(app) as front:
            client = await front.connect()
            await client.send(GET)
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await client.answer()
            assert closed == [1]
            client.close()
    run(test, loop)


def test_a_vanished_client_closes_the_body_that_nobody_gets(loop):
    closed, gate = [], []

    async def app(request):
        gate.append(asyncio.Event())
        await gate[0].wait()
        return Response(200, [], FileBody([b"abc"], 3, lambda: closed.append(1)))

    async def test():
        async with Front(app) as front:
            client = await front.connect()
            await client.send(GET)
            await until(lambda: gate)
            client.reset()
            await until(lambda: front.server.connections.open == 0)
            gate[0].set()
            await until(lambda: closed)
            assert closed == [1]
    run(test, loop)


def test_the_timer_rests_when_there_are_no_connections(loop):
    async def test():
        async with Front(Reader()) as front:
            assert front.server._timer is None
            client = await front.connect()
            await client.send(GET)
            await client.answer()
            assert front.server._timer is not None
            client.close()
            await until(lambda: front.server.connections.open == 0)
            front.server._timer.cancel()
            front.server._tick()
            assert front.server._timer is None
    run(test, loop)


STUCK = put(5_000_000) + bytes(100)


async def connect_stuck(front, count, sent=STUCK):
    clients = []
    for _ in range(count):
        clients.append(await front.connect())
        await clients[-1].send(sent)
    return clients


def test_uploads_that_send_nothing_leave_the_buffers_to_the_others(loop):
    async def test():
        app = Reader()
        async with Front(app, HttpLimits(body_buffer_count=2)) as front:
            stuck = await connect_stuck(front, 50)
            await until(lambda: app.started == 50)
            await settle()
            assert front.server.pool.used == 0
            client = await front.connect()
            await client.send(put(3_000_000) + bytes(3_000_000))
            await until(lambda: app.outcomes)
            assert app.outcomes == ["whole"]
            for other in (*stuck, client):
                other.close()
            await until(lambda: front.server.connections.open == 0)
            assert front.server.pool.used == 0 and front.server.pool._parked_bytes == 0
    run(test, loop)


@pytest.mark.parametrize("sent", [65_536, 200_000, 700_000, 1_200_000])
def test_an_upload_that_pauses_gives_its_buffer_back_and_goes_on_later_where_it_was(sent, loop):
    body = random.Random(sent).randbytes(3_000_000)
    got = []

    async def app(request):
        while piece := await request.body.read_chunk():
            got.append(piece)
        return Response(200, [], b"done")

    async def test():
        async with Front(app, HttpLimits(body_buffer_count=4)) as front:
            client = await front.connect()
            await client.send(put(len(body)) + body[:sent])
            for start, stop in ((sent, sent + 70_000), (sent + 70_000, len(body))):
                await until(lambda at=start: sum(c._received_bytes for c in front.server._connections) >= at)
                await settle()
                front.pass_time(3)
                assert front.server.pool.used == 0
                await client.send(body[start:stop])
            assert (await client.answer())[2] == b"done"
            assert b"".join(got) == body
            assert front.server.pool.used == 0 and front.server.pool._parked_bytes == 0
            client.close()
    run(test, loop)


def test_what_stalled_uploads_keep_is_bounded_and_they_end_for_those_that_wait(loop):
    async def test():
        app = Reader()
        async with Front(app, HttpLimits(body_buffer_count=2)) as front:        # half a MiB may be kept beside the buffers
            stuck = await connect_stuck(front, 3, put(5_000_000))
            await until(lambda: app.started == 3)
            for other in stuck:
                await other.send(bytes(450_000))
            await settle(turns=100)
            front.pass_time(3)                                                   # the third gets the buffer of one that is kept
            await settle(turns=100)
            front.pass_time(3)
            assert front.server.pool.used == 2 and 400_000 < front.server.pool._parked_bytes <= 1 << 19
            client = await front.connect()
            await client.send(put(3_000_000) + bytes(300_000))
            await until(lambda: front.server.pool.is_wanted)
            front.pass_time(1)
            await client.send(bytes(2_700_000))
            await until(lambda: "whole" in app.outcomes)
            assert [type(outcome) for outcome in app.outcomes] == [ClientTimeout, str]
            for other in (*stuck, client):
                other.close()
            await until(lambda: front.server.connections.open == 0)
            assert front.server.pool.used == 0 and front.server.pool._parked_bytes == 0
    run(test, loop)


def test_an_upload_that_gets_no_buffer_is_told_so_within_seconds(loop):
    async def test():
        app = Reader()
        async with Front(app, HttpLimits(body_buffer_count=1)) as front:
            held = front.server.pool.take()
            client = await front.connect()
            await client.send(put(3_000_000) + bytes(300_000))
            await until(lambda: front.server.pool.is_wanted)
            front.pass_time(4)
            await until(lambda: app.outcomes)
            assert isinstance(app.outcomes[0], Overloaded) and app.outcomes[0].fields["retry_after_s"] > 0
            assert (await client.answer())[1]["connection"] == "close"
            client.close()
            front.server.pool.give_back(held)
    run(test, loop)


def test_what_came_with_the_heads_of_stuck_uploads_is_bounded_too(loop):
    async def test():
        app = Reader()
        async with Front(app, HttpLimits(body_buffer_count=1)) as front:        # a quarter of a MiB may be kept
            stuck = await connect_stuck(front, 20, put(5_000_000) + bytes(200_000))
            await until(lambda: app.started == 20)
            await settle(turns=200)
            front.pass_time(12)
            await until(lambda: app.outcomes)
            assert {type(outcome) for outcome in app.outcomes} <= {ClientTimeout, Overloaded}
            intakes = [c._intake for c in front.server._connections]
            kept = [intake.received_bytes for intake in intakes if intake is not None and intake.error is None]
            assert sum(kept) <= (1 << 20) + (1 << 19) + 20 * 65_536 and front.server.pool._parked_bytes <= 1 << 18
            for other in stuck:
                other.close()
            await until(lambda: front.server.connections.open == 0)
            assert front.server.pool.used == 0 and front.server.pool._parked_bytes == 0
    run(test, loop)


def test_an_upload_whose_first_bytes_find_no_room_is_told_at_once_when_to_come_again(loop):
    """No tick passes: a thousand of them may arrive within a second."""
    async def door(request):
        try:
            await request.body.discard(1 << 40)
        except Overloaded as error:
            return Response(503, [("Retry-After", str(error.fields["retry_after_s"]))], b"")
        except BodyTooShort:
            pass
        return Response(200, [], b"done")

    async def test():
        async with Front(door, HttpLimits(body_buffer_count=1)) as front:       # half a MiB may be kept
            stuck = await connect_stuck(front, 20, put(5_000_000) + bytes(200_000))
            await until(lambda: front.server.counters.requests == 20)
            intakes = [c._intake for c in front.server._connections if c._intake is not None]
            kept = sum(intake.received_bytes for intake in intakes if intake.error is None)
            assert kept <= (1 << 19) + 20 * 65_536
            answers = [await client.answer() for client in stuck[-5:]]
            assert [(answer[0], answer[1]["retry-after"]) for answer in answers] == [(503, "2")] * 5
            for other in stuck:
                other.close()
            await until(lambda: front.server.connections.open == 0)
            assert front.server.pool.used == 0 and front.server.pool._parked_bytes == 0
    run(test, loop)
