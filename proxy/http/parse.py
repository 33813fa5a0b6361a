"""The head of a request: what is refused before anything else looks at it, and how long the body is.

A head is cut out of the stream at its blank line here, checked as a whole, and only then given to llhttp: so one request
never depends on what follows it, and no second opinion about framing can arise (request smuggling).
Source: RFC 9112 sections 2.2, 3, 5, 6.
"""
from __future__ import annotations

import re
from dataclasses import dataclass

import httptools

from proxy.http.message import Headers

_CONTROL = bytes(set(range(32)) - {9, 10, 13}) + b"\x7f"
_HIGH = re.compile(rb"[\x80-\xff]")
_ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?#@]*)([^#]*)")
_LENGTH_DIGITS_MAX = 18                          # below 2^63: no length that a file could not have
_VERSIONS = "HTTP/1.0 and HTTP/1.1 are spoken here."


class ProtocolError(Exception):
    """The bytes are not a request that we take: answered with `status` and `reason`, then the connection is closed."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadLimits:
    """Room for Swift's constraints (90 metadata fields of 128 + 256 bytes, names of 1024 bytes percent-encoded) and more."""

    request_line_bytes_max: int = 16_384
    header_line_bytes_max: int = 8_192 + 256     # Swift's max_header_size is 8192 for the value
    header_count_max: int = 128
    head_bytes_max: int = 65_536


@dataclass(slots=True)
class Head:
    """One parsed head. length: bytes of body, None when chunked."""

    method: str
    raw_path: bytes
    raw_query: bytes
    headers: Headers
    host: str
    http_version: str
    length: int | None
    keep_alive: bool
    expects_continue: bool


class _Sink:
    """Receives llhttp's callbacks. Fields go straight into a dict, in C; repeated ones need `_ListSink`."""

    __slots__ = ("fields", "on_header", "url")

    def __init__(self) -> None:
        self.url = b""
        self.fields: dict[bytes, bytes] = {}
        self.on_header = self.fields.__setitem__

    def on_url(self, url: bytes) -> None:
        self.url += url


class _ListSink:
    """Receives every field, repeated or not."""

    __slots__ = ("pairs",)

    def __init__(self) -> None:
        self.pairs: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.pairs.append((name, value.rstrip(b" \t")))


def parse_head(head: bytes, limits: HeadLimits) -> Head:
    """Parse `head`, which ends with its only blank line. Raises `ProtocolError`."""
    field_count = _check_lines(head, limits)
    if not head.isascii():
        head = _escape_target(head)
    sink = _Sink()
    parser = httptools.HttpRequestParser(sink)
    _feed(parser, head)
    if len(sink.fields) == field_count:
        headers = Headers.from_distinct(sink.fields)
    else:
        headers = Headers(_list_fields(head))
        if len(headers.raw_items()) != field_count:
            raise ProtocolError(400, "Malformed request: a folded header line.")
    return _assemble(parser, sink.url, headers)


def _feed(parser: httptools.HttpRequestParser, head: bytes) -> None:
    """Let llhttp judge a whole head. Raises `ProtocolError`."""
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass                                     # Upgrade is a wish; we go on with HTTP/1.1
    except httptools.HttpParserInvalidMethodError:
        raise ProtocolError(405, "The method is not known.") from None
    except httptools.HttpParserError as error:
        version = head.split(b"\r\n", 1)[0].rpartition(b" ")[2]
        if version.startswith(b"HTTP/") and version not in (b"HTTP/1.1", b"HTTP/1.0"):
            raise ProtocolError(505, _VERSIONS) from None
        _judge_length(Headers(_list_fields(head)).by_name, "1.1")        # a more exact reason, if it is about the length
        raise ProtocolError(400, f"Malformed request: {error}.") from None


