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
_FIELD_VALUE_DIGITS_MAX = 18                     # below 2^63: no length that a file could not have


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
    """Receives llhttp's callbacks."""

    __slots__ = ("pairs", "url")

    def __init__(self) -> None:
        self.url = b""
        self.pairs: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.pairs.append((name, value.rstrip(b" \t")))


def parse_head(head: bytes, limits: HeadLimits) -> Head:
    """Parse `head`, which ends with its only blank line. Raises `ProtocolError`."""
    _check_lines(head, limits)
    if not head.isascii():
        head = _escape_target(head)
    sink = _Sink()
    parser = httptools.HttpRequestParser(sink)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass                                     # Upgrade is a wish; we go on with HTTP/1.1
    except httptools.HttpParserInvalidMethodError:
        raise ProtocolError(405, "The method is not known.") from None
    except httptools.HttpParserError as error:
        _judge_version_of_line(head)
        _judge_length(Headers(sink.pairs), "1.1")            # a more exact reason, if it is about the length
        raise ProtocolError(400, f"Malformed request: {error}.") from None
    return _assemble(parser, sink)


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


def _check_lines(head: bytes, limits: HeadLimits) -> None:
    """Sizes, counts and characters of the whole head."""
    line_count = head.count(b"\r\n")
    if head.count(b"\n") != line_count or head.count(b"\r") != line_count:
        raise ProtocolError(400, "Malformed request: a line ends with CR LF.")
    if len(head.translate(None, _CONTROL)) != len(head):
        raise ProtocolError(400, "Malformed request: a control character in the header.")
    if b"\r\n " in head or b"\r\n\t" in head:
        raise ProtocolError(400, "Malformed request: a folded header line.")
    if head.index(b"\r\n") > limits.request_line_bytes_max:
        raise ProtocolError(414, "The request line is too long.")
    if line_count - 2 > limits.header_count_max:
        raise ProtocolError(431, f"More than {limits.header_count_max} header fields.")
    if len(head) > limits.head_bytes_max:
        raise ProtocolError(431, "The header is too large.")
    if len(head) > limits.header_line_bytes_max and any(
            len(line) > limits.header_line_bytes_max for line in head.split(b"\r\n")[1:]):
        raise ProtocolError(431, "A header field is too large.")


def _escape_target(head: bytes) -> bytes:
    """Percent-encode raw bytes above 127 in the request line: curl sends a UTF-8 name as it was typed."""
    line, rest = head.split(b"\r\n", 1)
    return _HIGH.sub(lambda found: b"%%%02X" % found.group()[0], line) + b"\r\n" + rest


def _assemble(parser: httptools.HttpRequestParser, sink: _Sink) -> Head:
    version = parser.get_http_version()
    if version not in ("1.1", "1.0"):
        raise ProtocolError(505, "HTTP/1.0 and HTTP/1.1 are spoken here.")
    headers = Headers(sink.pairs)
    host = headers.get("host")
    if host is None and version == "1.1":
        raise ProtocolError(400, "The Host header is missing.")
    if host is not None and len(headers) != len(sink.pairs) and len(headers.getall("host")) > 1:
        raise ProtocolError(400, "More than one Host header.")
    method = parser.get_method().decode()
    url = sink.url
    if url[:1] != b"/":
        url, host = _split_target(method, url, host or "")
    path, _, query = url.partition(b"?")
    if b"#" in url:
        raise ProtocolError(400, "Malformed request: a fragment in the target.")
    length = _judge_length(headers, version)
    return Head(method, path, query, headers, host or "", version, length, _wants_keep_alive(headers, version),
                length != 0 and version == "1.1" and _expects_continue(headers))


def _judge_version_of_line(head: bytes) -> None:
    """llhttp stops at "PRI * HTTP/2.0"; say what is wrong with it."""
    version = head.split(b"\r\n", 1)[0].rpartition(b" ")[2]
    if version.startswith(b"HTTP/") and version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise ProtocolError(505, "HTTP/1.0 and HTTP/1.1 are spoken here.")


def _split_target(method: str, url: bytes, host: str) -> tuple[bytes, str]:
    """Target and host of the forms that do not start with a slash."""
    if url == b"*" and method == "OPTIONS":
        return url, host
    found = _ABSOLUTE.fullmatch(url)
    if method == "CONNECT" or found is None:
        raise ProtocolError(405 if method == "CONNECT" else 400, "The request target is not a path.")
    rest = found[2] or b"/"
    return (rest if rest[:1] == b"/" else b"/" + rest), found[1].decode("latin-1")


def _judge_length(headers: Headers, version: str) -> int | None:
    """Bytes of the body, None when chunked. Whatever two readers could understand differently is refused."""
    coding = headers.get("transfer-encoding")
    announced = headers.get("content-length")
    if coding is not None:
        if announced is not None:
            raise ProtocolError(400, "Both Content-Length and Transfer-Encoding.")
        if version != "1.1":
            raise ProtocolError(400, "Transfer-Encoding needs HTTP/1.1.")
        if coding.lower() != "chunked":
            raise ProtocolError(501, "The transfer coding is not known; only \"chunked\" is.")
        return None
    if announced is None:
        return 0
    if not (announced.isascii() and announced.isdigit()) or len(announced) > _FIELD_VALUE_DIGITS_MAX:
        raise ProtocolError(400, "Invalid Content-Length.")
    return int(announced)


def _wants_keep_alive(headers: Headers, version: str) -> bool:
    connection = headers.get("connection")
    if connection is None:
        return version == "1.1"
    tokens = {token.strip() for token in connection.lower().split(",")}
    return "close" not in tokens and (version == "1.1" or "keep-alive" in tokens)


def _expects_continue(headers: Headers) -> bool:
    expect = headers.get("expect")
    if expect is None:
        return False
    if expect.lower() != "100-continue":
        raise ProtocolError(417, "The expectation cannot be met.")
    return True
