"""The answering end of the transport: ops, handlers, and what one connection may hold.

A handler that answers at once costs no task; one that returns a future is answered when that is done, without a task;
only a coroutine gets one. Budget: 2-3 us per call on this side at 64 in flight.
"""
from __future__ import annotations

import asyncio
import ssl as ssl_module
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from common.errors import HandshakeRefused, Overloaded, StorageError, TransportLost, UnknownError
from common.faultnet import Direction, FaultRules
from common.frames import (
    CHALLENGE,
    CREDIT,
    DATA,
    DOWNLOAD,
    END,
    ERROR,
    FRAME_BYTES_MAX,
    HELLO,
    OP_MAX,
    OP_MIN,
    OPENED,
    PROOF,
    REFUSED,
    REPLY,
    RESET,
    UPLOAD,
    WELCOME,
)
from common.handshake import Credentials, ServerHandshake
from common.link import Link, is_allowed_uid
from common.log import Repeats, get_logger
from common.sockets import bind_unix
from common.streams import DOWNLOAD_WINDOW_BYTES, InFlow, OutFlow, read_error, reset, send_error

HANDSHAKE_S = 5.0
UNPROVED_MAX = 64                        # connections that have not proved themselves; beyond it the oldest goes
PENDING_MAX = 16_384                     # unanswered calls per connection
STREAMS_MAX = 128                        # per connection, each at most a window of memory
STREAM_STALL_S = 60.0                    # a reader that takes nothing for so long has lost its stream
BACKLOG = 64                             # accepted per loop turn, so that a storm of reconnects lets frames through

_log = get_logger("common.transport")


class Call:
    """One request. `body` belongs to the handler; `stream` is set if the client uploads; `deadline_s` is `loop.time()`'s.

    A handler that returns LATER calls `answer` or `fail` once, afterwards.
    """

    __slots__ = ("_flags", "_session", "_stream_id", "body", "deadline_s", "fields", "op", "stream")

    def __init__(self, session: _Session, stream_id: int, op: int, fields: list[Any], body: bytes, deadline_s: float,
                 stream: InFlow | None) -> None:
        self._session, self._stream_id, self._flags = session, stream_id, op
        self.op, self.fields, self.body, self.deadline_s, self.stream = op & OP_MAX, fields, body, deadline_s, stream

    @property
    def peer(self) -> str:
        """Who asks; the name that it has proved."""
        return self._session.peer

    @property
    def role(self) -> str:
        """What the peer is."""
        return self._session.role

    def answer(self, answer: Answered) -> None:
        """What the handler promised by LATER."""
        session = self._session
        session.pending_count -= 1
        session.answer(self._stream_id, self._flags, answer)
        session.tell_idle()

    def fail(self, error: BaseException) -> None:
        """The same for an error."""
        session = self._session
        session.pending_count -= 1
        session.fail(self._stream_id, self.op, error)
        session.tell_idle()


@dataclass(slots=True)
class Download:
    """An answer with a stream: `fields` at once, then `chunks`. An error after some chunks reaches the reader as such."""

    fields: Sequence[object]
    chunks: AsyncIterator[bytes]


Answer = tuple[Sequence[object], bytes | memoryview]
Answered = Answer | Download
Handler = Callable[[Call], Answered | Awaitable[Answered] | None]
LATER = None                             # the handler answers by `Call.answer` when it can