def _list_fields(head: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of a head as they came, as far as llhttp understands them."""
    sink = _ListSink()
    try:
        httptools.HttpRequestParser(sink).feed_data(head)
    except (httptools.HttpParserUpgrade, httptools.HttpParserError):
        pass
    return sink.pairs


def check_partial(buf: bytes, limits: HeadLimits, start: int) -> None:
    """Judge a head that has no end yet, so that garbage is refused at once: `start` bytes were judged before."""
    if not 65 <= buf[0] <= 90:
        raise ProtocolError(400, "Malformed request: a request starts with a method.")
    if start and buf[start - 1:start + 1] == b"\r\n":
        start += 1
    if buf.count(b"\n", start) != buf.count(b"\r\n", start):
        raise ProtocolError(400, "Malformed request: a line ends with CR LF.")
    line_bytes = buf.find(b"\r\n")
    if (line_bytes if line_bytes >= 0 else len(buf)) > limits.request_line_bytes_max:
        raise ProtocolError(414, "The request line is too long.")
    if len(buf) > limits.head_bytes_max:
        raise ProtocolError(431, "The header is too large.")


def _check_lines(head: bytes, limits: HeadLimits) -> int:
    """Sizes, counts and characters of the whole head; returns the number of field lines."""
    line_count = head.count(b"\r\n")
    if head.count(b"\n") != line_count or head.count(b"\r") != line_count:
        raise ProtocolError(400, "Malformed request: a line ends with CR LF.")
    if len(head.translate(None, _CONTROL)) != len(head):
        raise ProtocolError(400, "Malformed request: a control character in the header.")
    if len(head) > limits.request_line_bytes_max < head.index(b"\r\n"):
        raise ProtocolError(414, "The request line is too long.")
    if line_count - 2 > limits.header_count_max:
        raise ProtocolError(431, f"More than {limits.header_count_max} header fields.")
    if len(head) > limits.head_bytes_max:
        raise ProtocolError(431, "The header is too large.")
    if len(head) > limits.header_line_bytes_max and any(
            len(line) > limits.header_line_bytes_max for line in head.split(b"\r\n")[1:]):
        raise ProtocolError(431, "A header field is too large.")
    return line_count - 2


def _escape_target(head: bytes) -> bytes:
    """Percent-encode raw bytes above 127 in the request line: curl sends a UTF-8 name as it was typed."""
    line, rest = head.split(b"\r\n", 1)
    return _HIGH.sub(lambda found: b"%%%02X" % found.group()[0], line) + b"\r\n" + rest


def _assemble(parser: httptools.HttpRequestParser, url: bytes, headers: Headers) -> Head:
    version = parser.get_http_version()
    if version != "1.1" and version != "1.0":                # noqa: PLR1714 a tuple is slower
        raise ProtocolError(505, _VERSIONS)
    fields = headers.by_name
    host = fields.get(b"host")
    if host is None and version == "1.1":
        raise ProtocolError(400, "The Host header is missing.")
    if host is not None and b"," in host:                    # repeated, or no host name at all
        raise ProtocolError(400, "More than one Host header.")
    host_name = "" if host is None else host.decode("latin-1")
    method = parser.get_method().decode()
    if url[:1] != b"/":
        url, host_name = _split_target(method, url, host_name)
    path, _, query = url.partition(b"?")
    if b"#" in url:
        raise ProtocolError(400, "Malformed request: a fragment in the target.")
    length = _judge_length(fields, version)
    return Head(method, path, query, headers, host_name, version, length, _wants_keep_alive(fields, version),
                length != 0 and b"expect" in fields and version == "1.1" and _expects_continue(fields))


def _split_target(method: str, url: bytes, host: str) -> tuple[bytes, str]:
    """Target and host of the forms that do not start with a slash."""
    if url == b"*" and method == "OPTIONS":
        return url, host
    found = _ABSOLUTE.fullmatch(url)
    if method == "CONNECT" or found is None:
        raise ProtocolError(405 if method == "CONNECT" else 400, "The request target is not a path.")
    rest = found[2] or b"/"
    return (rest if rest[:1] == b"/" else b"/" + rest), found[1].decode("latin-1")


def _judge_length(fields: dict[bytes, bytes], version: str) -> int | None:
    """Bytes of the body, None when chunked. Whatever two readers could understand differently is refused."""
    coding = fields.get(b"transfer-encoding")
    announced = fields.get(b"content-length")
    if coding is not None:
        if announced is not None:
            raise ProtocolError(400, "Both Content-Length and Transfer-Encoding.")
        if version != "1.1":
            raise ProtocolError(400, "Transfer-Encoding needs HTTP/1.1.")
        if coding.lower() != b"chunked":
            raise ProtocolError(501, "The transfer coding is not known; only \"chunked\" is.")
        return None
    if announced is None:
        return 0
    if not announced.isdigit() or len(announced) > _LENGTH_DIGITS_MAX:       # of bytes: ASCII digits only
        raise ProtocolError(400, "Invalid Content-Length.")
    return int(announced)


def _wants_keep_alive(fields: dict[bytes, bytes], version: str) -> bool:
    connection = fields.get(b"connection")
    if connection is None:
        return version == "1.1"
    tokens = {token.strip() for token in connection.lower().split(b",")}
    return b"close" not in tokens and (version == "1.1" or b"keep-alive" in tokens)


def _expects_continue(fields: dict[bytes, bytes]) -> bool:
    if fields[b"expect"].lower() != b"100-continue":
        raise ProtocolError(417, "The expectation cannot be met.")
    return True
