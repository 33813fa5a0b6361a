"""The asking end of the transport: calls as plain futures, reconnecting by itself, streams up and down.

Budget: 2-3 us per call on this side at 64 in flight; no task and no timer per call. One timer per client looks at the
deadlines, and is armed only while calls are in flight.
"""
from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from common.errors import DeadlineExceeded, HandshakeRefused, Overloaded, StorageError, StreamAborted, TransportLost
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
    OPENED,
    PROOF,
    REFUSED,
    REPLY,
    RESET,
    UPLOAD,
    WELCOME,
)
from common.futures import Sink
from common.handshake import ClientHandshake, Credentials, Peer
from common.link import Link, is_allowed_uid
from common.log import Repeats, get_logger
from common.sockets import Connect
from common.streams import DOWNLOAD_WINDOW_BYTES, InFlow, OutFlow, read_error, reset

HANDSHAKE_S = 5.0
WAITING_MAX = 10_000                     # calls that wait for the connection
BACKOFF_S_MIN, BACKOFF_S_MAX = 0.05, 1.0
QUIET_FAILURES = 6                       # about a second and a half
STABLE_S = 1.0                           # a connection that lived so long is tried again at once when it breaks
DEADLINE_LOOK_S = 0.02                   # deadlines are looked at no more often
_ID_MAX = 0xFFFF_FFFF
_NEVER_S = float("inf")

Reply = tuple[list[Any], bytes]

_log = get_logger("common.transport")


class _Pending:
    """A call that has no answer yet."""

    __slots__ = ("body", "deadline_s", "fields", "future", "is_sent", "op", "resend")

    def __init__(self, future: asyncio.Future[Reply] | Sink[Reply], op: int, fields: Sequence[object], body: bytes | memoryview,
                 deadline_s: float, resend: bool) -> None:
        self.future, self.op, self.fields, self.body = future, op, fields, body
        self.deadline_s, self.resend, self.is_sent = deadline_s, resend, False