class RpcServer:
    """Answers calls by `handlers`: op (OP_MIN .. OP_MAX) to handler. One server listens in as many places as needed."""

    def __init__(self, handlers: Mapping[int, Handler], *, credentials: Credentials, faults: FaultRules | None = None,
                 handshake_s: float = HANDSHAKE_S, unproved_max: int = UNPROVED_MAX) -> None:
        assert all(OP_MIN <= op <= OP_MAX for op in handlers)
        self.handlers, self.credentials, self.faults = handlers, credentials, faults
        self.handshake_s, self.unproved_max = handshake_s, unproved_max
        self.sessions: set[_Session] = set()
        self.unproved: dict[_Session, None] = {}                 # oldest first
        self.tasks: set[asyncio.Task[None]] = set()              # handlers and downloads, also of connections that are gone
        self.repeats = Repeats(_log, interval_s=600.0)           # a refused peer tries again every second
        self._listeners: list[asyncio.Server] = []
        self._paths: list[Path] = []

    async def listen_unix(self, path: Path) -> None:
        """Listen for processes of this user (and root) on this node. Raises `OSError`."""
        sock = bind_unix(path)
        self._paths.append(path)
        self._listeners.append(await asyncio.get_running_loop().create_unix_server(self.make_link, sock=sock, backlog=BACKLOG))

    async def listen_tcp(self, host: str, port: int, ssl: ssl_module.SSLContext | None = None) -> int:
        """Listen for other nodes; the port, which the kernel chose if 0 was given. Raises `OSError`."""
        listener = await asyncio.get_running_loop().create_server(self.make_link, host, port, ssl=ssl, backlog=BACKLOG)
        self._listeners.append(listener)
        chosen: int = listener.sockets[0].getsockname()[1]
        return chosen

    async def close(self, *, grace_s: float = 0.0) -> None:
        """Accept nothing new, wait up to `grace_s` for answers that are due, then close every connection."""
        for listener in self._listeners:
            listener.close()
        for path in self._paths:
            path.unlink(missing_ok=True)
        waiting = [session.idle() for session in self.sessions]
        if waiting and grace_s > 0:
            await asyncio.wait(waiting, timeout=grace_s)
        tasks = list(self.tasks)
        for session in list(self.sessions):
            session.link.close("the server is closing")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def make_link(self) -> Link:
        """The protocol of one incoming connection."""
        return _Session(self).link


