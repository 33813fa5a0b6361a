"""Helpers of the HTTP front's tests: a server on a loopback port inside the test's own loop, and a raw client."""
from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import uvloop

from common.clock import ManualClock
from proxy.http.message import Request, Response
from proxy.http.server import App, HttpLimits, HttpServer

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
DEADLINE_S = 20.0                                # of a whole test: a hang is a failure, not a wait


def run(test: Callable[[], Coroutine[Any, Any, None]], loop: str = "uvloop") -> None:
    """Run a test's coroutine to its end on a fresh loop."""
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await test()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(bounded())


class Front:
    """`async with Front(app) as front`: a server, its clock, and what it reported."""

    def __init__(self, app: App, limits: HttpLimits | None = None, **options: Any) -> None:
        self.clock = ManualClock()
        self.done: list[tuple[Request, Response, int]] = []
        self.server = HttpServer(app, limits=limits, clock=self.clock, on_request_done=self._report, **options)
        self.port = 0

    def _report(self, request: Request, response: Response, sent_bytes: int, duration_s: float) -> None:
        self.done.append((request, response, sent_bytes))

    async def __aenter__(self) -> Front:
        _, self.port = await self.server.start(host="127.0.0.1", port=0, reuse_port=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.drain(0.5)

    async def connect(self, **options: Any) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.port, **options))

    async def exchange(self, data: bytes) -> bytes:
        """Send `data`, then read until the server closes."""
        client = await self.connect()
        client.writer.write(data)
        try:
            return await client.reader.read(-1)
        finally:
            client.close()

    def pass_time(self, seconds: float) -> None:
        """Let the clock run, with the ticks that it would have brought."""
        for _ in range(int(seconds)):
            self.clock.advance(1_000_000)
            self.server.check_deadlines()


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Vanish: the server gets a reset, not an orderly end."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, *, is_head: bool = False) -> tuple[int, dict[str, str], bytes]:
        """One answer: status, fields by lower-case name, body."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("utf-8")
        status_line, *lines = head.split("\r\n")[:-2]
        fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        status = int(status_line.split(" ")[1])
        if is_head or status in (204, 304) or status < 200:
            return status, fields, b""
        if fields.get("transfer-encoding") == "chunked":
            return status, fields, await self._chunks()
        if "content-length" in fields:
            return status, fields, await self.reader.readexactly(int(fields["content-length"]))
        return status, fields, await self.reader.read(-1)

    async def _chunks(self) -> bytes:
        body = b""
        while True:
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            piece = await self.reader.readexactly(size + 2)
            if size == 0:
                return body
            body += piece[:-2]


async def until(condition: Callable[[], bool]) -> None:
    """Turns of the loop until something that I/O brings about is there; the test's deadline bounds it."""
    while not condition():                       # noqa: ASYNC110 what is waited for has no event
        await asyncio.sleep(0)


async def settle(awaitable: Awaitable[Any] | None = None, turns: int = 20) -> None:
    """Some turns of the loop, for checks that something does not happen."""
    for _ in range(turns):
        await asyncio.sleep(0)
