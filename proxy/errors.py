"""The one table from error classes to what clients see: HTTP status and S3 code; and Swift's form of an error answer.

Bodies have the form that Swift's clients know: a title and a sentence per status, or a plain sentence that says more.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import common.errors as e
from proxy.http.message import Response

RETRY_AFTER_S = 2                        # a worker that died serves again within this


@dataclass(frozen=True, slots=True)
class Kind:
    """What one class of errors is to a client. sentence: for the body, where the status alone says too little."""

    status: int
    s3_code: str
    sentence: str = ""


_KINDS: dict[type[e.StorageError], Kind] = {
    e.StorageError: Kind(500, "InternalError"),
    e.BadRequest: Kind(400, "InvalidRequest"),
    e.Unauthorized: Kind(401, "AccessDenied"),
    e.Forbidden: Kind(403, "AccessDenied"),
    e.NotFound: Kind(404, "NoSuchKey"),
    e.Conflict: Kind(409, "OperationAborted"),
    e.PreconditionFailed: Kind(412, "PreconditionFailed"),
    e.ChecksumMismatch: Kind(422, "BadDigest"),
    e.BodyTooShort: Kind(499, "IncompleteBody"),
    e.BodyTooLarge: Kind(413, "EntityTooLarge"),
    e.ClientTimeout: Kind(408, "RequestTimeout"),
    e.IdentityAway: Kind(503, "ServiceUnavailable", "Tokens of identity cannot be judged at the moment."),
    e.QuorumNotMet: Kind(503, "ServiceUnavailable", "Too few replicas answered. A write may still take effect later."),
    e.OutcomeUnknown: Kind(503, "ServiceUnavailable", "No decision in time: the write may or may not have taken effect."),
    e.DeadlineExceeded: Kind(503, "ServiceUnavailable", "No answer in time."),
    e.Overloaded: Kind(503, "SlowDown", "Too much to do at the moment."),
    e.DeviceFull: Kind(507, "ServiceUnavailable", "There was not enough space to save the resource."),
    e.DeviceRefused: Kind(503, "ServiceUnavailable"),
    e.ReadOnlyDevice: Kind(503, "ServiceUnavailable"),
    e.ClockRefused: Kind(503, "ServiceUnavailable"),
    e.Corruption: Kind(500, "InternalError", "No undamaged replica could be read."),
}

_TRY_AGAIN = Kind(503, "ServiceUnavailable")

_TEXTS = {                               # status: title, sentence, as Swift answers them
    202: ("Accepted", "The request is accepted for processing."),
    400: ("Bad Request", "The server could not comply with the request since it is either malformed or otherwise incorrect."),
    401: ("Unauthorized", "This server could not verify that you are authorized to access the document you requested."),
    403: ("Forbidden", "Access was denied to this resource."),
    404: ("Not Found", "The resource could not be found."),
    405: ("Method Not Allowed", "The method is not allowed for this resource."),
    406: ("Not Acceptable", "The resource is not available in a format acceptable to your browser."),
    408: ("Request Timeout", "The server has waited too long for the request to be sent by the client."),
    409: ("Conflict", "There was a conflict when trying to complete your request."),
    410: ("Gone", "This resource is no longer available."),
    411: ("Length Required", "Content-Length header required."),
    412: ("Precondition Failed", "A precondition for this request was not met."),
    413: ("Request Entity Too Large", "The body of your request was too large for this server."),
    414: ("Request URI Too Long", "The request URI was too long for this server."),
    416: ("Requested Range Not Satisfiable", "The Range requested is not available."),
    417: ("Expectation Failed", "Expectation failed."),
    422: ("Unprocessable Entity", "Unable to process the contained instructions"),
    499: ("Client Disconnect", "The client was disconnected during request."),
    500: ("Internal Error", "The server has either erred or is incapable of performing the requested operation."),
    501: ("Not Implemented", "The requested method is not implemented by this server."),
    503: ("Service Unavailable", "The server is currently unavailable. Please try again at a later time."),
    507: ("Insufficient Storage", "There was not enough space to save the resource."),
}
_PAGES = {status: f"<html><h1>{title}</h1><p>{sentence}</p></html>".encode() for status, (title, sentence) in _TEXTS.items()}


class Refusal(e.Explained):
    """An answer of a door for which no error class stands: raised in a handler, answered as it is.

    text: a plain sentence for the client; None for the page of the status.
    """

    def __init__(self, status: int, text: str | None = None, headers: list[tuple[str, str]] | None = None) -> None:
        super().__init__(f"{status} {text or ''}")
        self.status = status
        self.text = text
        self.headers = headers or []


def kind_of(error: e.StorageError) -> Kind:
    """The row of the error's class, or of the nearest class above it; without one, what may be tried again is 503."""
    for cls in type(error).__mro__:
        found = _KINDS.get(cls)
        if found is not None and cls is not e.StorageError:
            return found
    return _TRY_AGAIN if error.is_retryable else _KINDS[e.StorageError]


def answer(status: int, text: str | None = None, headers: list[tuple[str, str]] | None = None) -> Response:
    """An answer in Swift's form: the page of its status, or `text` as a plain sentence. Takes `headers` over."""
    headers = [] if headers is None else headers
    if text is None:
        headers.append(("Content-Type", "text/html; charset=UTF-8"))
        return Response(status, headers, _PAGES.get(status, b""))
    headers.append(("Content-Type", "text/plain; charset=UTF-8"))       # never html: the text may quote the client
    return Response(status, headers, text.encode("utf-8", "surrogateescape"))


def refusal_answer(refusal: Refusal) -> Response:
    """The answer that a handler raised."""
    return answer(refusal.status, refusal.text, list(refusal.headers))


def error_answer(error: e.StorageError) -> Response:
    """The answer for an error of ours, in Swift's form; `reason`, where the error has one for the client, as its text."""
    kind = kind_of(error)
    headers: list[tuple[str, str]] = []
    reason = error.fields.get("reason") if 400 <= kind.status < 500 else None     # of a 5xx the reason is for the log
    if kind.status >= 500:
        headers.append(("X-Error-Code", error.code))
    if kind.status in (503, 507):
        headers.append(("Retry-After", str(_retry_after_s(error))))
    return answer(kind.status, reason if isinstance(reason, str) and reason else kind.sentence or None, headers)


def _retry_after_s(error: e.StorageError) -> int:
    value = error.fields.get("retry_after_s")
    return max(1, round(value)) if isinstance(value, int | float) else RETRY_AFTER_S


def make_txid(now_us: int, random_bits: int) -> str:
    """"tx" + 21 hex digits + "-" + the time in 10, the form that operators of Swift search their logs for."""
    return f"tx{random_bits & (1 << 84) - 1:021x}-{now_us // 1_000_000:010x}"


def mark(response: Response, txid: str) -> Response:
    """Name the request in its answer."""
    response.headers += (("X-Trans-Id", txid), ("X-Openstack-Request-Id", txid))
    return response


def front_errors(new_txid: Callable[[], str]) -> Callable[[int, str], Response]:
    """`make_error` of the HTTP front: its own refusals in the same form, each with an id."""
    def make_error(status: int, reason: str) -> Response:
        return mark(answer(status, reason or None), new_txid())
    return make_error
