"""Errors of the control plane: which HTTP status each kind has, and the body that clients of each service expect.

Kinds that the whole of Holdfast knows are in `common/errors.py`; those of an HTTP API alone are here. `reason` of an error is a
sentence for the client. Sources: the API references of the services; a client of one service finds its own form.
"""
from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from common.errors import NotFound, StorageError


class MethodNotAllowed(StorageError):
    """The path is known, not with this verb. allow: the verbs that it takes."""

    code = "method_not_allowed"


class NotAcceptable(StorageError):
    """A microversion that this service does not speak. lowest, highest: the ones it does."""

    code = "not_acceptable"


class UnsupportedMedia(StorageError):
    """A body in a form that this operation does not read."""

    code = "unsupported_media"


class QuotaExceeded(StorageError):
    """resource, limit, used, wanted: what would have gone above its limit."""

    code = "quota_exceeded"


class Duplicate(StorageError):
    """A unique constraint of the database. table: of the row that is there already."""

    code = "duplicate"


class BadReference(StorageError):
    """A row that another one needs is not there, or is needed by others. Raised for a foreign key of the database."""

    code = "bad_reference"


class NotBuilt(StorageError):
    """An operation of the API that this version does not have."""

    code = "not_built"


STATUS_OF: Mapping[str, int] = {
    "bad_request": 400, "unauthorized": 401, "forbidden": 403, "not_found": 404, "method_not_allowed": 405, "not_acceptable": 406,
    "client_timeout": 408, "conflict": 409, "wrong_state": 409, "duplicate": 409, "bad_reference": 409, "precondition_failed": 412,
    "body_too_large": 413, "unsupported_media": 415, "quota_exceeded": 403, "not_built": 501, "overloaded": 503,
    "deadline_exceeded": 503, "transport_lost": 503,
}
_SENTENCES: Mapping[int, str] = {
    401: "The request you have made requires authentication.", 403: "You are not authorized to perform the requested action.",
    404: "Not Found", 500: "An unexpected error prevented the server from fulfilling your request; its id finds it in the log.",
}
_NOVA_NAMES: Mapping[int, str] = {
    400: "badRequest", 401: "unauthorized", 403: "forbidden", 404: "itemNotFound", 405: "badMethod", 409: "conflictingRequest",
    413: "overLimit", 415: "badMediaType", 429: "overLimit", 501: "notImplemented", 503: "serviceUnavailable",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What a client is told of an error. kind: a name for those services that show one."""

    status: int
    message: str
    kind: str = ""
    request_id: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """"Not Found"."""
        return title_of(self.status)


Render = Callable[[Fault], tuple[str, str]]         # content type, text


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorStyle:
    """How one service speaks of errors. statuses: by code, where they differ from `STATUS_OF`."""

    render: Render
    statuses: Mapping[str, int] = field(default_factory=dict)


def fault_of(error: Exception, style: ErrorStyle, request_id: str = "") -> Fault:
    """What to tell of `error`; of one that is no `StorageError` only that it happened."""
    if not isinstance(error, StorageError):
        return Fault(status=500, message=_SENTENCES[500], request_id=request_id)
    status = style.statuses.get(error.code) or STATUS_OF.get(error.code) or (503 if error.is_retryable else 500)
    headers = {}
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = str(error.fields.get("allow", ""))
    if "retry_after_s" in error.fields:
        headers["Retry-After"] = str(error.fields["retry_after_s"])
    return Fault(status=status, message=message_of(error, status), kind=str(error.fields.get("kind", "")), request_id=request_id,
                 headers=headers)


def message_of(error: StorageError, status: int) -> str:
    """The reason of an error, else a sentence for its status. A fault of ours tells no facts to the outside."""
    if "reason" in error.fields and status != 500:
        return str(error.fields["reason"])
    if isinstance(error, NotFound) and "what" in error.fields:
        name = error.fields.get("name")
        return f"Could not find {error.fields['what']}{f': {name}' if name is not None else ''}."
    return _SENTENCES.get(status, title_of(status))


def title_of(status: int) -> str:
    """The usual phrase of a status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def render_error(fault: Fault) -> tuple[str, str]:
    """Identity: {"error": {code, message, title}}."""
    return "application/json", json.dumps({"error": {"code": fault.status, "message": fault.message, "title": fault.title}})


def render_named(fault: Fault) -> tuple[str, str]:
    """Compute, block storage: {"itemNotFound": {code, message}}."""
    return "application/json", json.dumps({_NOVA_NAMES.get(fault.status, "computeFault"): {
        "code": fault.status, "message": fault.message}})


def render_neutron(fault: Fault) -> tuple[str, str]:
    """Network: {"NeutronError": {type, message, detail}}; clients read the type."""
    kind = fault.kind or "HTTP" + fault.title.replace(" ", "")
    return "application/json", json.dumps({"NeutronError": {"type": kind, "message": fault.message, "detail": ""}})


def render_page(fault: Fault) -> tuple[str, str]:
    """Image: a page with the status as its title."""
    title = f"{fault.status} {fault.title}"
    return "text/html", (f"<html>\n <head>\n  <title>{title}</title>\n </head>\n <body>\n  <h1>{title}</h1>\n"
                         f"  {html.escape(fault.message)}<br /><br />\n </body>\n</html>")


def render_list(fault: Fault) -> tuple[str, str]:
    """Placement: {"errors": [{status, title, detail, code, request_id}]}."""
    return "application/json", json.dumps({"errors": [{
        "status": fault.status, "title": fault.title, "detail": fault.message, "code": fault.kind or "placement.undefined_code",
        "request_id": fault.request_id}]})


IDENTITY = ErrorStyle(render=render_error)
COMPUTE = ErrorStyle(render=render_named)
BLOCK = ErrorStyle(render=render_named, statuses={"quota_exceeded": 413, "wrong_state": 400})
NETWORK = ErrorStyle(render=render_neutron, statuses={"quota_exceeded": 409})
IMAGE = ErrorStyle(render=render_page, statuses={"quota_exceeded": 413})
PLACEMENT = ErrorStyle(render=render_list)
