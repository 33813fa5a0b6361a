"""What accounts use, counted in the memory of one worker: requests by class and bytes in and out, of one UTC day.

Refused requests (401, 403) and failures of ours (5xx) are on nobody's account, nor is one about an account that has had no
success today: else anybody could fill the memory with names. An upload that was let in and went wrong on the way counts.
Cost: about 0.3 us per request, no allocation that stays.
"""
from __future__ import annotations

from typing import NamedTuple

from proxy.http.message import Request

READS, WRITES, LISTS, DELETES, RECEIVED, SENT = range(6)
ACCOUNTS_MAX = 200_000                           # of one day and worker; those beyond count together
OTHERS = "(others)"
_KINDS = {"GET": READS, "HEAD": READS, "PUT": WRITES, "POST": WRITES, "COPY": WRITES, "DELETE": DELETES}
_NOBODYS = frozenset((401, 403, 405))
_LET_IN = frozenset((408, 422, 499))             # for a body of which something was read: who sent it may write here


class Figures(NamedTuple):
    """What an account held at a moment."""

    stored_bytes: int
    objects: int
    containers: int
    seen_us: int


class UsageCounter:
    """The rows of the present day: by account, six integers in the order of the constants above."""

    __slots__ = ("_rows_by_name", "figures", "rows")

    def __init__(self) -> None:
        self.begin_day()

    def begin_day(self) -> None:
        """Count from zero."""
        self.rows: dict[str, list[int]] = {}
        self.figures: dict[str, Figures] = {}                # put here by who asks the store
        self._rows_by_name: dict[bytes, list[int]] = {}      # the same ones

    def note(self, request: Request, status: int, sent_bytes: int) -> None:
        """An answer is out. `request.body.length` is what came of its body."""
        kind = _KINDS.get(request.method)
        parts = request.path.split(b"/", 4)                  # decoded, as the door takes it: "/v1%2FAUTH_a" is one way to write it
        if kind is None or len(parts) < 3 or parts[1] not in (b"v1", b"v1.0"):
            return
        row = self._rows_by_name.get(parts[2])
        if row is None or status >= 400:
            row = self._judge(parts[2], row, status, is_let_in=status in _LET_IN and bool(request.body.length))
            if row is None:
                return
        if kind == READS and request.method == "GET" and (len(parts) < 5 or not parts[4]):
            kind = LISTS
        row[kind] += 1
        row[RECEIVED] += request.body.length or 0
        row[SENT] += sent_bytes

    def _judge(self, raw: bytes, row: list[int] | None, status: int, *, is_let_in: bool) -> list[int] | None:
        """The row that this request counts in; None for none."""
        if status in _NOBODYS or status >= 500:
            return None
        if row is None:
            if (status >= 400 and not is_let_in) or not raw:
                return None
            name = raw.decode("utf-8", "backslashreplace")
            if len(self.rows) >= ACCOUNTS_MAX:
                return self.rows.setdefault(OTHERS, [0] * 6)
            row = self.rows[name] = self._rows_by_name[raw] = [0] * 6
        return row
