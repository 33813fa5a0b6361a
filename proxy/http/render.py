"""Heads of answers: status line, the fields of the app, and those that only the front may set."""
from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from common.timestamp import format_http_date
from proxy.http.message import FileBody, Response

MakeError = Callable[[int, str], Response]

_STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n" for s in HTTPStatus}
_STATUS_LINES[499] = "HTTP/1.1 499 Client Disconnect\r\n"
_STATUS_LINES[498] = "HTTP/1.1 498 Rate Limited\r\n"


class UnsafeHeader(ValueError):
    """A field of an answer that would break out of its line: a bug of the app, never sent."""


class DateLine:
    """The Date field, made once per second."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def at(self, second: int) -> str:
        """The line for a moment in seconds since 1970."""
        if second != self._second:
            self._second = second
            self._text = f"Date: {format_http_date(second)}\r\n"
        return self._text


def forbids_body(status: int) -> bool:
    """Statuses whose answers end with the head."""
    return status in (204, 304) or status < 200


def body_length(response: Response) -> int | None:
    """Bytes of the body as Content-Length names them; None for an iterator without a length."""
    body = response.body
    if response.content_length is not None:
        return response.content_length
    if isinstance(body, bytes):
        return len(body)
    return body.length if isinstance(body, FileBody) else None


def render_head(response: Response, *, date_line: str, keep_alive: bool, is_old: bool) -> bytes:
    """The head with its blank line. is_old: the client speaks HTTP/1.0. Raises `UnsafeHeader`.

    An iterator without a length is chunked for HTTP/1.1; for HTTP/1.0 its end is that of the connection, and
    `keep_alive` has to be False.
    """
    status = response.status
    lines = [_STATUS_LINES.get(status) or f"HTTP/1.1 {status} Unknown\r\n", date_line]
    for name, value in response.headers:
        lines.append(f"{name}: {value}\r\n")
    if not forbids_body(status):
        length = body_length(response)
        if length is not None:
            lines.append(f"Content-Length: {length}\r\n")
        elif not is_old:
            lines.append("Transfer-Encoding: chunked\r\n")
    if not keep_alive:
        lines.append("Connection: close\r\n")
    elif is_old:
        lines.append("Connection: keep-alive\r\n")
    text = "".join(lines)
    if text.count("\n") != len(lines) or text.count("\r") != len(lines) or "\0" in text:
        raise UnsafeHeader(f"line break or NUL in a header field of a {status} answer")
    return text.encode("utf-8", "surrogateescape") + b"\r\n"


def plain_error(status: int, reason: str) -> Response:
    """The `make_error` of a front whose app gives none."""
    return Response(status, [("Content-Type", "text/plain; charset=utf-8")], reason.encode() + b"\n")
