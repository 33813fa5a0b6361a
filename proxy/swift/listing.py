"""Listings of accounts and containers: the page that a query asks for, and its three forms (text, JSON, XML)."""
from __future__ import annotations

from collections.abc import Sequence
from html import escape
from json.encoder import encode_basestring_ascii as quote

from common.errors import BadRequest
from common.timestamp import format_iso, format_isos
from proxy.errors import Refusal
from proxy.http.message import Request, Response
from proxy.model import ContainerEntry, ObjectEntry, Page, Subdir
from proxy.swift.constraints import is_text

TEXT, JSON, XML, TEXT_XML = "text/plain", "application/json", "application/xml", "text/xml"
_OFFERS = (TEXT, JSON, XML, TEXT_XML)                  # among equals the first wins
_FORMATS = {"plain": TEXT, "json": JSON, "xml": XML}
_PARAMETERS = ("limit", "marker", "end_marker", "prefix", "delimiter", "path", "reverse", "format")
_TRUE_WORDS = frozenset({"true", "1", "yes", "on", "t", "y"})

Entries = Sequence[ObjectEntry | ContainerEntry | Subdir]


def parse_page(request: Request, limit_max: int) -> Page:
    """Raises `BadRequest` (not UTF-8) and `Refusal` 412 (limit)."""
    query = request.query
    if not query:
        return Page(limit=limit_max)
    for name in _PARAMETERS:
        if not is_text(query.get(name, "")):
            raise BadRequest(reason=f'"{name}" parameter not valid UTF-8').because("names.utf8")
    return Page(limit=_parse_limit(query.get("limit", ""), limit_max), marker=query.get("marker", ""),
                end_marker=query.get("end_marker", ""), prefix=query.get("prefix", ""),
                delimiter=query.get("delimiter", ""), path=query.get("path"),
                reverse=query.get("reverse", "").lower() in _TRUE_WORDS)


def _parse_limit(text: str, limit_max: int) -> int:
    """What is no number counts as not given."""
    if not (text.isascii() and text.isdigit()):
        return limit_max
    digits = text.lstrip("0") or "0"         # a number of thousands of digits is refused by int itself, also one of zeros
    if len(digits) > 18 or int(digits) > limit_max:
        raise Refusal(412, f"Maximum limit is {limit_max}").because("limits.listing", limit=limit_max)
    return int(digits)


def choose_format(request: Request) -> str:
    """A media type: of the parameter `format`, else of Accept. Raises `BadRequest`, `Refusal` 406."""
    wanted = request.query.get("format") if request.raw_query else None
    if wanted:
        return _FORMATS.get(wanted.lower(), TEXT)
    accept = request.headers.get("accept")
    if not accept or accept == "*/*":
        return TEXT
    qualities = _parse_accept(accept)
    best = max(_OFFERS, key=lambda offer: _quality(qualities, offer))
    if _quality(qualities, best) <= 0:
        raise Refusal(406).because("listing.format")
    return best


def _parse_accept(accept: str) -> dict[str, float]:
    """Media ranges and their qualities. Raises `BadRequest`."""
    out: dict[str, float] = {}
    for part in accept.split(","):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        if not media:
            continue
        if media.count("/") != 1 or media.startswith("/") or media.endswith("/"):
            raise BadRequest(reason="Invalid Accept header")
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip().lower() == "q":
                quality = _parse_quality(value.strip())
        out[media.lower()] = quality
    return out


def _parse_quality(text: str) -> float:
    try:
        quality = float(text)
    except ValueError:
        quality = -1.0
    if not 0 <= quality <= 1:
        raise BadRequest(reason="Invalid Accept header")
    return quality


def _quality(qualities: dict[str, float], offer: str) -> float:
    """That of the most specific range that covers the offer."""
    for media in (offer, offer.partition("/")[0] + "/*", "*/*"):
        if media in qualities:
            return qualities[media]
    return 0.0


def listing_answer(media: str, headers: list[tuple[str, str]], *, kind: str, name: str, entries: Entries) -> Response:
    """The page in its form; an empty text is 204. kind: "account" or "container". Takes `headers` over."""
    headers += (("Content-Type", f"{media}; charset=utf-8"), ("Vary", "Accept"))
    if media == JSON:
        body = _objects_as_json(entries) if kind == "container" else f"[{', '.join(map(_as_json, entries))}]".encode()
    elif media == TEXT:
        body = "".join(entry.name + "\n" for entry in entries).encode()
    else:
        body = _as_xml(kind, name, entries).encode()
    return Response(200 if body else 204, headers, body)


def _objects_as_json(entries: Entries) -> bytes:
    """As `json.dumps` would write it, at half of the cost: columns first, most of which C goes through alone."""
    if not entries or not all(map(_is_object, entries)):
        return f"[{', '.join(map(_as_json, entries))}]".encode()
    names, sizes, etags, types, moments = zip(*entries)
    quoted = {text: quote(text) for text in {*types}}
    columns = zip(sizes, map(quote, etags), map(quote, names), map(quoted.__getitem__, types), format_isos(moments))
    rows = [f'{{"bytes": {size}, "hash": {etag}, "name": {name}, "content_type": {kind}, "last_modified": "{moment}"}}'
            for size, etag, name, kind, moment in columns]
    return f"[{', '.join(rows)}]".encode()


def _is_object(entry: ObjectEntry | ContainerEntry | Subdir) -> bool:
    return type(entry) is ObjectEntry


def _as_json(entry: ObjectEntry | ContainerEntry | Subdir) -> str:
    """As `json.dumps` would write it, at a third of the cost: a page has a thousand of them."""
    if isinstance(entry, ObjectEntry):
        name, size_bytes, etag, content_type, created_us = entry
        return (f'{{"bytes": {size_bytes}, "hash": {quote(etag)}, "name": {quote(name)}, '
                f'"content_type": {quote(content_type)}, "last_modified": "{format_iso(created_us)}"}}')
    if isinstance(entry, ContainerEntry):
        name, object_count, bytes_used, put_us = entry
        return (f'{{"name": {quote(name)}, "count": {object_count}, "bytes": {bytes_used}, '
                f'"last_modified": "{format_iso(put_us)}"}}')
    return f'{{"subdir": {quote(entry.name)}}}'


def _as_xml(kind: str, name: str, entries: Entries) -> str:
    parts = [f'<?xml version="1.0" encoding="UTF-8"?>\n<{kind} name="{_escape(name)}">']
    for entry in entries:
        shown = _escape(entry.name)
        if isinstance(entry, ObjectEntry):
            parts.append(f"<object><name>{shown}</name><hash>{_escape(entry.etag)}</hash><bytes>{entry.size_bytes}</bytes>"
                         f"<content_type>{_escape(entry.content_type)}</content_type>"
                         f"<last_modified>{format_iso(entry.created_us)}</last_modified></object>")
        elif isinstance(entry, ContainerEntry):
            parts.append(f"<container><name>{shown}</name><count>{entry.object_count}</count><bytes>{entry.bytes_used}</bytes>"
                         f"<last_modified>{format_iso(entry.put_us)}</last_modified></container>")
        elif kind == "container":
            parts.append(f'<subdir name="{shown}"><name>{shown}</name></subdir>')
        else:
            parts.append(f'<subdir name="{shown}" />')
    parts.append(f"</{kind}>")
    return "".join(parts)


def _escape(text: str) -> str:
    """Line ends and tabs as references, or a reader of XML would make spaces and other line ends of them."""
    text = escape(text)
    if text.isprintable():
        return text
    return text.replace("\r", "&#13;").replace("\n", "&#10;").replace("\t", "&#9;")
