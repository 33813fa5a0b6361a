"""The application of a gateway worker: names each request, chooses its door, maps what went wrong, counts and logs.

Budget: one txid, two header fields, one histogram observation per request; about 3 us.
"""
from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import Any

from common.clock import Clock, SystemClock
from common.errors import StorageError
from common.log import DEBUG, Repeats, get_logger
from common.metrics import Counter, Histogram, Registry
from proxy.audit import AuditLog
from proxy.errors import Refusal, answer, error_answer, make_txid, mark, refusal_answer
from proxy.explain import Causes
from proxy.http.dispatch import Api, choose_api
from proxy.http.message import Request, Response
from proxy.usage import UsageCounter

Door = Callable[[Request], Coroutine[Any, Any, Response]]
_log = get_logger("proxy.app")
_METHODS = frozenset(("GET", "HEAD", "PUT", "POST", "DELETE", "COPY", "OPTIONS"))
NO_SUCH_PLACE = ("There is nothing here. This store speaks the Swift API: GET /auth/v1.0 to log in, then "
                 "/v1/ACCOUNT/CONTAINER/OBJECT; /info and /healthcheck need no login.\n")
NO_S3 = "This store does not speak the S3 API: use the Swift API, GET /auth/v1.0 to log in, then /v1/ACCOUNT/CONTAINER/OBJECT.\n"


class TxidSource:
    """Ids of requests: time, and random bits from a generator that costs no system call."""

    def __init__(self, clock: Clock, rng: random.Random | None = None) -> None:
        self._clock, self._rng = clock, rng or random.Random()

    def __call__(self) -> str:
        return make_txid(self._clock.now_us(), self._rng.getrandbits(84))


def make_app(door_swift: Door, *, new_txid: Callable[[], str] | None = None, s3_domain: str | None = None) -> Door:
    """The app that the HTTP front runs. door_swift: answers errors of ours itself, and marks its answers with `request.txid`."""
    new_txid = new_txid or TxidSource(SystemClock())

    async def app(request: Request) -> Response:
        request.txid = new_txid()
        try:
            api = choose_api(request.method, request.raw_path, request.headers, request.query, s3_domain=s3_domain)
            if api is Api.SWIFT:
                return await door_swift(request)
            raise refuse_elsewhere(request)
        except Refusal as refusal:
            request.failed = refusal, ""
            response = refusal_answer(refusal)
        except StorageError as error:
            request.failed = error, ""
            response = error_answer(error)
        except Exception as error:               # the edge: a bug must not cost the connection, and has to be seen
            request.failed = error, ""
            _log.error("request crashed", txid=request.txid, method=request.method, path=request.path, exc=error)
            response = answer(500)
        return mark(response, request.txid)

    return app


def refuse_elsewhere(request: Request) -> Refusal:
    """What is not Swift's: a bucket name, a signature of another API, the root."""
    authorization = request.headers.get("authorization") or ""
    is_signed = authorization.startswith("AWS") or b"X-Amz-" in request.raw_query
    return Refusal(400, NO_S3).because("api.s3") if is_signed else Refusal(404, NO_SUCH_PLACE).because("request.nowhere")


class RequestReport:
    """`on_request_done` of the front: metrics always, a line of log at level debug, a warning for what we could not do.

    causes: takes why requests were refused or failed, for `holdfast explain`. usage: counts for accounts. audit: writes
    down who did what.
    """

    def __init__(self, registry: Registry, causes: Causes | None = None, usage: UsageCounter | None = None,
                 audit: AuditLog | None = None) -> None:
        self._seconds = registry.histogram("holdfast_request_seconds", "time from the head of a request to the end of its answer",
                                           ("method", "status"))
        self._bytes = registry.counter("holdfast_request_sent_bytes_total", "bytes of bodies sent to clients").labels()
        self._received = registry.counter("holdfast_request_received_bytes_total", "bytes of bodies of clients").labels()
        self._repeats = Repeats(_log)
        self._causes = causes
        self._audit = audit
        self._note_usage = usage.note if usage is not None else _note_nothing
        self._handles: dict[tuple[str, int], Histogram] = {}

    def __call__(self, request: Request, response: Response, sent_bytes: int, seconds: float) -> None:
        handle = self._handles.get((request.method, response.status))
        if handle is None:                       # a client chooses its method: only known ones become a label
            method = request.method if request.method in _METHODS else "other"
            handle = self._seconds.labels(method, f"{response.status // 100}xx")
            if method != "other":
                self._handles[request.method, response.status] = handle
        handle.observe(seconds)
        self._note_usage(request, response.status, sent_bytes)
        if self._audit is not None:
            self._audit.note(request, response, sent_bytes, seconds)
        _add(self._bytes, sent_bytes)
        _add(self._received, request.body.length or 0)
        if response.status >= 400:
            if self._causes is not None:
                self._causes.note(request, response, seconds)
            request.failed = None                # its traceback names frames that name the request: a cycle, left to the collector
        if response.status >= 500:
            code = next((value for name, value in response.headers if name == "X-Error-Code"), "")
            self._repeats.warning("request failed", about=code or response.status, txid=request.txid, method=request.method,
                                  path=request.raw_path, status=response.status, ms=seconds * 1e3)
        if _log.is_enabled(DEBUG):
            _log.debug("request", txid=request.txid, peer=request.peer, method=request.method, path=request.raw_path,
                       status=response.status, received_bytes=request.body.length, sent_bytes=sent_bytes, ms=seconds * 1e3)


def _note_nothing(request: Request, status: int, sent_bytes: int) -> None:
    pass


def _add(counter: Counter, count: int) -> None:
    if count:
        counter.inc(count)
