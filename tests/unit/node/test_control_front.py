"""The gate before the control API: connections are bounded, heads have their time, requests end before it closes."""
from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import asynccontextmanager

from aiohttp import web

from node.control_front import Front

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"


@asynccontextmanager
async def front(*, tls=None, **limits):
    """(front, connect, gate that lets slow requests end)."""
    going_on = asyncio.Event()

    async def answer(request):
        if request.path == "/slow":
            await going_on.wait()
        if request.path == "/early":                 # as a token that is missing: before the body is read
            return web.Response(text="early")
        return web.Response(text=f"{len(await request.read())}")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    served = Front(app, **limits)
    sock = socket.create_server(("127.0.0.1", 0))
    await served.start([sock], tls)

    async def connect():
        return await asyncio.open_connection(*sock.getsockname()[:2])

    try:
        async with asyncio.timeout(30):
            yield served, connect, going_on
    finally:
        going_on.set()
        await served.close(drain_s=5)


async def until(is_so):
    while not is_so():                               # noqa: ASYNC110 - nothing else tells
        await asyncio.sleep(0)


async def read_answer(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    return int(head.split()[1]), await reader.readexactly(length)


async def test_one_connection_too_many_is_told_so_and_when_one_ends_there_is_room_again():
    async with front(connections_max=2) as (served, connect, _):
        pairs = [await connect() for _ in range(2)]
        for reader, writer in pairs:
            writer.write(HEAD + b"\r\n")
            assert await read_answer(reader) == (200, b"0")
        reader, writer = await connect()
        assert (await read_answer(reader))[0] == 503 and await reader.read() == b""
        writer.close()
        pairs[0][1].close()
        await until(lambda: len(served.connections) == 1)
        reader, writer = await connect()
        writer.write(HEAD + b"\r\n")
        assert await read_answer(reader) == (200, b"0")


async def test_of_a_handshake_that_fails_nothing_is_kept():
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)        # without a certificate no handshake succeeds
    async with front(tls=tls) as (served, connect, _):
        for _ in range(5):
            reader, writer = await connect()
            writer.write(HEAD + b"\r\n")
            try:
                await reader.read()
            except ConnectionResetError:
                pass
            writer.close()
        assert not served.connections and not served._gates


async def test_a_head_that_does_not_end_is_cut_however_it_trickles():
    async with front(head_s=0.2) as (_, connect, _):
        reader, writer = await connect()
        writer.write(HEAD)

        async def trickle():
            while True:
                await asyncio.sleep(0.01)
                writer.write(b"X: y\r\n")

        trickling = asyncio.create_task(trickle())
        try:
            assert await reader.read() == b""
        except ConnectionResetError:
            pass
        finally:
            trickling.cancel()


async def test_a_request_that_takes_long_is_no_head_that_takes_long_and_the_next_one_on_the_connection_is_served():
    async with front(head_s=0.05) as (served, connect, going_on):
        reader, writer = await connect()
        writer.write(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab")
        await until(lambda: any(gate.is_busy for gate in served.connections))
        await asyncio.sleep(0.2)                     # longer than a head may take
        writer.write(b"cd")
        going_on.set()
        assert await read_answer(reader) == (200, b"4")
        writer.write(HEAD + b"\r\n")
        assert await read_answer(reader) == (200, b"0")


async def test_a_body_that_comes_after_its_answer_is_no_head_and_the_head_after_it_has_its_time():
    async with front(head_s=0.05) as (served, connect, _):
        reader, writer = await connect()
        writer.write(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n")
        assert await read_answer(reader) == (200, b"early")
        (gate,) = served.connections
        body = gate._body
        writer.write(b"ab")
        await until(lambda: body.total_bytes == 2)
        assert gate._timer is None
        writer.write(b"cd")
        await until(body.is_eof)
        assert gate._timer is None
        writer.write(HEAD)
        await until(lambda: gate._timer is not None)
        assert await reader.read() == b""                # cut: it does not end


async def test_requests_that_run_end_before_it_closes():
    async with front() as (served, connect, going_on):
        reader, writer = await connect()
        writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: any(gate.is_busy for gate in served.connections))
        closing = asyncio.create_task(served.close(drain_s=20))
        await asyncio.sleep(0)
        going_on.set()
        assert await read_answer(reader) == (200, b"0")
        await closing
        assert not served.connections
