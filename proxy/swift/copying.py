"""COPY, and PUT with X-Copy-From: one object read and stored under another name, between accounts as well.

The copy has the metadata of its source, changed by what the request names; X-Fresh-Metadata leaves the source's out.
Conditions of COPY are about its source, those of PUT about its target.
"""
from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from urllib.parse import quote, unquote_to_bytes

from common.timestamp import last_modified
from object.wire import Descriptor
from proxy.errors import Refusal, answer
from proxy.http.message import CHUNK_BYTES_MAX, Headers, Response
from proxy.model import Condition, ObjectInfo
from proxy.swift.access import Asker
from proxy.swift.conditional import check_read, modified_us, write_condition
from proxy.swift.constraints import check_meta_totals
from proxy.swift.context import Ask, Gateway
from proxy.swift.metadata import meta_fields
from proxy.swift.objects import (
    close_pieces,
    created_answer,
    find_object,
    is_true,
    look_to_write,
    object_fields,
    parse_etag,
    parse_put,
    read_refusal,
    spans_of,
)
from proxy.swift.ranges import Span
from proxy.swift.router import Path, split_pair


class CopyBody:
    """Bytes of a stored object as the body of an upload."""

    __slots__ = ("_pieces", "_ready", "length")

    def __init__(self, length: int, ready: bytes | None, pieces: AsyncIterator[bytes] | None) -> None:
        assert (ready is None) != (pieces is None)
        self.length: int | None = length
        self._ready = ready
        self._pieces = pieces

    def take_ready(self) -> bytes | None:
        """All of it if it came along with the look."""
        ready, self._ready = self._ready, b"" if self._ready is not None else None
        return ready

    async def read_chunk(self, admit: Callable[[int], Awaitable[None]] | None = None) -> bytes:
        """The next piece, b"" at the end. Raises `Corruption` when no replica of the source can be read."""
        if self._pieces is None:
            ready = self._ready or b""
            chunk, self._ready = ready[:CHUNK_BYTES_MAX], ready[CHUNK_BYTES_MAX:]
        else:
            chunk = await anext(self._pieces, b"")
        if admit is not None:
            await admit(len(chunk))
        return chunk

    async def close(self) -> None:
        """Let go of the source."""
        if self._pieces is not None:
            await close_pieces(self._pieces)


async def copy_object(gateway: Gateway, ask: Ask) -> Response:
    """COPY: the path is the source, Destination the target."""
    headers = ask.request.headers
    ask.asker.need_identity()
    if not headers.get("destination"):
        raise Refusal(412, "Destination header required").because("copy.names")
    target = _other_object(headers, "destination", headers.get("destination-account"), ask.path.account)
    to = Ask(ask.request, target, Asker(gateway.auth, headers, target.account))
    source = await find_object(gateway, ask, want_body=True)
    status = check_read(headers, source.descriptor)
    if status == 412:
        raise read_refusal(headers, source.descriptor)
    if status != 200:
        return answer(status, None, object_fields(source.descriptor))
    return await _copy(gateway, ask, to, source, None)


async def put_copy(gateway: Gateway, ask: Ask) -> Response:
    """PUT with X-Copy-From: the path is the target."""
    headers = ask.request.headers
    ask.asker.need_identity()
    if ask.request.body.length != 0:
        raise Refusal(400, "Copy requests require a zero byte body").because("copy.body")
    path = _other_object(headers, "x-copy-from", headers.get("x-copy-from-account"), ask.path.account)
    condition = write_condition(headers)
    source_ask = Ask(ask.request, path, Asker(gateway.auth, headers, path.account))
    source = await find_object(gateway, source_ask, want_body=True)
    return await _copy(gateway, source_ask, ask, source, condition)


async def _copy(gateway: Gateway, source_ask: Ask, to: Ask, source: ObjectInfo, condition: Condition | None) -> Response:
    headers = to.request.headers
    descriptor = _merge(parse_put(gateway, headers, to.path.object), source.descriptor, headers)
    check_meta_totals(descriptor.meta, gateway.limits)
    span = _span(headers, source)
    size = span.stop - span.start
    if size > gateway.limits.max_file_size:
        raise Refusal(413, "Your request is too large.").because(
            "limits.file_size", length=size, limit=gateway.limits.max_file_size)
    target = await look_to_write(gateway, to)
    if source.body is not None:
        body = CopyBody(size, source.body[span.start:span.stop], None)
    else:
        body = CopyBody(size, None, gateway.store.read_body(source, span.start, size))
    is_whole = size == source.size_bytes
    try:
        stored = await gateway.store.put_object(
            target, replace(descriptor, instance=target.container.instance), body, condition=condition,
            expected_etag=source.descriptor.etag if is_whole else parse_etag(headers), size_max=gateway.limits.max_file_size)
    finally:
        await body.close()
    response = created_answer(stored)
    response.headers += (
        ("X-Copied-From", quote(f"{source_ask.path.container}/{source_ask.path.object}")),
        ("X-Copied-From-Account", quote(source_ask.path.account)),
        ("X-Copied-From-Last-Modified", last_modified(modified_us(source.descriptor))),
        *meta_fields("X-Object-Meta-", stored.descriptor.meta))
    return response


def _merge(wanted: Descriptor, source: Descriptor, headers: Headers) -> Descriptor:
    """The descriptor of the copy."""
    content_type = wanted.content_type if headers.get("content-type") else source.content_type
    if is_true(headers.get("x-fresh-metadata")):
        return replace(wanted, content_type=content_type)
    return replace(wanted, content_type=content_type, meta={**source.meta, **wanted.meta},
                   headers={**source.headers, **wanted.headers}, delete_at_s=wanted.delete_at_s or source.delete_at_s)


def _span(headers: Headers, source: ObjectInfo) -> Span:
    """The bytes to copy: all, or one range of them."""
    spans = spans_of(headers, source)
    if spans is None:
        return Span(0, source.size_bytes)
    if len(spans) > 1:
        raise Refusal(400, "A copy takes one range.").because("copy.range")
    if not spans:
        raise Refusal(416, None, [("Content-Range", f"bytes */{source.size_bytes}")]).because("range", size_bytes=source.size_bytes)
    return spans[0]


def _other_object(headers: Headers, field: str, account_field: str | None, account: str) -> Path:
    """The path that a field names, percent-encoded. Raises `Refusal` 412."""
    title = field.title()
    pair = split_pair(_decode(headers.get(field, ""), title))
    if pair is None:
        raise Refusal(412, f"{title} header must be of the form <container name>/<object name>").because("copy.names")
    if account_field:
        account = _decode(account_field, "Account")
        if not account or "/" in account:
            raise Refusal(412, "Account name cannot contain slashes").because("copy.names")
    return Path(account, *pair)


def _decode(value: str, title: str) -> str:
    try:
        text = unquote_to_bytes(value.encode("latin-1")).decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise Refusal(412, f"{title} header is not valid UTF-8").because("names.utf8")
    return text
