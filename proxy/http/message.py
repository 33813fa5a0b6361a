"""What the gateway sees of HTTP: `Headers`, `Request`, `Body`, `Response`, `FileBody`. No sockets, no asyncio.

Names and values travel as bytes until somebody asks: a lookup costs one dict access and one decode.
A body is read in one of three ways: `take_ready` (small, already here, no await), `read_chunk` (bytes of its own, safe
to keep), `read_lease` (a view of a pooled buffer, no copy, to be released).
"""
from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, overload
from urllib.parse import unquote_to_bytes

from common.errors import BodyTooLarge

READY_BYTES_MAX = 65_536             # a body up to this size waits in memory for its last byte before the handler starts
CHUNK_BYTES_MAX = 1_048_576          # one read_chunk or one pooled buffer


class Headers:
    """Header fields of one request, in order; lookups by lower-case name. Immutable."""

    __slots__ = ("_pairs", "by_name")

    def __init__(self, pairs: list[tuple[bytes, bytes]]) -> None:
        self._pairs: list[tuple[bytes, bytes]] | dict[bytes, bytes] = pairs
        self.by_name = {name.lower(): value for name, value in pairs}        # repeated fields joined by ", "
        if len(self.by_name) != len(pairs):
            self._join_repeated(pairs)

    @classmethod
    def from_distinct(cls, fields: dict[bytes, bytes]) -> Headers:
        """Of fields whose names, as they were written, are distinct (they may still be equal but for case).

        Blanks behind a value are no part of it.
        """
        headers = cls.__new__(cls)
        headers._pairs = fields
        headers.by_name = {name.lower(): value.rstrip() for name, value in fields.items()}
        if len(headers.by_name) != len(fields):
            headers._join_repeated(headers.raw_items())
        return headers

    def _join_repeated(self, pairs: list[tuple[bytes, bytes]]) -> None:
        """Values of a repeated field become one, joined by a comma (RFC 9110, 5.3)."""
        joined: dict[bytes, bytes] = {}
        for name, value in pairs:
            key = name.lower()
            joined[key] = joined[key] + b", " + value if key in joined else value
        self.by_name = joined

    @overload
    def get(self, name: str) -> str | None: ...
    @overload
    def get(self, name: str, default: str) -> str: ...
    def get(self, name: str, default: str | None = None) -> str | None:
        """Value of the field `name` (lower case), its bytes as Latin-1; repeated fields joined by ", "."""
        value = self.by_name.get(name.encode())
        return default if value is None else value.decode("latin-1")

    def get_bytes(self, name: str) -> bytes | None:
        """The same value as it came: what a check for UTF-8 needs."""
        return self.by_name.get(name.encode())

    def getall(self, name: str) -> list[str]:
        """Every value of a repeated field, in order."""
        key = name.encode()
        return [value.decode("latin-1") for found, value in self.raw_items() if found.lower() == key]

    def items(self) -> Iterator[tuple[str, str]]:
        """(lower-case name, value as Latin-1) of every distinct field."""
        for name, value in self.by_name.items():
            yield name.decode("latin-1"), value.decode("latin-1")

    def raw_items(self) -> list[tuple[bytes, bytes]]:
        """The fields as they came, for signatures."""
        pairs = self._pairs
        return pairs if isinstance(pairs, list) else [(name, value.rstrip()) for name, value in pairs.items()]

    def __contains__(self, name: str) -> bool:
        return name.encode() in self.by_name

    def __len__(self) -> int:
        return len(self.by_name)


