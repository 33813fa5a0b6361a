"""The gate before the control API: connections are bounded, heads have their time, requests end before it closes."""
from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager

from aiohttp import web

from node.control_front import Front

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"


@asynccontextmanager
async def front(**limits):
    """(front, connect, gate that lets slow requests end)."""
    going_on = asyncio.Event()

    async def answer(request):
        if request.path == "/slow":
            await going_on.wait()
        return web.Response(text=f"{len(await request.read())}")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    served = Front(app, **limits)
    sock = socket.create_server(("127.0.0.1", 0))
    await served.start([sock], None)

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
