"""The listeners of the control API: aiohttp behind a gate that bounds connections, and how long the head of a request may take.

aiohttp itself closes a connection that has been without a request for `IDLE_S`; the service bounds bodies and their time.
"""
from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import StreamReader, web

from common.http_lines import SERVER, Connection, name_server
from common.log import Repeats, get_logger
from control.errors import IDENTITY, ErrorStyle, Fault

CONNECTIONS_MAX = 2_000                  # more are answered 503 and closed
HEAD_S = 10.0                            # from the first byte of a request to the end of its head
IDLE_S = 75.0
_TLS_S = 10.0                            # for the handshake
_log = get_logger("node.control_front")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Front:
    """Serves one application on sockets that are bound already; `close` after the last request."""

    def __init__(self, app: web.Application, *, errors: ErrorStyle = IDENTITY, connections_max: int = CONNECTIONS_MAX,
                 head_s: float = HEAD_S) -> None:
        """Takes the application over, before it is started. errors: for what never becomes a request of it."""
        self._errors = errors
        self.connections: set[_Gate] = set()
        self.connections_max, self.head_s = connections_max, head_s
        self.repeats = Repeats(_log)
        self._gates: dict[asyncio.BaseProtocol, _Gate] = {}
        app.middlewares.append(self._make_witness())
        app.on_response_prepare.append(name_server)
        self._runner = web.AppRunner(app, access_log=None)
        self._servers: list[asyncio.Server] = []

    async def start(self, sockets: list[socket.socket], tls: ssl.SSLContext | None) -> None:
        """Serve. Raises `OSError`."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        for sock in sockets:
            self._servers.append(await loop.create_server(self._make_gate, sock=sock, ssl=tls,
                                                          ssl_handshake_timeout=_TLS_S if tls is not None else None))

    async def close(self, *, drain_s: float) -> None:
        """Take no new connection, let requests end."""
        for server in self._servers:
            server.close()
        try:
            async with asyncio.timeout(drain_s):
                while any(gate.is_busy for gate in self.connections):        # noqa: ASYNC110 - at the end of a process
                    await asyncio.sleep(0.01)
        except TimeoutError:
            _log.warning("requests of the control API are cut", count=sum(gate.is_busy for gate in self.connections))
        await self._runner.cleanup()

    def _make_gate(self) -> asyncio.Protocol:
        server = self._runner.server
        assert server is not None
        inner = Connection(server, render=self._render, repeats=self.repeats, loop=asyncio.get_running_loop(),
                           keepalive_timeout=IDLE_S, auto_decompress=False)
        return _Gate(self, inner)

    def _render(self, status: int, sentence: str) -> tuple[str, str]:
        return self._errors.render(Fault(status=status, message=sentence))

    def busy_answer(self) -> bytes:
        """For a connection too many."""
        content_type, text = self._render(503, "Too many connections are open.")
        head = (f"HTTP/1.1 503 Service Unavailable\r\nServer: {SERVER}\r\nContent-Type: {content_type}\r\nRetry-After: 2\r\n"
                f"Connection: close\r\nContent-Length: {len(text)}\r\n\r\n")
        return (head + text).encode()

    def admit(self, gate: _Gate) -> None:
        """Its connection is open: with TLS after the handshake. Of one that fails in it, no gate hears."""
        self.connections.add(gate)
        self._gates[gate.inner] = gate

    def forget(self, gate: _Gate) -> None:
        """Its connection has ended."""
        self.connections.discard(gate)
        self._gates.pop(gate.inner, None)

    def _make_witness(self) -> Any:
        @web.middleware
        async def witness(request: web.Request, handler: Handler) -> web.StreamResponse:
            """A head is complete."""
            gate = self._gates.get(request.protocol)
            if gate is None:
                return await handler(request)
            gate.begin()
            try:
                return await handler(request)
            finally:
                gate.end(request.content)
        return witness


class _Gate(asyncio.Protocol):
    """One connection: passes everything on to aiohttp, unless there are too many or a head takes too long."""

    def __init__(self, front: Front, inner: asyncio.Protocol) -> None:
        self._front, self.inner = front, inner
        self.is_busy = False
        self._is_refused = False
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._body: StreamReader | None = None           # of a request that was answered before all of it was here

    def begin(self) -> None:
        """A request runs: its head is here."""
        self.is_busy = True
        self._body = None
        self._stop_timer()

    def end(self, body: StreamReader) -> None:
        """It is answered. What is still to come of its body is no head: aiohttp reads it away, or closes after 10 s of it."""
        self.is_busy = False
        self._body = None if body.is_eof() else body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        front = self._front
        transport = self._transport = cast("asyncio.Transport", transport)       # uvloop's is one in all but its bases
        if len(front.connections) >= front.connections_max:
            front.repeats.warning("connection refused: too many", about="connections", count=len(front.connections))
            self._is_refused = True
            transport.write(front.busy_answer())
            transport.close()
            return
        front.admit(self)
        self.inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._body is not None and self._body.is_eof():
            self._body = None
        if not self.is_busy and self._body is None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._front.head_s, self._cut)
        self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return None if self._is_refused else self.inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._front.forget(self)
        if not self._is_refused:
            self.inner.connection_lost(exc)

    def pause_writing(self) -> None:
        if not self._is_refused:
            self.inner.pause_writing()

    def resume_writing(self) -> None:
        if not self._is_refused:
            self.inner.resume_writing()

    def _cut(self) -> None:
        self._timer = None
        if self._transport is not None and not self.is_busy:
            self._transport.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
