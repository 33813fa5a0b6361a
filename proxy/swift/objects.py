"""Handlers of objects. Budget of the door's own part: 15 us for a PUT or GET of a small object."""
from __future__ import annotations

import mimetypes
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace

from common.errors import BadRequest, NotFound
from common.timestamp import format_timestamp, last_modified
from object.wire import Descriptor
from proxy.errors import Refusal, answer
from proxy.http.message import Headers, Response
from proxy.model import ContainerInfo, ObjectInfo, Store, Target
from proxy.swift.conditional import check_read, modified_us, range_applies, read_rule, write_condition
from proxy.swift.constraints import check_name, check_upload, is_text
from proxy.swift.context import Ask, Gateway
from proxy.swift.expiry import parse_delete_at
from proxy.swift.metadata import as_text, meta_fields, object_metadata, stored_fields
from proxy.swift.ranges import (
    PART_END,
    Span,
    content_range,
    multipart_bytes,
    multipart_end,
    parse_range,
    part_head,
    spans_for,
)

_TYPES = mimetypes.MimeTypes()           # the built-in table: the same answer on every node, whatever is in /etc
_DEFAULT_TYPE = "application/octet-stream"
_TRUE_WORDS = frozenset({"true", "1", "yes", "on", "t", "y"})


async def get_object(gateway: Gateway, ask: Ask) -> Response:
    """200, 206, 304, 412 or 416."""
    info = await find_object(gateway, ask, want_body=True)
    return read_answer(gateway.store, ask.request.headers, info)


async def head_object(gateway: Gateway, ask: Ask) -> Response:
    """200, 304 or 412: what GET without a range would say."""
    info = await find_object(gateway, ask, want_body=False)
    status = check_read(ask.request.headers, info.descriptor)
    headers = object_fields(info.descriptor)
    if status == 412:
        raise read_refusal(ask.request.headers, info.descriptor, headers)
    if status != 200:
        return Response(status, headers)
    headers.append(("Content-Type", info.descriptor.content_type or _DEFAULT_TYPE))
    return Response(200, headers, content_length=info.size_bytes)


async def put_object(gateway: Gateway, ask: Ask) -> Response:
    """201 with the ETag. The body is not read before all else was found in order."""
    headers, path = ask.request.headers, ask.path
    ask.asker.need_identity()
    descriptor = parse_put(gateway, headers, path.object)
    condition = write_condition(headers)
    check_upload(ask.request, gateway.limits)
    target = await look_to_write(gateway, ask)
    stored = await gateway.store.put_object(
        target, descriptor, ask.request.body, condition=condition,
        expected_etag=parse_etag(headers), size_max=gateway.limits.max_file_size)
    return created_answer(stored)


async def post_object(gateway: Gateway, ask: Ask) -> Response:
    """202: metadata replaced. What POST cannot set stays: body, ETag, and the content type unless given."""
    headers = ask.request.headers
    ask.asker.need_identity()
    meta, stored = object_metadata(headers, gateway.limits)
    now_us = gateway.clock.now_us()
    delete_at_s = parse_delete_at(headers, now_us)
    content_type = _parse_content_type(headers)
    target = await look_to_write(gateway, ask)

    def change(current: Descriptor) -> Descriptor:
        return replace(current, meta=meta, headers=stored, delete_at_s=delete_at_s,
                       content_type=content_type or current.content_type,
                       extra={**current.extra, "post_us": max(now_us, modified_us(current))})
    is_listed = await gateway.store.post_object(target, change)
    return answer(202, None, pending_fields(is_listed))


async def delete_object(gateway: Gateway, ask: Ask) -> Response:
    """204 says that the object is gone, 404 that none was there."""
    ask.asker.need_identity()
    condition = write_condition(ask.request.headers)
    target = await look_to_write(gateway, ask)
    gone = await gateway.store.delete_object(target, condition)
    return answer(204, None, pending_fields(gone.is_listed))


async def find_object(gateway: Gateway, ask: Ask, *, want_body: bool) -> ObjectInfo:
    """The object, once the asker may read it. Raises `NotFound` only for those who may know."""
    path, asker = ask.path, ask.asker
    try:
        container, info = await gateway.store.get_object(path.account, path.container, path.object, want_body=want_body)
    except NotFound:
        if not asker.is_reader:
            asker.need_read(await _container_or_denied(gateway, ask), is_listing=False)
        raise
    asker.need_read(container, is_listing=False)
    return info


async def look_to_write(gateway: Gateway, ask: Ask) -> Target:
    """Container and object, once the asker may write there."""
    path = ask.path
    try:
        target = await gateway.store.look(path.account, path.container, path.object)
    except NotFound:
        if ask.asker.is_owner:
            raise
        raise ask.asker.hidden() from None
    ask.asker.need_write(target.container)
    return target


async def _container_or_denied(gateway: Gateway, ask: Ask) -> ContainerInfo:
    try:
        return await gateway.store.container(ask.path.account, ask.path.container)
    except NotFound:
        raise ask.asker.hidden() from None


def parse_put(gateway: Gateway, headers: Headers, name: str) -> Descriptor:
    """The object as its PUT describes it. The store fills in what follows from the body. Raises `BadRequest`, `Refusal`."""
    check_name("Object", name, gateway.limits.max_object_name_length)
    if "x-object-manifest" in headers:
        # stored, it would read as an empty one
        raise Refusal(501, "Large objects made of segments are not served yet.").because("request.segments")
    meta, stored = object_metadata(headers, gateway.limits)
    content_type = "" if is_true(headers.get("x-detect-content-type")) else _parse_content_type(headers)
    delete_at_s = parse_delete_at(headers, gateway.clock.now_us())
    return Descriptor(created_us=0, content_type=content_type or guess_type(name), delete_at_s=delete_at_s,
                      meta=meta, headers=stored)


