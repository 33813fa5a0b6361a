"""Why requests of the control plane were refused or failed: bounded in number, by request id, for `holdfast explain`.

The same shape as the gateway keeps (`proxy/explain.py`), so that one command shows both. Nothing secret gets in: method, path
and causes, never bodies, fields or query values.
"""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from common.clock import Clock
from common.errors import Explained, StorageError

REFUSALS_MAX, FAILURES_MAX = 2_000, 500
_CHARS_MAX = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """One request that was answered with 4xx or 5xx."""

    time_us: int
    service: str
    status: int
    seconds: float
    method: str
    path: str
    peer: str
    user: str
    code: str
    reason: str
    causes: tuple[tuple[str, Mapping[str, object]], ...]


class Causes:
    """The newest refusals, and failures of ours in a ring of their own: a flood of 404 does not push them out."""

    def __init__(self, clock: Clock, *, refusals_max: int = REFUSALS_MAX, failures_max: int = FAILURES_MAX) -> None:
        self._clock = clock
        self._refusals: OrderedDict[str, Noted] = OrderedDict()
        self._failures: OrderedDict[str, Noted] = OrderedDict()
        self._refusals_max, self._failures_max = refusals_max, failures_max

    def note(self, request_id: str, *, service: str, status: int, seconds: float, method: str, path: str, peer: str, user: str,
             error: BaseException, reason: str) -> None:
        """Remember it under its request id."""
        causes = error.causes if isinstance(error, Explained) else ()
        code = error.code if isinstance(error, StorageError) else type(error).__name__
        ring, most = (self._failures, self._failures_max) if status >= 500 else (self._refusals, self._refusals_max)
        ring[request_id] = Noted(
            time_us=self._clock.now_us(), service=service, status=status, seconds=round(seconds, 6), method=method[:16],
            path=path[:_CHARS_MAX], peer=peer, user=user[:_CHARS_MAX], code=code, reason=reason[:_CHARS_MAX],
            causes=tuple((cause.rule, {name: str(value)[:_CHARS_MAX] for name, value in cause.facts.items()}) for cause in causes))
        if len(ring) > most:
            ring.popitem(last=False)

    def find(self, request_id: str) -> dict[str, object] | None:
        """What is known of a request, in values that JSON can say; None if it is not, or no longer, here."""
        noted = self._failures.get(request_id) or self._refusals.get(request_id)
        if noted is None:
            return None
        causes = noted.causes or ((f"api.{noted.code}", {}),)
        return {"txid": request_id, "time_us": noted.time_us, "status": noted.status, "ms": round(noted.seconds * 1e3, 3),
                "method": noted.method, "path": noted.path, "parameters": {}, "peer": noted.peer, "user": noted.user,
                "code": noted.code, "reason": noted.reason, "worker": noted.service, "devices": {},
                "chain": [{"rule": rule, "facts": dict(given)} for rule, given in causes]}
