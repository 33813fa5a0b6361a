"""Why requests were refused or failed: the cause chains of one worker, by request id, for `holdfast explain`.

Bounded in number and in bytes; failures of ours (5xx) have a ring of their own, so that a flood of 404 does not push them
out. Nothing secret gets in: of a request its method, path and the names of its parameters, never its fields; of an error its
causes, which are written for this. Budget: nothing for a request that succeeds, about 5 us for one that does not.
"""
from __future__ import annotations

import re
import traceback
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from common.clock import Clock
from common.errors import Cause, Explained, StorageError
from proxy.errors import Refusal
from proxy.http.message import Request, Response

REFUSALS_MAX, FAILURES_MAX = 2_000, 500
ENTRY_CHARS_MAX = 4_096                  # of all strings of one entry: 10 MiB at worst
ITEMS_MAX = 24
PATH_CHARS_MAX = 1_024
_SHOWN_PARAMETERS = frozenset({"limit", "marker", "end_marker", "prefix", "delimiter", "format", "reverse", "path",
                               "multipart-manifest"})
_REQUEST_LINE = re.compile(rb"([A-Z]{1,20}) (/[^\s?]*)")
_SECRET_WORDS = re.compile(r"(?i)(token|signature|secret|password|[_-]sig|[_-]key)")

_RULES = {                               # of errors that bring no cause of their own; by code, and what it was about
    ("not_found", "object"): "object.not_found", ("not_found", "container"): "container.not_found",
    ("not_found", "account"): "account.not_found",
    ("conflict", "container"): "container.not_empty", ("conflict", "policy"): "policy.differs",
    ("conflict", "account"): "account.deleted",
}
_RULES_OF_CODE = {
    "bad_request": "request.invalid", "body_too_short": "body.short", "body_too_large": "limits.file_size",
    "checksum_mismatch": "body.etag", "client_timeout": "body.slow", "corruption": "body.damaged", "full": "device.full",
    "overloaded": "overload", "outcome_unknown": "quorum.accept", "quorum_not_met": "quorum.look",
    "stream_aborted": "body.short",
}


class _Noted(NamedTuple):
    """What is kept of one request; made into an entry when somebody asks. parameters: without what may be secret."""

    time_us: int
    status: int
    seconds: float
    method: str
    path: bytes
    parameters: dict[str, object]
    peer: str
    user: str
    code: str
    reason: str
    chain: list[Cause]


class Causes:
    """The entries of one worker."""

    def __init__(self, clock: Clock, *, refusals_max: int = REFUSALS_MAX, failures_max: int = FAILURES_MAX) -> None:
        self._clock = clock
        self._started_us = clock.now_us()
        self._refusals: OrderedDict[str, _Noted] = OrderedDict()
        self._failures: OrderedDict[str, _Noted] = OrderedDict()
        self._refusals_max, self._failures_max = refusals_max, failures_max

    def note(self, request: Request, response: Response, seconds: float) -> None:
        """A request that was answered with 4xx or 5xx."""
        failed = request.failed
        error, user = failed if failed is not None else (None, "")
        txid = request.txid if failed is not None and request.txid is not None else _txid(response)
        self._keep(txid, _Noted(
            self._clock.now_us() - int(seconds * 1e6), response.status, seconds, request.method, request.raw_path[:PATH_CHARS_MAX],
            shown_parameters(request) if request.raw_query else {}, request.peer, user[:PATH_CHARS_MAX],
            error.code if isinstance(error, StorageError) else "", _reason_of(error)[:PATH_CHARS_MAX],
            _bounded(chain_of(error, response.status))))

    def note_refused(self, response: Response, reason: str, peer: str, data: bytes) -> None:
        """What the HTTP front refused itself. data: what had come of the request, of which only the start line is looked at."""
        line = _REQUEST_LINE.match(data)
        method, path = (line[1].decode(), line[2][:PATH_CHARS_MAX]) if line is not None else ("", b"")
        rule = {408: "http.slow", 503: "http.connections"}.get(response.status, "http.malformed")
        self._keep(_txid(response), _Noted(self._clock.now_us(), response.status, 0.0, method, path, {}, peer, "", "", reason,
                                           [Cause(rule, {})]))

    def find(self, txid: str) -> dict[str, object] | None:
        """The entry of a request, in values that JSON can say; None if it is not, or no longer, here."""
        noted = self._failures.get(txid) or self._refusals.get(txid)
        if noted is None:
            return None
        clip = _Clip()
        return {"txid": txid, "time_us": noted.time_us, "status": noted.status, "ms": round(noted.seconds * 1e3, 1),
                "method": clip(noted.method), "path": clip(noted.path.decode("latin-1")), "parameters": noted.parameters,
                "peer": clip(noted.peer), "user": clip(noted.user), "code": noted.code, "reason": clip(noted.reason),
                "chain": [{"rule": cause.rule, "facts": clip(cause.facts)} for cause in noted.chain]}

    def memory(self) -> dict[str, object]:
        """How far back entries go. oldest_us: None while nothing was dropped, so that all since `started_us` are here."""
        rings = ((self._refusals, self._refusals_max), (self._failures, self._failures_max))
        full = [next(iter(ring.values())).time_us for ring, most in rings if len(ring) >= most]
        return {"refusals_max": self._refusals_max, "failures_max": self._failures_max, "started_us": self._started_us,
                "oldest_us": max(full, default=None)}

    def _keep(self, txid: str, noted: _Noted) -> None:
        is_failure = noted.status >= 500
        ring, most = (self._failures, self._failures_max) if is_failure else (self._refusals, self._refusals_max)
        ring[txid] = noted
        if len(ring) > most:
            ring.popitem(last=False)


