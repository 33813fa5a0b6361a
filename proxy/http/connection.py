"""One client connection: one request at a time, answers in order, the rest of the input waits.

Input is in one of four phases:

    HEAD    bytes gather in `_input` until a head, and the small body behind it, are complete
    BUSY    a handler runs or an answer is being sent; input belongs to the body, then to the next requests (bounded)
    SKIP    the answer is out, a small rest of the body is dropped, then HEAD
    LINGER  the last answer is out, our side is closed; input is dropped until the client closes or a deadline passes,
            because closing with unread input would reset the connection and take the answer away from the client
"""
from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator, Coroutine
from enum import IntEnum
from typing import TYPE_CHECKING, Any, cast

from common.errors import ClientTimeout
from proxy.http.chunked import LAST_CHUNK, encode_chunk_head
from proxy.http.drive import TaskHandle, go_on, start
from proxy.http.intake import POOLED_BYTES_MIN, Intake, PooledIntake, QueueIntake
from proxy.http.message import READY_BYTES_MAX, Body, FileBody, Request, Response
from proxy.http.outlet import ConnectionGone, Outlet
from proxy.http.parse import Head, ProtocolError, check_partial, parse_head
from proxy.http.render import body_length, forbids_body, render_head

if TYPE_CHECKING:
    from proxy.http.server import HttpServer

log = logging.getLogger(__name__)

PIPELINE_BYTES_MAX = 65_536          # input behind the request that is being answered; more stops the reading
HELD_BYTES_MAX = 131_072             # answers of one callback that wait for each other, to leave in one write
SKIP_BYTES_MAX = 65_536              # an unread rest of a body that is cheaper to read than a new connection


class Phase(IntEnum):
    """What input means, see above. CLOSED: it means nothing."""

    HEAD = 0
    BUSY = 1
    SKIP = 2
    LINGER = 3
    CLOSED = 4


HEAD, BUSY, SKIP, LINGER, CLOSED = Phase


