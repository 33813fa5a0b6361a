"""The HTTP server of a gateway worker: sockets, connections, one timer, counters. `connection.py` is what it runs.

The only timer ticks once a second while there are connections, and not at all when there are none.
"""
from __future__ import annotations

import asyncio
import contextvars
import logging
import socket
import ssl as ssl_module
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from common.clock import Clock, SystemClock
from proxy.http.connection import Connection
from proxy.http.message import CHUNK_BYTES_MAX, Request, Response
from proxy.http.parse import HeadLimits
from proxy.http.pool import BufferPool
from proxy.http.render import DateLine, MakeError, plain_error

log = logging.getLogger(__name__)

App = Callable[[Request], Coroutine[Any, Any, Response]]
OnRequestDone = Callable[[Request, Response, int, float], None]      # request, response, sent body bytes, seconds
OnRefused = Callable[[Response, str, str, bytes], None]              # answer, reason, address of the client, input

TICK_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """What one client, and all together, may take."""

    head: HeadLimits = field(default_factory=HeadLimits)
    idle_timeout_s: float = 75.0                 # between two requests
    head_timeout_s: float = 20.0                 # first to last byte of a head (and of a small body, plus its rate)
    rate_window_s: float = 20.0                  # while we wait for a client it moves `rate_bytes_s_min` in each window
    rate_bytes_s_min: int = 512
    linger_timeout_s: float = 5.0                # for a client that still sends after its last answer
    connection_count_max: int = 10_000
    body_buffer_count: int = 64                  # of 1 MiB, for all large uploads of this worker


@dataclass(slots=True)
class HttpCounters:
    """Since the start, except `open`."""

    open: int = 0
    accepted: int = 0
    requests: int = 0
    refused: int = 0                             # answered by the front: malformed, too large, too slow, too many
    timeouts: int = 0
    crashes: int = 0                             # errors that the app did not map


class HttpServer:
    """Serves `app` on any number of listening sockets of one event loop.

    make_error: builds the answers of the front itself, so that the app can add its fields.
    on_refused: told of each of them: the answer, its reason, the client's address, and what had come of the request.
    on_request_done: called once per request that reached the app, after its answer left or failed.
    """

    def __init__(self, app: App, *, limits: HttpLimits | None = None, on_request_done: OnRequestDone | None = None,
                 make_error: MakeError = plain_error, on_refused: OnRefused | None = None, clock: Clock | None = None) -> None:
        self.app = app
        self.limits = limits or HttpLimits()
        self.on_request_done = on_request_done
        self.make_error = make_error
        self.on_refused = on_refused
        self.counters = HttpCounters()
        self.pool = BufferPool(self.limits.body_buffer_count, CHUNK_BYTES_MAX)
        self.is_draining = False
        clock = clock or SystemClock()
        self.monotonic_s = clock.monotonic_s
        self.now_s = clock.monotonic_s()         # as of the last tick: what deadlines count from
        self._now_us = clock.now_us
        self._date = DateLine()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._servers: list[asyncio.Server] = []
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Event | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop of all connections."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    @property
    def connections(self) -> HttpCounters:
        """Counters for metrics."""
        return self.counters

    def protocol_factory(self) -> Connection:
        """For `loop.create_server`, and for accepted sockets that another process passed over."""
        return Connection(self)

    async def start(self, *, sock: socket.socket | None = None, host: str | None = None, port: int | None = None,
                    ssl: ssl_module.SSLContext | None = None, reuse_port: bool = True,
                    backlog: int = 1024) -> tuple[str, int]:
        """Listen on `sock`, or on `host` and `port` (0: any). Returns the address. Raises `OSError`."""
        options: dict[str, Any] = {"backlog": backlog, "ssl": ssl}
        if ssl is not None:
            options["ssl_handshake_timeout"] = self.limits.head_timeout_s
            options["ssl_shutdown_timeout"] = self.limits.linger_timeout_s
        if sock is not None:
            server = await self.loop.create_server(self.protocol_factory, sock=sock, **options)
        else:
            server = await self.loop.create_server(self.protocol_factory, host, port, reuse_port=reuse_port or None,
                                                   **options)
        self._servers.append(server)
        name = server.sockets[0].getsockname()
        return (str(name[0]), int(name[1])) if isinstance(name, tuple) else (str(name), 0)

    async def drain(self, timeout_s: float) -> int:
        """Stop accepting, let requests end, close; returns how many connections had to be cut after `timeout_s`.

        Handlers of cut connections run to their end (a commit is not cancelled); they are waited for another `timeout_s`.
        """
        self.is_draining = True
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.close_if_idle()
        self._emptied = asyncio.Event()
        try:
            async with asyncio.timeout(timeout_s):
                while self._connections:
                    self._emptied.clear()
                    await self._emptied.wait()
        except TimeoutError:
            pass
        cut = len(self._connections)
        for connection in list(self._connections):
            connection.abort()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=timeout_s)
        self._stop_timer()
        return cut

    # For connections.

    def admit(self, connection: Connection) -> bool:
        """Take a new connection into account; False if there are too many."""
        self.counters.accepted += 1
        self._connections.add(connection)
        self.counters.open = len(self._connections)
        if self._timer is None:
            self.now_s = self.monotonic_s()
            self._timer = self.loop.call_later(TICK_S, self._tick)
        return len(self._connections) <= self.limits.connection_count_max

    def forget(self, connection: Connection) -> None:
        """A connection is closed."""
        self._connections.discard(connection)
        self.counters.open = len(self._connections)
        if not self._connections and self._emptied is not None:
            self._emptied.set()

    def spawn(self, work: Coroutine[Any, Any, None], context: contextvars.Context) -> asyncio.Task[None]:
        """A task for the rest of a request; it never raises, and is held until its end."""
        task = self.loop.create_task(work, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def report(self, request: Request, response: Response, sent_bytes: int) -> None:
        """Tell the app that a request is over."""
        assert self.on_request_done is not None
        try:
            self.on_request_done(request, response, sent_bytes, self.monotonic_s() - request.received_at)
        except Exception:
            log.exception("on_request_done failed")

    def date_line(self) -> str:
        """The Date field of this second."""
        return self._date.at(self._now_us() // 1_000_000)

    def _tick(self) -> None:
        self._timer = self.loop.call_later(TICK_S, self._tick) if self._connections else None
        self.check_deadlines()

    def check_deadlines(self) -> None:
        """Apply every deadline to every connection: the work of one tick."""
        self.now_s = self.monotonic_s()
        for connection in list(self._connections):
            connection.check_deadlines(self.now_s)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def make_ssl_context(cert: str, key: str) -> ssl_module.SSLContext:
    """TLS 1.2 and up with a certificate chain and its key, PEM files. Raises `OSError`, `ssl.SSLError`."""
    context = ssl_module.create_default_context(ssl_module.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl_module.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key)
    context.set_alpn_protocols(["http/1.1"])
    return context