def _bounded(chain: list[Cause]) -> list[Cause]:
    """The same, with facts that are too large cut; those that are plain and short, as nearly all are, stay as they are."""
    for cause in chain:
        for value in cause.facts.values():
            if not (value is None or isinstance(value, int | float) or (isinstance(value, str) and len(value) < 200)):
                clip = _Clip()
                return [Cause(link.rule, {str(name): clip(fact) for name, fact in link.facts.items()}) for link in chain]
    return chain


def chain_of(error: Exception | None, status: int) -> list[Cause]:
    """Why, the deciding link first; never empty."""
    if error is None:
        return [Cause(f"status.{status}", {})]
    chain: list[Cause] = []
    link: BaseException | None = error
    while isinstance(link, Explained) and len(chain) < ITEMS_MAX:      # an error that stands for another one: "raise ... from"
        chain += link.causes
        if isinstance(link, StorageError) and not link.causes:
            chain.append(Cause(_rule_of(link), link.fields))
        link = link.__cause__
    if chain:
        return chain
    return [Cause(f"status.{status}", {})] if isinstance(error, Explained) else [_bug(error)]


def _rule_of(error: StorageError) -> str:
    return _RULES.get((error.code, str(error.fields.get("what")))) or _RULES_OF_CODE.get(error.code, error.code)


def _reason_of(error: Exception | None) -> str:
    """The sentence that the error has."""
    if isinstance(error, Refusal):
        return error.text or ""
    return str(error.fields.get("reason", "")) if isinstance(error, StorageError) else ""


def _bug(error: Exception) -> Cause:
    """An exception that nobody expected: where it came from; its text may quote anything, so it stays in the log."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename.rsplit('/', 2)[-1]}:{frames[-1].lineno}" if frames else "unknown"
    return Cause("bug", {"exception": type(error).__name__, "where": where})


def shown_parameters(request: Request) -> dict[str, object]:
    """Names of the query's parameters; values only of those that cannot be secret."""
    clip = _Clip(PATH_CHARS_MAX)
    shown = list(request.query.items())[:ITEMS_MAX]
    return {str(clip(name)): clip(value) if name in _SHOWN_PARAMETERS else "..." for name, value in shown}


def _txid(response: Response) -> str:
    return next((value for name, value in response.headers if name == "X-Trans-Id"), "")


class _Clip:
    """Copies plain values into an entry: bounded in all its strings together, secrets blanked, text that JSON can carry."""

    def __init__(self, chars_max: int = ENTRY_CHARS_MAX) -> None:
        self._left = chars_max

    def __call__(self, value: object) -> object:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return {self._text(str(name)): "..." if _SECRET_WORDS.search(str(name)) and isinstance(item, str) else self(item)
                    for name, item in list(value.items())[:ITEMS_MAX]}
        if isinstance(value, Sequence | frozenset | set) and not isinstance(value, bytes | bytearray):
            return [self(item) for item in list(value)[:ITEMS_MAX]]
        return self._text(repr(value))

    def _text(self, text: str) -> str:
        kept = text[:self._left]
        self._left -= len(kept)
        if not kept.isascii():
            kept = kept.encode("utf-8", "backslashreplace").decode()
        return kept if len(kept) >= len(text) else kept + "..."