class Connection(asyncio.Protocol):
    """The protocol of one accepted socket. All of it runs in the loop's thread."""

    __slots__ = ("_head", "_held_bytes", "_held_out", "_input", "_intake", "_is_eof", "_is_pumping", "_is_read_paused",
                 "_keep_alive", "_may_linger", "_need_bytes", "_out", "_peer", "_phase", "_received_bytes", "_scanned",
                 "_scheme", "_server", "_since", "_skip_bytes", "_transport", "_waits_for", "_window_bytes",
                 "_window_start")

    _transport: asyncio.Transport
    _out: Outlet

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._phase = HEAD
        self._input = b""
        self._need_bytes = 1                     # `_input` shorter than this cannot be complete
        self._scanned = 0                        # bytes of `_input` known to hold no end of a head
        self._head: Head | None = None           # parsed, its small body not complete
        self._intake: Intake | None = None       # of the present request, if its body was not here at once
        self._held_out: list[bytes] = []         # answers of this callback, to leave in one write
        self._held_bytes = 0
        self._is_pumping = False
        self._may_linger = False
        self._is_read_paused = False
        self._is_eof = False
        self._keep_alive = True
        self._skip_bytes = 0
        self._since = server.now_s               # when the present wait for the client began
        self._received_bytes = 0
        self._waits_for = ""                     # minimum-rate rule: which wait the window is about
        self._window_start = 0.0
        self._window_bytes = 0

    # The transport's calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)         # uvloop's is no subclass of it
        self._out = Outlet(self._server.loop, self._transport)
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if isinstance(peer, tuple) else ""
        self._scheme = "http" if transport.get_extra_info("sslcontext") is None else "https"
        if not self._server.admit(self):
            self._refuse(503, "Too many connections.")
        self._since = self._server.now_s

    def data_received(self, data: bytes) -> None:
        self._received_bytes += len(data)
        phase = self._phase
        if phase is HEAD:
            self._input = self._input + data if self._input else data
            if len(self._input) >= self._need_bytes:
                self._pump()
            if self._out.is_paused and len(self._input) > PIPELINE_BYTES_MAX:
                self.pause_intake()
        elif phase is BUSY:
            self._receive_behind(data)
        elif phase is SKIP:
            self._skip(data)

    def eof_received(self) -> bool:
        self._is_eof = True
        if self._phase is not BUSY:
            return False
        if self._intake is not None:
            self._intake.fail_short()
        return self._scheme == "http"            # half-closed: answers can still go out

    def connection_lost(self, exc: Exception | None) -> None:
        self._out.lose()
        if self._phase is not BUSY:
            self._phase = CLOSED
        if self._intake is not None:
            self._intake.fail_short()
        self._input = b""
        self._server.forget(self)

    def pause_writing(self) -> None:
        self._out.pause()

    def resume_writing(self) -> None:
        self._out.resume()
        if self._phase is HEAD:
            self.resume_intake()
            self._pump()

    # What an intake asks of us (`intake.IntakeOwner`).

    def send_continue(self) -> None:
        self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def pause_intake(self) -> None:
        if not self._is_read_paused and not self._out.is_lost:
            self._is_read_paused = True
            self._transport.pause_reading()

    def resume_intake(self) -> None:
        if self._is_read_paused and not self._out.is_lost:
            self._is_read_paused = False
            self._transport.resume_reading()

    def divert_input(self, receiver: PooledIntake | None) -> None:
        if not self._out.is_lost:
            self._transport.set_protocol(self if receiver is None else _Diversion(self, receiver))

    def count_input(self, count: int) -> None:
        self._received_bytes += count

    # Input.

    def _receive_behind(self, data: bytes) -> None:
        """Input while a request is being answered."""
        intake = self._intake
        if intake is not None and not intake.is_complete:
            data = intake.feed(data)
            if not data:
                return
        if intake is None or intake.is_complete:
            self._input += data
            if len(self._input) > PIPELINE_BYTES_MAX:
                self.pause_intake()

    def _skip(self, data: bytes) -> None:
        taken = min(self._skip_bytes, len(data))
        self._skip_bytes -= taken
        if self._skip_bytes == 0:
            self._await_head(data[taken:])

    def _await_head(self, data: bytes) -> None:
        """The next request may come; `data` is its beginning."""
        self._phase = HEAD
        self._input = data
        self._need_bytes, self._scanned = 1, 0
        self._since = self._server.now_s
        if self._is_pumping:
            return
        if data or self._is_eof or self._server.is_draining:     # not from here: this may be the task of the last answer
            self._server.loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Answer all complete requests of the input that can be answered at once; their answers leave in one write."""
        self._is_pumping = True
        try:
            while self._phase is HEAD and len(self._input) >= self._need_bytes and not self._out.is_paused:
                self._step()
        except ProtocolError as error:
            self._refuse(error.status, error.reason)
        finally:
            self._is_pumping = False
            if self._held_out:
                self._release_held()
            if self._phase is LINGER:
                self._shut_down()
            elif self._phase is HEAD and not self._out.is_paused and (
                    self._is_eof or (self._server.is_draining and self.is_idle)):
                self._close()

    def _step(self) -> None:
        """Take one request from the input and run it, or note how much is missing. Raises `ProtocolError`."""
        head = self._head
        if head is None:
            head = self._take_head()
            if head is None:
                return
        length = head.length
        if length is None or length > READY_BYTES_MAX or head.expects_continue:
            self._run(head, self._open_body(head))
        elif len(self._input) < length:
            if self._head is None:
                self._head, self._since = head, self._server.now_s
            self._need_bytes = length
        else:
            data = self._input
            self._head = None
            self._input = data[length:]
            self._run(head, Body(length, data[:length]))

    def _take_head(self) -> Head | None:
        data = self._input
        limits = self._server.limits.head
        end = data.find(b"\r\n\r\n", max(0, self._scanned - 3)) + 4
        if data[0] == 13:
            self._drop_empty_lines()
            return None
        if end < 4:
            if not self._scanned:
                self._since = self._server.now_s
            check_partial(data, limits, self._scanned)
            self._scanned = len(data)
            self._need_bytes = len(data) + 1
            return None
        self._scanned = 0
        self._need_bytes = 1
        if end == len(data):
            head = parse_head(data, limits)
            self._input = b""
        else:
            head = parse_head(data[:end], limits)
            self._input = data[end:]
        return head

    def _drop_empty_lines(self) -> None:
        """Old clients send an empty line after a body (RFC 9112, 2.2)."""
        data = self._input
        rest = data.lstrip(b"\r\n")
        empty = data[:len(data) - len(rest)]
        if empty.replace(b"\r\n", b"") not in ((b"",) if rest else (b"", b"\r")):
            raise ProtocolError(400, "Malformed request: a line ends with CR LF.")
        self._input = rest if rest or empty[-1] != 13 else b"\r"
        self._need_bytes = len(self._input) + 1 if not rest else 1

    def _open_body(self, head: Head) -> Body:
        """A body that the handler has to wait for."""
        server = self._server
        length = head.length
        intake: Intake
        if length is not None and length > POOLED_BYTES_MIN and self._scheme == "http":
            intake = PooledIntake(self, length, server.pool, expects_continue=head.expects_continue)
        else:
            intake = QueueIntake(self, length, expects_continue=head.expects_continue)
        self._intake = intake
        data, self._input = self._input, b""
        if data:
            self._input = intake.feed(data)
        if isinstance(intake, PooledIntake) and not intake.is_complete:
            self.pause_intake()                  # until the handler wants it: a refused upload takes no buffer
        return Body(length, source=intake)

    # Requests.

    def _run(self, head: Head, body: Body) -> None:
        """Start the handler; answer if it is done at once, else let a task go on."""
        server = self._server
        request = Request(
            method=head.method, raw_path=head.raw_path, raw_query=head.raw_query, headers=head.headers, body=body,
            peer=self._peer, scheme=self._scheme, host=head.host, received_at=server.monotonic_s(),
            http_version=head.http_version)
        self._phase = BUSY
        self._keep_alive = head.keep_alive
        server.counters.requests += 1
        work: Coroutine[Any, Any, Response] | None = None
        context = contextvars.copy_context()
        handle = TaskHandle()
        try:
            work = server.app(request)
            is_done, outcome = start(server.loop, work, context, handle)
        except (Exception, asyncio.CancelledError) as error:
            is_done, outcome = True, self._crash(error)
        if is_done:
            if not isinstance(outcome, Response):
                outcome = self._crash(TypeError(f"handler returned {outcome!r}"))
            if type(outcome.body) is bytes and not self._out.is_lost:
                self._answer_at_once(request, outcome)
            else:
                server.spawn(self._answer(request, outcome), context)
        else:
            assert work is not None
            server.spawn(self._answer_later(request, go_on(work, outcome, handle)), context)

    async def _answer_later(self, request: Request, rest: Any) -> None:
        try:
            response = await rest
            if not isinstance(response, Response):
                raise TypeError(f"handler returned {response!r}")
        except (Exception, asyncio.CancelledError) as error:
            response = self._crash(error)
        await self._answer(request, response)

    def _crash(self, error: BaseException) -> Response:
        """The answer to an error that the app did not map; its traceback goes to the log."""
        log.error("request failed in the app", exc_info=error)
        self._server.counters.crashes += 1
        return self._server.make_error(500, "Internal error.")

    # Answers.

    def _answer_at_once(self, request: Request, response: Response) -> None:
        """An answer from memory."""
        head, response = self._render(request, response)
        body = response.body
        assert isinstance(body, bytes)
        if request.method == "HEAD" or forbids_body(response.status) or not body:
            body = b""
            self._write(head)
        else:
            self._write(head + body)
        self._finish(request, response, len(body))

    async def _answer(self, request: Request, response: Response) -> None:
        """Any answer; waits for a slow reader. Closes the body whatever happens."""
        body: bytes | FileBody | AsyncIterator[bytes] = response.body
        sent = 0
        try:
            if self._out.is_lost:
                return
            head, rendered = self._render(request, response)
            if rendered is not response:         # the head could not be sent, nor the body
                self._out.write(head + (rendered.body if isinstance(rendered.body, bytes) else b""))
                self._keep_alive = False
            elif request.method == "HEAD" or forbids_body(response.status):
                self._out.write(head)
            else:
                sent = await self._send_body(request, response, head)
        except ConnectionGone as gone:
            sent = gone.args[0] if gone.args else 0
        except (Exception, asyncio.CancelledError):
            log.exception("answer cut off")
            self._server.counters.crashes += 1
            self._abort()                        # so that the client sees that something is missing
        finally:
            await _close_body(body)
            self._finish(request, response, sent)

    async def _send_body(self, request: Request, response: Response, head: bytes) -> int:
        """Send head and body; returns the bytes of body that the transport took. Raises `ConnectionGone` with them."""
        body, out = response.body, self._out
        before = out.sent_bytes
        try:
            if isinstance(body, bytes):
                await out.send(head + body if len(body) <= READY_BYTES_MAX else head)
                if len(body) > READY_BYTES_MAX:
                    await out.send(body)
                return len(body)
            if isinstance(body, FileBody):
                await out.send_files(head, body)
                return body.length
            out.write(head)
            return await self._send_iterator(request, response, body)
        except ConnectionGone:
            raise ConnectionGone(max(0, out.sent_bytes - before - len(head))) from None

    async def _send_iterator(self, request: Request, response: Response, body: AsyncIterator[bytes]) -> int:
        out = self._out
        length = body_length(response)
        is_chunked = length is None and request.http_version == "1.1"
        sent = 0
        async for piece in body:
            if not piece:
                continue
            sent += len(piece)
            if length is not None and sent > length:
                raise ValueError(f"body longer than its {length} bytes")
            if is_chunked:
                out.write(encode_chunk_head(len(piece)))
            await out.send(piece)
            if is_chunked:
                out.write(b"\r\n")
        if is_chunked:
            out.write(LAST_CHUNK)
        if length is not None and sent < length:
            raise ValueError(f"body of {sent} bytes, {length} promised")
        return sent

    def _render(self, request: Request, response: Response) -> tuple[bytes, Response]:
        """The head, and the answer it is for: another one (500) if the app's cannot be sent."""
        server = self._server
        is_old = request.http_version == "1.0"
        intake = self._intake
        if intake is not None and not intake.is_complete and (
                intake.is_unasked or intake.error is not None
                or intake.remaining is None or intake.remaining > SKIP_BYTES_MAX):
            self._keep_alive = False
        if is_old and body_length(response) is None:
            self._keep_alive = False
        if server.is_draining:
            self._keep_alive = False
        try:
            return render_head(response, date_line=server.date_line(), keep_alive=self._keep_alive,
                               is_old=is_old), response
        except ValueError as error:              # `UnsafeHeader`, or text that cannot be encoded
            failed = self._crash(error)
            return render_head(failed, date_line=server.date_line(), keep_alive=self._keep_alive, is_old=is_old), failed

    def _write(self, data: bytes) -> None:
        if not self._is_pumping:
            self._out.write(data)
            return
        self._held_out.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > HELD_BYTES_MAX:
            self._release_held()

    def _release_held(self) -> None:
        held = self._held_out
        self._out.write(held[0] if len(held) == 1 else b"".join(held))
        held.clear()
        self._held_bytes = 0

    def _finish(self, request: Request, response: Response, sent_bytes: int) -> None:
        """The answer is out, or will never be: account for it and take up the next request."""
        server = self._server
        intake, self._intake = self._intake, None
        if intake is not None:
            request.body.length = intake.received_bytes          # what came counts, not what was announced
        if server.on_request_done is not None:
            server.report(request, response, sent_bytes)
        skip: int | None = 0
        if intake is not None:
            skip = 0 if intake.is_complete else intake.remaining
            intake.close()
        if self._out.is_lost:
            self._phase = CLOSED
        elif not self._keep_alive or skip is None or skip > (0 if self._is_eof else SKIP_BYTES_MAX):
            self._close(may_have_input=intake is not None and skip != 0)
        else:
            self.resume_intake()
            if skip:
                self._phase, self._skip_bytes, self._since = SKIP, skip, server.now_s
            else:
                self._await_head(self._input)

    # Ends.

    def _refuse(self, status: int, reason: str) -> None:
        """Answer a request that is none, and close."""
        self._server.counters.refused += 1
        response = self._server.make_error(status, reason)
        if self._server.on_refused is not None:
            self._server.on_refused(response, reason, self._peer, self._input)
        head = render_head(response, date_line=self._server.date_line(), keep_alive=False, is_old=False)
        self._write(head + (response.body if isinstance(response.body, bytes) else b""))
        self._close(may_have_input=True)

    def _close(self, *, may_have_input: bool = False) -> None:
        """Close after what is written. may_have_input: the client may still be sending, so linger."""
        self._input, self._head = b"", None
        self._since = self._server.now_s
        if self._out.is_lost:
            self._phase = CLOSED
            return
        self._phase = LINGER
        self._keep_alive = False
        self._may_linger = may_have_input and not self._is_eof and self._transport.can_write_eof()
        if not self._is_pumping:
            self._shut_down()

    def _shut_down(self) -> None:
        """After the last write: close our side, or all of it."""
        if self._out.is_lost or self._transport.is_closing():
            return
        if self._may_linger:
            self._transport.write_eof()
            self.resume_intake()
        else:
            self._transport.close()

    def _abort(self) -> None:
        self._keep_alive = False
        if not self._out.is_lost:
            self._out.lose()                     # the transport tells us later; nobody shall wait or count until then
            self._transport.abort()

    # The server's calls.

    @property
    def is_idle(self) -> bool:
        """Between requests, with nothing begun."""
        return self._phase is HEAD and not self._input and self._head is None

    def close_if_idle(self) -> None:
        """Drain: what is idle goes now, what is busy after its answer."""
        if self.is_idle:
            self._close()

    def abort(self) -> None:
        """Cut the connection; a running handler goes on, its answer is dropped."""
        self._abort()

    def check_deadlines(self, now_s: float) -> None:
        """Once per tick of the server's timer: nobody may hold a connection without getting on."""
        if self._out.is_lost:
            return
        limits = self._server.limits
        intake = self._intake
        if isinstance(intake, PooledIntake):
            intake.tick(now_s)
        if self._out.is_blocked:
            self._check_rate(now_s, self._out.sent_bytes, "reader")
            return
        if intake is not None and intake.is_awaited and not self._is_read_paused:
            self._check_rate(now_s, self._received_bytes, "writer")
            return
        self._waits_for = ""
        waited_s = now_s - self._since
        if self._phase is HEAD and self.is_idle:
            if waited_s > limits.idle_timeout_s:
                self._close()
        elif self._phase is HEAD:
            body_s = self._need_bytes / limits.rate_bytes_s_min if self._head is not None else 0.0
            if waited_s > limits.head_timeout_s + body_s:
                self._server.counters.timeouts += 1
                self._refuse(408, "The request was not complete in time.")
        elif self._phase is not BUSY and waited_s > limits.linger_timeout_s:
            self._abort()

    def _check_rate(self, now_s: float, moved_bytes: int, waits_for: str) -> None:
        """In each window in which we wait for the client, as a reader or a writer, it has to move a minimum."""
        limits = self._server.limits
        window_s = now_s - self._window_start
        if self._waits_for != waits_for or (
                window_s >= limits.rate_window_s
                and moved_bytes - self._window_bytes >= limits.rate_bytes_s_min * window_s):
            self._waits_for, self._window_start, self._window_bytes = waits_for, now_s, moved_bytes
        elif window_s >= limits.rate_window_s:
            self._server.counters.timeouts += 1
            if waits_for == "reader":
                self._abort()
            elif self._intake is not None:
                self._intake.fail(ClientTimeout(what="request body", waited_s=round(window_s, 1)))


class _Diversion(asyncio.BufferedProtocol):
    """The transport's protocol while a large body comes in: input goes to the intake, all else to the connection."""

    __slots__ = ("_connection", "buffer_updated", "get_buffer")

    def __init__(self, connection: Connection, intake: PooledIntake) -> None:
        self._connection = connection
        self.get_buffer = intake.get_buffer                  # type: ignore[method-assign]
        self.buffer_updated = intake.buffer_updated          # type: ignore[method-assign]

    def eof_received(self) -> bool:
        return self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()


async def _close_body(body: bytes | FileBody | AsyncIterator[bytes]) -> None:
    """Exactly one end for each body, sent or not."""
    if isinstance(body, bytes):
        return
    try:
        if isinstance(body, FileBody):
            body.close()
        elif hasattr(body, "aclose"):
            await body.aclose()
    except Exception:
        log.exception("closing the body of an answer failed")