class Lease:
    """Bytes in a pooled buffer: `view` is valid until `release`, which the reader calls exactly once (more is harmless)."""

    __slots__ = ("_give_back", "view")

    def __init__(self, view: memoryview, give_back: Callable[[], None] | None) -> None:
        self.view = view
        self._give_back = give_back

    def release(self) -> None:
        """Return the buffer. The view must not be used afterwards."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            self.view = memoryview(b"")
            give_back()

    def detach(self) -> bytes:
        """The bytes as a copy that may be kept; releases the buffer."""
        data = bytes(self.view)
        self.release()
        return data


class BodySource(Protocol):
    """Where the bytes of a body come from when they are not all here yet (`proxy/http/intake.py`)."""

    def take_ready(self) -> bytes | None:
        """The whole body if it arrived already and is small, else None."""

    async def read(self) -> bytes | Lease:
        """The next bytes, at most CHUNK_BYTES_MAX; b"" at the end. Raises as `Body.read_chunk`."""


class Body:
    """The body of a request. `length`: bytes announced, None when chunked. One reader, front to back."""

    __slots__ = ("_ready", "_source", "length")

    def __init__(self, length: int | None, ready: bytes | None = None, source: BodySource | None = None) -> None:
        assert (ready is None) != (source is None), "either all of it is here or it comes from a source"
        self.length = length
        self._ready = ready
        self._source = source

    @classmethod
    def from_bytes(cls, data: bytes) -> Body:
        """A body that is wholly in memory (tests, COPY)."""
        return cls(len(data), data)

    def take_ready(self) -> bytes | None:
        """The entire body, now and without waiting, if it is here and at most READY_BYTES_MAX; else None."""
        if self._source is not None:
            return self._source.take_ready()
        ready = self._ready
        if ready is None or len(ready) > READY_BYTES_MAX:
            return None
        self._ready = None
        return ready

    async def read_lease(self) -> Lease:
        """The next bytes without a copy; an empty view at the end. The caller releases each lease, and soon: an upload
        may hold four. Raises as `read_chunk`."""
        piece = await self._read()
        return piece if isinstance(piece, Lease) else Lease(memoryview(piece), None)

    async def read_chunk(self, admit: Callable[[int], Awaitable[None]] | None = None) -> bytes:
        """The next bytes, at most CHUNK_BYTES_MAX; b"" at the end.

        admit: awaited with their number before they are copied out of the buffers that bound all uploads together.
        Raises `BodyTooShort` (the client went away), `ClientTimeout` (slower than the minimum rate) and `BadRequest`
        (chunk framing). Once raised, every later read raises the same.
        """
        piece = await self._read()
        if not isinstance(piece, Lease):
            if admit is not None:
                await admit(len(piece))
            return piece
        try:
            if admit is not None:
                await admit(len(piece.view))
            return piece.detach()
        finally:
            piece.release()

    async def _read(self) -> bytes | Lease:
        if self._source is not None:
            return await self._source.read()
        ready = self._ready
        if not ready:
            return b""
        self._ready = ready[CHUNK_BYTES_MAX:]
        return ready[:CHUNK_BYTES_MAX]

    async def read_all(self, limit: int) -> bytes:
        """The rest of the body. Raises `BodyTooLarge` above `limit` bytes, before reading when the length is known."""
        if self.length is not None and self.length > limit:
            raise BodyTooLarge(limit_bytes=limit)
        pieces: list[bytes] = []
        size = 0
        while piece := await self.read_chunk():
            size += len(piece)
            if size > limit:
                raise BodyTooLarge(limit_bytes=limit)
            pieces.append(piece)
        return b"".join(pieces)

    async def discard(self, limit: int) -> None:
        """Read and drop the rest. Raises `BodyTooLarge` above `limit` bytes."""
        size = 0
        while True:
            lease = await self.read_lease()
            count = len(lease.view)
            lease.release()
            if count == 0:
                return
            size += count
            if size > limit:
                raise BodyTooLarge(limit_bytes=limit)


class Request:
    """One request of a client, its framing already judged.

    raw_path: percent-encoded, without the query. host: of the Host field or of an absolute target, "" if none.
    received_at: `Clock.monotonic_s` when its head was complete. txid: set by the app. failed: what the app made an answer
    of, and the user who asked ("" for none); None while nothing went wrong.
    """

    __slots__ = ("_path", "_query", "body", "failed", "headers", "host", "http_version", "method", "peer", "raw_path",
                 "raw_query", "received_at", "scheme", "txid")

    def __init__(self, *, method: str, raw_path: bytes, raw_query: bytes, headers: Headers, body: Body, peer: str = "",
                 scheme: str = "http", host: str = "", received_at: float = 0.0, http_version: str = "1.1") -> None:
        self.method = method
        self.raw_path = raw_path
        self.raw_query = raw_query
        self.headers = headers
        self.body = body
        self.peer = peer
        self.scheme = scheme
        self.host = host
        self.received_at = received_at
        self.http_version = http_version
        self.txid: str | None = None
        self.failed: tuple[Exception, str] | None = None
        self._path: bytes | None = None
        self._query: dict[str, str] | None = None

    @property
    def path(self) -> bytes:
        """The path with percent-encoding undone; bytes, so that the app can judge whether it is UTF-8."""
        path = self._path
        if path is None:
            raw = self.raw_path
            path = self._path = unquote_to_bytes(raw) if b"%" in raw else raw
        return path

    @property
    def query(self) -> dict[str, str]:
        """Parameters by name, blank ones included, the last of a repeated name; bytes that are not UTF-8 as surrogates."""
        query = self._query
        if query is None:
            query = self._query = parse_query(self.raw_query) if self.raw_query else {}
        return query

    def query_param(self, name: str) -> str | None:
        """One parameter, None if absent."""
        return self.query.get(name)


def parse_query(raw: bytes) -> dict[str, str]:
    """`a=1&b&c=%C3%A9+x` as a form has it: "+" is a space. Surrogate escapes keep what is not UTF-8."""
    query: dict[str, str] = {}
    for field in raw.split(b"&"):
        if field:
            name, _, value = field.partition(b"=")
            query[_unquote_form(name)] = _unquote_form(value)
    return query


def _unquote_form(raw: bytes) -> str:
    if b"+" in raw:
        raw = raw.replace(b"+", b" ")
    if b"%" in raw:
        raw = unquote_to_bytes(raw)
    return raw.decode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class FileSpan:
    """`count` bytes of an open file from `offset` on."""

    fd: int
    offset: int
    count: int


class FileBody:
    """A body of byte strings and spans of open files, sent by sendfile. `length`: bytes in all pieces.

    `close` is called exactly once, whatever happens: it lets go of the descriptors.
    """

    __slots__ = ("_close", "length", "pieces")

    def __init__(self, pieces: list[bytes | FileSpan], length: int, close: Callable[[], None]) -> None:
        assert length == sum(len(p) if isinstance(p, bytes) else p.count for p in pieces)
        self.pieces = pieces
        self.length = length
        self._close: Callable[[], None] | None = close

    def close(self) -> None:
        """Release the files; a second call does nothing."""
        close, self._close = self._close, None
        if close is not None:
            close()


class Response:
    """An answer. The front adds Date, Content-Length, Transfer-Encoding and Connection, and leaves the body out on HEAD.

    headers: text is sent as UTF-8, surrogate escapes as the bytes they stand for; CR, LF and NUL are refused (500).
    content_length: of an iterator, or of what HEAD would have returned; an iterator without one is sent in chunks.
    """

    __slots__ = ("body", "content_length", "headers", "status")

    def __init__(self, status: int, headers: list[tuple[str, str]] | None = None,
                 body: bytes | FileBody | AsyncIterator[bytes] = b"", *, content_length: int | None = None) -> None:
        self.status = status
        self.headers = [] if headers is None else headers
        self.body = body
        self.content_length = content_length