class RpcClient:
    """One multiplexed connection to one peer, and a second one for streams, made when the first stream is opened.

    expected: the peer's name, "" for whoever answers. The connection is made at the first call or by `connected`, and
    again for ever after it broke, until `close`.
    """

    def __init__(self, connect: Connect, *, credentials: Credentials, expected: str = "", faults: FaultRules | None = None,
                 rng: random.Random | None = None, is_bulk: bool = False, backoff_s_max: float | None = None) -> None:
        """backoff_s_max: between two attempts to connect; for a peer on the same node, where an attempt costs nothing."""
        self.credentials, self.expected, self.faults = credentials, expected, faults
        self.peer: Peer | None = None                            # of the last connection
        self._connect = connect
        self._rng = rng or random.Random()
        self._is_bulk = is_bulk
        self._backoff_s_max = backoff_s_max
        self._bulk: RpcClient | None = None
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._calls: dict[int, _Pending] = {}
        self._out: dict[int, OutFlow] = {}
        self._in: dict[int, InFlow] = {}
        self._next_id = 1
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = _NEVER_S
        self._runner: asyncio.Task[None] | None = None
        self._refusal: HandshakeRefused | None = None
        self._ready: list[asyncio.Future[None]] = []
        self._is_closed = False
        self._repeats = Repeats(_log, interval_s=600.0)
        self._is_ending = False

    def expect_end(self) -> None:
        """The peer is about to stop, as we are: its absence is no news."""
        self._is_ending = True
        if self._bulk is not None:
            self._bulk.expect_end()

    @property
    def is_connected(self) -> bool:
        """True while calls leave at once."""
        return self._link is not None

    @property
    def in_flight_count(self) -> int:
        """Calls without an answer, also those that wait for the connection."""
        return len(self._calls)

    def call(self, op: int, fields: Sequence[object], body: bytes | memoryview = b"", *, timeout_s: float,
             resend: bool = False) -> asyncio.Future[Reply]:
        """Send a request; the future gives (fields, body) of the answer. See `call_into`."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        self.call_into(future, op, fields, body, timeout_s=timeout_s, resend=resend)
        return future

    def call_into(self, into: asyncio.Future[Reply] | Sink[Reply], op: int, fields: Sequence[object],
                  body: bytes | memoryview = b"", *, timeout_s: float, resend: bool = False) -> None:
        """Send a request; (fields, body) of the answer go to `into`.

        It fails with the handler's error, `DeadlineExceeded`, `TransportLost` (the request may have been executed),
        `HandshakeRefused`, or `Overloaded` (nothing was sent). Without a connection the call waits for one until its
        deadline. resend: send it again after a reconnect, for requests that may be executed twice. Cancelling the future
        drops the answer; whoever loses interest cancels. `fields` and `body` must not change before the answer.
        Raises `BodyTooLarge`, `TypeError` for what no frame can hold.
        """
        deadline_s = self._loop.time() + timeout_s
        pending = _Pending(into, op, fields, body, deadline_s, resend)
        link = self._link
        if link is None or self.faults is not None:
            self._begin(self._take_id(), pending, int(timeout_s * 1000))
            return
        call_id = self._take_id()                                # as `_begin`; this is the data path
        link.send(call_id, op, (int(timeout_s * 1000), *fields), body)
        pending.is_sent = True
        self._calls[call_id] = pending
        if deadline_s < self._timer_at_s:
            self._arm(deadline_s)

    def open_upload(self, op: int, fields: Sequence[object], *, timeout_s: float) -> Upload:
        """A request whose body follows in chunks. timeout_s bounds each wait, not the whole."""
        return Upload(self._for_streams(), op, fields, timeout_s=timeout_s)

    async def open_download(self, op: int, fields: Sequence[object], body: bytes | memoryview = b"", *,
                            timeout_s: float) -> InDownload:
        """A request whose answer is a stream; returns when the answer's fields are here. timeout_s bounds each wait.

        Raises as `call`.
        """
        client = self._for_streams()
        call_id = client._take_id()
        flow = client._in[call_id] = InFlow(partial(client._send_frame, call_id, op), wait_s=timeout_s,
                                                  window_bytes=DOWNLOAD_WINDOW_BYTES)
        try:
            answer: asyncio.Future[Reply] = self._loop.create_future()
            pending = _Pending(answer, op | DOWNLOAD, fields, body, self._loop.time() + timeout_s, False)
            client._begin(call_id, pending, int(timeout_s * 1000))
            opened, _ = await answer
        except BaseException:
            if client._in.pop(call_id, None) is not None:        # not answered: whatever comes is not wanted
                reset(partial(client._send_frame, call_id, op), StreamAborted(reason="nobody waits for it"))
            raise
        return InDownload(client, call_id, op, opened, flow)

    async def connected(self, *, timeout_s: float) -> None:
        """Return when there is a connection. Raises `HandshakeRefused`, `DeadlineExceeded`, `TransportLost`."""
        if self._link is not None:
            return
        if self._is_closed:
            raise TransportLost(peer=self._peer_name(), reason="the client is closed")
        self._start()
        if self._refusal is not None:
            raise HandshakeRefused(**self._refusal.fields)
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._ready.append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            raise DeadlineExceeded(what=f"connection to {self._peer_name()}", waited_s=timeout_s) from None

    async def close(self) -> None:
        """Close the connections; calls without an answer fail with `TransportLost`."""
        self._is_closed = True
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.cancel()
            await asyncio.gather(runner, return_exceptions=True)
        if self._link is not None:
            self._link.close("the client is closing")
        self._drop_link("the client is closing", is_final=True)
        if self._timer is not None:
            self._timer.cancel()
        if self._bulk is not None:
            await self._bulk.close()

    # -- calls

    def _begin(self, call_id: int, pending: _Pending, wait_ms: int) -> None:
        """Send a call, or let it wait for the connection."""
        link = self._link
        if link is None:
            self._wait_for_link(pending)
            if pending.future.done():
                return
        else:
            self._send_request(link, call_id, pending, wait_ms)  # raises before anything is remembered
        self._calls[call_id] = pending
        if pending.deadline_s < self._timer_at_s:
            self._arm(pending.deadline_s)

    def _take_id(self) -> int:
        call_id = self._next_id
        while call_id in self._calls or call_id in self._in or call_id in self._out:
            call_id = call_id + 1 if call_id < _ID_MAX else 1
        self._next_id = call_id + 1 if call_id < _ID_MAX else 1
        return call_id

    def _wait_for_link(self, pending: _Pending) -> None:
        """Without a connection: let the call wait, or fail it now."""
        if self._is_closed:
            pending.future.set_exception(TransportLost(peer=self._peer_name(), reason="the client is closed"))
        elif self._refusal is not None:
            pending.future.set_exception(HandshakeRefused(**self._refusal.fields))
        elif len(self._calls) >= WAITING_MAX:
            pending.future.set_exception(Overloaded(what="calls that wait for a connection", retry_after_s=1))
        else:
            self._start()

    def _send_request(self, link: Link, call_id: int, pending: _Pending, wait_ms: int) -> None:
        if self.faults is None:
            link.send(call_id, pending.op, (wait_ms, *pending.fields), pending.body)
        else:
            self.faults.pass_on(Direction.TO, link.name, pending.op & OP_MAX, pending.fields,
                                partial(link.send, call_id, pending.op, (wait_ms, *pending.fields), pending.body),
                                about=pending.fields[0] if pending.fields else None)
        pending.is_sent = True

    def _on_frame(self, call_id: int, op: int, fields: list[Any], body: bytes) -> None:
        """An answer, with faults."""
        assert self.faults is not None
        pending = self._calls.get(call_id)
        name = pending.op & OP_MAX if pending is not None else op
        about = pending.fields[0] if pending is not None and pending.fields else None
        self.faults.pass_on(Direction.FROM, self._peer_name(), name, fields,
                            partial(self._on_answer, call_id, op, fields, body), about=about)

    def _on_answer(self, call_id: int, op: int, fields: list[Any], body: bytes) -> None:
        """An answer that nobody waits for any more is dropped quietly."""
        if op == REPLY:
            pending = self._calls.pop(call_id, None)
            if self._in or self._out:
                self._end_streams(call_id, body)
            if pending is not None and not pending.future.done():
                pending.future.set_result((fields, body))
        elif op == ERROR:
            self._on_error(call_id, read_error(fields))
        else:
            self._on_stream_frame(call_id, op, fields, body)

    def _on_error(self, call_id: int, error: StorageError) -> None:
        pending = self._calls.pop(call_id, None)
        if call_id in self._out:
            self._out.pop(call_id).fail(error)
        self._in.pop(call_id, None)
        if pending is not None and not pending.future.done():
            pending.future.set_exception(error)

    # -- deadlines

    def _arm(self, at_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at_s = at_s
        self._timer = self._loop.call_at(at_s, self._look_at_deadlines)

    def _look_at_deadlines(self) -> None:
        """Fail what is late; sleep until the next deadline, which under a steady load is a whole timeout away."""
        self._timer, self._timer_at_s = None, _NEVER_S
        now_s = self._loop.time()
        late = [call_id for call_id, pending in self._calls.items() if pending.deadline_s <= now_s]
        for call_id in late:
            pending = self._calls.pop(call_id)
            if not pending.future.done():
                pending.future.set_exception(DeadlineExceeded(what=f"answer of {self._peer_name()}", op=pending.op & OP_MAX))
        next_s = min((pending.deadline_s for pending in self._calls.values()), default=_NEVER_S)
        if next_s < self._timer_at_s:
            self._arm(max(next_s, now_s + DEADLINE_LOOK_S))

    # -- streams

    def _for_streams(self) -> RpcClient:
        if self._is_bulk:
            return self
        if self._bulk is None:
            self._bulk = RpcClient(self._connect, credentials=self.credentials, expected=self.expected, faults=self.faults,
                                   rng=self._rng, is_bulk=True)
            self._bulk._is_closed, self._bulk._is_ending = self._is_closed, self._is_ending
        return self._bulk

    def _send_frame(self, call_id: int, op: int, kind: int, fields: Sequence[object], body: bytes | memoryview = b"") -> None:
        """One frame of a stream that a request `op` opened."""
        link = self._link
        if link is None:
            return
        if self.faults is None:
            link.send(call_id, kind, fields, body)
        else:
            self.faults.pass_on(Direction.TO, link.name, op & OP_MAX, fields, partial(link.send, call_id, kind, fields, body))

    def _on_stream_frame(self, call_id: int, op: int, fields: list[Any], body: bytes) -> None:
        flow = self._in.get(call_id)
        if op == CREDIT:
            if call_id in self._out and len(fields) == 1 and type(fields[0]) is int:
                self._out[call_id].grant(fields[0])
        elif op not in (OPENED, DATA, END, RESET):
            if self._link is not None:
                self._link.abort(f"a frame with op {op}")
        elif flow is None:
            if op == OPENED:                                     # the opener gave up before the answer came
                self._send_frame(call_id, 0, RESET, (StreamAborted.code, {"reason": "nobody waits for it"}))
        else:
            self._on_download_frame(flow, call_id, op, fields, body)

    def _end_streams(self, call_id: int, body: bytes) -> None:
        """A plain answer ends an upload early, and is a whole download in one frame."""
        out = self._out.pop(call_id, None)
        if out is not None:
            out.fail(StreamAborted(reason="answered before the end"))
        flow = self._in.pop(call_id, None)
        if flow is not None:
            flow.feed_whole(body)

    def _on_download_frame(self, flow: InFlow, call_id: int, op: int, fields: list[Any], body: bytes) -> None:
        if op == OPENED:
            pending = self._calls.pop(call_id, None)
            if pending is not None and not pending.future.done():
                pending.future.set_result((fields, b""))
        elif op == DATA:
            if not flow.feed(body) and self._link is not None:
                self._link.abort("data beyond the window of a stream")
        else:
            if op == END:
                flow.end(fields)
            else:
                flow.fail(read_error(fields))
            del self._in[call_id]

    # -- the connection

    def _peer_name(self) -> str:
        return self.expected or (self.peer.name if self.peer is not None else "peer")

    def _start(self) -> None:
        if self._runner is None and not self._is_closed:
            self._runner = self._loop.create_task(self._stay_connected())

    async def _stay_connected(self) -> None:
        failures = 0
        while True:
            try:
                link, lost = await self._open()
            except HandshakeRefused as error:
                self._note_refusal(error)
            except (OSError, TransportLost, TimeoutError) as error:
                if failures >= QUIET_FAILURES and not self._is_ending:     # a peer that is just starting is no news
                    self._repeats.warning("cannot connect", about=self._peer_name(), reason=str(error))
                self._refusal = None
            except Exception as error:                           # a bug must not end the connection for ever
                _log.error("connecting failed", peer=self._peer_name(), exc=error)
            else:
                opened_s = self._loop.time()
                self._use(link)
                reason = await lost
                self._drop_link(reason)
                if self._loop.time() - opened_s >= STABLE_S:
                    failures = 0
            if failures:
                bound_s = BACKOFF_S_MAX if self._backoff_s_max is None else self._backoff_s_max
                longest_s = min(bound_s, BACKOFF_S_MIN * 2 ** min(failures - 1, 10))
                await asyncio.sleep(longest_s * self._rng.uniform(0.5, 1.0))
            failures += 1

    async def _open(self) -> tuple[Link, asyncio.Future[str]]:
        """A connection whose server has proved itself, and the future of its end."""
        lost: asyncio.Future[str] = self._loop.create_future()
        proved: asyncio.Future[Peer] = self._loop.create_future()
        proved.add_done_callback(_look_at_error)
        link = Link()
        link.on_lost = partial(_on_lost, lost, proved)
        handshake = ClientHandshake(self.credentials, expected=self.expected)
        link.receive = partial(_shake_hands, link, handshake, proved)
        link.on_made = partial(_greet, handshake, proved)
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                await self._connect(lambda: link)
                self.peer = await proved
        except BaseException:
            link.abort("no handshake")
            raise
        link.receive = self._on_answer if self.faults is None else self._on_frame
        if not link.is_open:
            raise TransportLost(peer=self._peer_name(), reason=link.lost_reason)
        return link, lost

    def _use(self, link: Link) -> None:
        """Send what waited for this connection, and again what has no answer from the one before."""
        self._link, self._refusal = link, None
        now_s = self._loop.time()
        for call_id, pending in list(self._calls.items()):
            if pending.future.done():
                del self._calls[call_id]
                continue
            try:
                self._send_request(link, call_id, pending, max(0, int((pending.deadline_s - now_s) * 1000)))
            except (StorageError, TypeError, ValueError, OverflowError) as error:    # no frame can hold it
                del self._calls[call_id]
                pending.future.set_exception(error)
        self._wake(None)

    def _drop_link(self, reason: str, *, is_final: bool = False) -> None:
        """The connection is gone: fail what cannot be sent again."""
        self._link = None
        error = TransportLost(peer=self._peer_name(), reason=reason)
        for out in list(self._out.values()):
            out.fail(error)
        for flow in list(self._in.values()):
            flow.fail(error)
        self._out.clear()
        self._in.clear()
        for call_id, pending in list(self._calls.items()):
            if is_final or (pending.is_sent and not pending.resend):
                del self._calls[call_id]
                if not pending.future.done():
                    pending.future.set_exception(error)
        if is_final:
            self._wake(error)

    def _note_refusal(self, error: HandshakeRefused) -> None:
        self._repeats.error("handshake refused", about=f"{self._peer_name()} {error.fields.get('reason')}",
                            reason=error.fields.get("reason"))
        self._refusal = error
        for pending in self._calls.values():
            if not pending.future.done():
                pending.future.set_exception(error)
        self._calls.clear()
        self._wake(error)

    def _wake(self, error: StorageError | None) -> None:
        waiting, self._ready = self._ready, []
        for waiter in waiting:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)


class Upload:
    """The sending end of a request with a stream: `write` ..., then `finish`; or `abort`, also after an error or cancellation."""

    def __init__(self, client: RpcClient, op: int, fields: Sequence[object], *, timeout_s: float) -> None:
        self._client, self._op, self._fields, self._timeout_s = client, op, fields, timeout_s
        self._call_id = 0
        self._flow: OutFlow | None = None
        self._answer: asyncio.Future[Reply] | None = None

    async def write(self, chunk: bytes | bytearray | memoryview, *, is_piece_end: bool = False) -> None:
        """Send `chunk`, waiting for the reader; it must not change after. Once the handler has answered, nothing is sent.

        is_piece_end: see `OutFlow.write`. Raises `DeadlineExceeded`, `TransportLost`, or the handler's error.
        """
        flow, answer = await self._open()
        try:
            await flow.write(chunk, is_piece_end=is_piece_end)
        except StreamAborted:
            if not _is_answered(answer):
                raise

    async def finish(self, fields: Sequence[object] = ()) -> Reply:
        """End the stream and wait for the answer. Raises as `RpcClient.call`."""
        flow, answer = await self._open()
        try:
            if not answer.done():
                flow.end(fields)
            async with asyncio.timeout(self._timeout_s):
                return await answer
        except TimeoutError:
            raise DeadlineExceeded(what="answer to an upload", waited_s=self._timeout_s) from None
        finally:
            self._forget()

    def abort(self, reason: str = "aborted") -> None:
        """Give up: the handler's `read` raises `StreamAborted`. After `finish` nothing happens."""
        if self._answer is not None and self._call_id in self._client._calls:
            reset(partial(self._client._send_frame, self._call_id, self._op), StreamAborted(reason=reason))
            self._answer.cancel()
        self._forget()

    async def _open(self) -> tuple[OutFlow, asyncio.Future[Reply]]:
        if self._flow is None or self._answer is None:
            client = self._client
            await client.connected(timeout_s=self._timeout_s)
            link = client._link
            if link is None:
                raise TransportLost(peer=client._peer_name(), reason="the connection broke at once")
            self._call_id = call_id = client._take_id()
            self._answer = client._loop.create_future()
            self._answer.add_done_callback(_look_at_error)
            pending = _Pending(self._answer, self._op | UPLOAD, self._fields, b"", _NEVER_S, False)
            client._begin(call_id, pending, int(self._timeout_s * 1000))
            self._flow = OutFlow(partial(client._send_frame, call_id, self._op), link.drain, wait_s=self._timeout_s)
            client._out[call_id] = self._flow
        return self._flow, self._answer

    def _forget(self) -> None:
        self._client._calls.pop(self._call_id, None)
        self._client._out.pop(self._call_id, None)