class _Session:
    """One connection of a server."""

    def __init__(self, server: RpcServer) -> None:
        self.server = server
        self.loop = asyncio.get_running_loop()
        self.link = Link(on_made=self._on_made)
        self.link.receive = self._shake_hands
        self.link.on_lost = self._on_lost
        self.link.on_paused = self._on_paused
        self._handshake = ServerHandshake(server.credentials)
        self.peer, self.role = "", ""
        self.pending_count = 0
        self._in: dict[int, InFlow] = {}
        self._out: dict[int, tuple[OutFlow, asyncio.Task[None]]] = {}
        self._idle: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None

    def idle(self) -> asyncio.Future[None]:
        """Done when no answer is due."""
        waiter: asyncio.Future[None] = self.loop.create_future()
        self._idle.append(waiter)
        self.tell_idle()
        return waiter

    # -- before the peer has proved itself

    def _on_made(self, link: Link) -> None:
        server = self.server
        if not is_allowed_uid(link.peer_uid()):
            self._refuse(f"user {link.peer_uid()} may not connect")
            return
        server.sessions.add(self)
        server.unproved[self] = None
        if len(server.unproved) > server.unproved_max:           # a flood ages quickly, a peer's handshake takes milliseconds
            next(iter(server.unproved))._refuse("too many connections that have not proved themselves")
        self._timer = self.loop.call_later(server.handshake_s, self._refuse, "no handshake in time")

    def _shake_hands(self, stream_id: int, op: int, fields: list[Any], body: bytes) -> None:
        try:
            if op == HELLO:
                self.link.send(0, CHALLENGE, self._handshake.challenge(fields))
            elif op == PROOF:
                self._admit(fields)
            elif op == REFUSED:
                self._end_handshake(f"refused by the client: {str(fields[0])[:200] if fields else ''}")
            else:
                self._refuse("not a handshake")
        except HandshakeRefused as error:
            self._refuse(str(error.fields["reason"]))

    def _admit(self, proof: list[Any]) -> None:
        peer = self._handshake.verify(proof)
        self._settle_timer()
        self.peer, self.role = peer.name, peer.role
        self.link.trust(peer.name, FRAME_BYTES_MAX)
        self.link.receive = self._on_request if self.server.faults is None else self._on_frame
        self.link.send(0, WELCOME, ())

    def _refuse(self, reason: str) -> None:
        self.link.send(0, REFUSED, (reason,))
        self._end_handshake(reason)

    def _end_handshake(self, reason: str) -> None:
        self._settle_timer()
        name = self._handshake.peer.name
        self.server.repeats.warning("connection refused", about=f"{name} {reason}", peer=name, reason=reason)
        self.link.close(reason)

    def _settle_timer(self) -> None:
        self.server.unproved.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()

    # -- calls

    def _on_frame(self, stream_id: int, op: int, fields: list[Any], body: bytes) -> None:
        """A frame, with faults."""
        assert self.server.faults is not None
        self.server.faults.pass_on(Direction.FROM, self.peer, op & OP_MAX, fields[1:] if op >= OP_MIN else fields,
                                   partial(self._on_request, stream_id, op, fields, body))

    def _on_request(self, stream_id: int, op: int, fields: list[Any], body: bytes) -> None:
        if op < OP_MIN:
            self._on_stream_frame(stream_id, op, fields, body)
            return
        name = op & OP_MAX
        handler = self.server.handlers.get(name)
        wait_ms = fields.pop(0) if fields else None
        if type(wait_ms) is not int:
            self.link.abort("a request without a deadline")
            return
        if self.pending_count >= PENDING_MAX:
            self.fail(stream_id, name, Overloaded(what="unanswered calls of a connection", retry_after_s=1))
            return
        if op > OP_MAX and len(self._in) + len(self._out) >= STREAMS_MAX:
            self.fail(stream_id, name, Overloaded(what="streams of a connection", retry_after_s=1))
            return
        if handler is None:
            self.fail(stream_id, name, UnknownError(remote_code="unknown_op", op=name))
            return
        stream: InFlow | None = None
        if op & UPLOAD:
            stream = self._in[stream_id] = InFlow(partial(self._send, stream_id, name), wait_s=wait_ms / 1000)
        call = Call(self, stream_id, op, fields, body, self.loop.time() + wait_ms / 1000, stream)
        try:
            answer = handler(call)
        except Exception as error:
            self.fail(stream_id, name, error)
            return
        if type(answer) is tuple:
            self.answer(stream_id, op, answer)
        elif answer is LATER:
            self.pending_count += 1
        elif asyncio.isfuture(answer):
            self.pending_count += 1
            answer.add_done_callback(partial(self._on_answer_done, stream_id, op))
        elif isinstance(answer, Download):
            self.answer(stream_id, op, answer)
        else:
            self.pending_count += 1
            task = self._track(cast("Any", answer))
            task.add_done_callback(partial(self._on_answer_done, stream_id, op))

    def _on_answer_done(self, stream_id: int, op: int, future: asyncio.Future[Answered]) -> None:
        self.pending_count -= 1
        if future.cancelled():
            self.fail(stream_id, op & OP_MAX, TransportLost(peer=self.server.credentials.name, reason="the handler was stopped"))
        else:
            error = future.exception()
            if error is None:
                self.answer(stream_id, op, future.result())
            else:
                self.fail(stream_id, op & OP_MAX, error)
        self.tell_idle()

    def answer(self, stream_id: int, op: int, answer: Answered) -> None:
        """Send an answer; on a closed link nothing."""
        if not self.link.is_open:
            if isinstance(answer, Download):
                self._track(_close_chunks(answer))
            return
        try:
            if isinstance(answer, Download):
                if not op & DOWNLOAD:
                    raise TypeError(f"op {op & OP_MAX} answers a stream to a plain call")
                self._start_download(stream_id, op & OP_MAX, answer)
            elif self.server.faults is None:
                self.link.send(stream_id, REPLY, *answer)
            else:
                self._send(stream_id, op & OP_MAX, REPLY, *answer)
        except Exception as error:                               # what cannot be encoded: the client must not wait for it
            self.fail(stream_id, op & OP_MAX, error)
        else:
            if self._in:
                self._in.pop(stream_id, None)

    def fail(self, stream_id: int, op: int, error: BaseException) -> None:
        """Answer an error. Only a `StorageError` travels as itself; anything else is a bug, logged here."""
        self._in.pop(stream_id, None)
        if not isinstance(error, StorageError):
            _log.error("handler failed", op=op, peer=self.peer, exc=error)
            error = UnknownError(remote_code=type(error).__name__)
        send_error(partial(self._send, stream_id, op), ERROR, error)

    def _send(self, stream_id: int, op: int, kind: int, fields: Sequence[object], body: bytes | memoryview = b"") -> None:
        """One frame of an answer to a request `op`."""
        faults = self.server.faults
        if faults is None:
            self.link.send(stream_id, kind, fields, body)
        else:
            faults.pass_on(Direction.TO, self.peer, op, fields, partial(self.link.send, stream_id, kind, fields, body))

    # -- streams

    def _on_stream_frame(self, stream_id: int, op: int, fields: list[Any], body: bytes) -> None:
        """Frames of a stream that is over are late, not wrong."""
        if op in (DATA, END):
            flow = self._in.get(stream_id)
            if flow is not None and op == END:
                flow.end(fields)
            elif flow is not None and not flow.feed(body, is_piece_end=bool(fields)):
                self.link.abort("data beyond the window of a stream")
        elif op == CREDIT:
            if stream_id in self._out and len(fields) == 1 and type(fields[0]) is int:
                self._out[stream_id][0].grant(fields[0])
        elif op == RESET:
            error = read_error(fields)
            if stream_id in self._in:
                self._in.pop(stream_id).fail(error)
            if stream_id in self._out:
                self._out[stream_id][0].fail(error)
                self._out[stream_id][1].cancel()
        else:
            self.link.abort(f"a frame with op {op}")

    def _start_download(self, stream_id: int, op: int, answer: Download) -> None:
        send = partial(self._send, stream_id, op)
        send(OPENED, answer.fields)
        flow = OutFlow(send, self.link.drain, wait_s=STREAM_STALL_S, window_bytes=DOWNLOAD_WINDOW_BYTES)
        task = self._track(self._pump(stream_id, op, answer, flow))
        self._out[stream_id] = flow, task
        self.pending_count += 1
        task.add_done_callback(partial(self._on_pumped, stream_id))

    async def _pump(self, stream_id: int, op: int, answer: Download, flow: OutFlow) -> None:
        send = partial(self._send, stream_id, op)
        try:
            async for chunk in answer.chunks:
                await flow.write(chunk)
            flow.end()
        except StorageError as error:
            reset(send, error)
        except Exception as error:
            _log.error("download failed", op=op, peer=self.peer, exc=error)
            reset(send, UnknownError(remote_code=type(error).__name__))
        finally:
            await _close_chunks(answer)

    def _track(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self.loop.create_task(work)
        self.server.tasks.add(task)
        task.add_done_callback(self.server.tasks.discard)
        return task

    def _on_pumped(self, stream_id: int, task: asyncio.Task[None]) -> None:
        self._out.pop(stream_id, None)
        self.pending_count -= 1
        self.tell_idle()

    # -- the connection

    def _on_paused(self, is_paused: bool) -> None:
        """A client that does not take answers gets no more requests in; clients always read, so this cannot lock up."""
        transport = self.link.transport
        if transport is not None and not transport.is_closing():
            if is_paused:
                transport.pause_reading()
            else:
                transport.resume_reading()

    def _on_lost(self, reason: str) -> None:
        self._settle_timer()
        self.server.sessions.discard(self)
        if self.peer:
            _log.info("peer disconnected", peer=self.peer, reason=reason)
        error = TransportLost(peer=self.peer, reason=reason)
        for flow in self._in.values():
            flow.fail(error)
        self._in.clear()
        for out, task in list(self._out.values()):
            out.fail(error)
            task.cancel()
        for waiter in self._idle:
            if not waiter.done():
                waiter.set_result(None)

    def tell_idle(self) -> None:
        """Somebody may be waiting for the last answer."""
        if self._idle and self.pending_count == 0:
            for waiter in self._idle:
                if not waiter.done():
                    waiter.set_result(None)
            self._idle.clear()


async def _close_chunks(answer: Download) -> None:
    """A generator may hold a file."""
    close = getattr(answer.chunks, "aclose", None)
    if close is not None:
        await close()