def _parse_content_type(headers: Headers) -> str:
    value = as_text(headers.get("content-type", ""))
    if not is_text(value):
        raise BadRequest(reason="Please specify a valid UTF-8 content type").because("names.utf8")
    return value


def parse_etag(headers: Headers) -> str | None:
    """The MD5 that the client expects."""
    value = headers.get("etag")
    return value.strip().strip('"').lower() if value else None


def is_true(text: str | None) -> bool:
    """Swift's words for yes."""
    return text is not None and text.lower() in _TRUE_WORDS


def guess_type(name: str) -> str:
    """By the extension."""
    return _TYPES.guess_type("/" + name)[0] or _DEFAULT_TYPE


def created_answer(stored: ObjectInfo) -> Response:
    """201."""
    descriptor = stored.descriptor
    return Response(201, [("Content-Type", "text/html; charset=UTF-8"), ("Etag", descriptor.etag),
                          ("Last-Modified", last_modified(descriptor.created_us)), *pending_fields(stored.is_listed)])


def pending_fields(is_listed: bool) -> list[tuple[str, str]]:
    """What an answer says when the listing will show its change only later."""
    return [] if is_listed else [("X-Listing", "pending")]


def object_fields(descriptor: Descriptor) -> list[tuple[str, str]]:
    """Fields of GET and HEAD, without those about the bytes of this answer."""
    changed_us = modified_us(descriptor)
    fields = [("Etag", descriptor.etag), ("Last-Modified", last_modified(changed_us)),
              ("X-Timestamp", format_timestamp(changed_us)), ("Accept-Ranges", "bytes")]
    if descriptor.meta:
        fields += meta_fields("X-Object-Meta-", descriptor.meta)
    if descriptor.headers:
        fields += stored_fields(descriptor.headers)
    if descriptor.delete_at_s:
        fields.append(("X-Delete-At", str(descriptor.delete_at_s)))
    return fields


def read_answer(store: Store, request: Headers, info: ObjectInfo) -> Response:
    """The answer to a GET of this state."""
    descriptor, size = info.descriptor, info.size_bytes
    fields = object_fields(descriptor)
    status = check_read(request, descriptor)
    if status == 412:
        raise read_refusal(request, descriptor, fields)
    if status == 304:
        return Response(304, fields)
    content_type = descriptor.content_type or _DEFAULT_TYPE
    spans = spans_of(request, info)
    if spans is None:
        fields.append(("Content-Type", content_type))
        return Response(200, fields, _bytes_of(store, info, Span(0, size)), content_length=size)
    if not spans:
        fields.append(("Content-Range", f"bytes */{size}"))
        raise Refusal(416, None, fields).because("range", size_bytes=size)
    if len(spans) == 1:
        fields += (("Content-Type", content_type), ("Content-Range", content_range(spans[0], size)))
        return Response(206, fields, _bytes_of(store, info, spans[0]), content_length=spans[0].stop - spans[0].start)
    boundary = secrets.token_hex(16)
    fields.append(("Content-Type", f"multipart/byteranges;boundary={boundary}"))
    return Response(206, fields, _multipart(store, info, spans, boundary, content_type),
                    content_length=multipart_bytes(boundary, content_type, spans, size))


def read_refusal(request: Headers, descriptor: Descriptor, fields: list[tuple[str, str]] | None = None) -> Refusal:
    """412 for a reader whose condition this state does not meet. fields: of the answer, those of the object by default."""
    rule, facts = read_rule(request, descriptor)
    return Refusal(412, None, object_fields(descriptor) if fields is None else fields).because(rule, **facts)


def spans_of(request: Headers, info: ObjectInfo) -> list[Span] | None:
    """What the Range field asks for; None: everything; empty: not satisfiable."""
    text = request.get("range")
    specs = parse_range(text) if text is not None else None
    if specs is None or not range_applies(request, info.descriptor):
        return None
    if info.size_bytes == 0 and any(first is None and last for first, last in specs):
        return None                                                    # the last n bytes of nothing are all of it
    return spans_for(specs, info.size_bytes)


def _bytes_of(store: Store, info: ObjectInfo, span: Span) -> bytes | AsyncIterator[bytes]:
    if info.body is not None:
        return info.body[span.start:span.stop]
    return store.read_body(info, span.start, span.stop - span.start) if span.stop > span.start else b""


async def _multipart(store: Store, info: ObjectInfo, spans: list[Span], boundary: str, content_type: str) -> AsyncIterator[bytes]:
    for span in spans:
        yield part_head(boundary, content_type, span, info.size_bytes)
        piece = _bytes_of(store, info, span)
        if isinstance(piece, bytes):
            yield piece
        else:
            try:
                async for chunk in piece:
                    yield chunk
            finally:
                await close_pieces(piece)
        yield PART_END
    yield multipart_end(boundary)


async def close_pieces(pieces: AsyncIterator[bytes]) -> None:
    """Let go of what a body that may not have been read to its end still holds."""
    if isinstance(pieces, AsyncGenerator):
        await pieces.aclose()