class InDownload:
    """The receiving end of an answer with a stream. Whoever does not read to the end calls `cancel`."""

    def __init__(self, client: RpcClient, call_id: int, op: int, fields: list[Any], flow: InFlow) -> None:
        self.fields = fields
        self._client, self._call_id, self._op, self._flow = client, call_id, op, flow

    async def read(self) -> bytes:
        """The next chunk, b"" at the end. Raises as `InFlow.read`; what was read before an error is not the whole."""
        return await self._flow.read()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._flow.__aiter__()

    def cancel(self) -> None:
        """Tell the server to stop. After the end nothing happens."""
        error = StreamAborted(reason="cancelled by the reader")
        if self._client._in.pop(self._call_id, None) is not None:
            reset(partial(self._client._send_frame, self._call_id, self._op), error)
            self._flow.fail(error)


def _is_answered(answer: asyncio.Future[Reply]) -> bool:
    return answer.done() and not answer.cancelled() and answer.exception() is None


def _look_at_error(future: asyncio.Future[Any]) -> None:
    """Who waits sees the error by another way; asyncio need not complain that nobody asked this future."""
    if not future.cancelled():
        future.exception()


def _greet(handshake: ClientHandshake, proved: asyncio.Future[Peer], link: Link) -> None:
    uid = link.peer_uid()
    if is_allowed_uid(uid):
        link.send(0, HELLO, handshake.hello())
    else:
        proved.set_exception(HandshakeRefused(reason=f"the socket belongs to user {uid}"))


def _shake_hands(link: Link, handshake: ClientHandshake, proved: asyncio.Future[Peer], stream_id: int, op: int, fields: list[Any],
                 body: bytes) -> None:
    try:
        if op == CHALLENGE and not link.name:
            proof = handshake.prove(fields)
            link.trust(handshake.peer.name, FRAME_BYTES_MAX)
            link.send(0, PROOF, proof)
        elif op == WELCOME and link.name:
            if not proved.done():
                proved.set_result(handshake.peer)
        elif op == REFUSED:
            raise HandshakeRefused(reason=f"refused by the peer: {str(fields[0])[:200] if fields else ''}")
        else:
            raise HandshakeRefused(reason="not a handshake")
    except HandshakeRefused as error:
        if op != REFUSED:
            link.send(0, REFUSED, (error.fields["reason"],))
        link.close(str(error.fields["reason"]))
        if not proved.done():
            proved.set_exception(error)


def _on_lost(lost: asyncio.Future[str], proved: asyncio.Future[Peer], reason: str) -> None:
    if not proved.done():
        proved.set_exception(TransportLost(peer="", reason=reason))
    if not lost.done():
        lost.set_result(reason)
