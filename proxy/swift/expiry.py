"""X-Delete-At and X-Delete-After."""
from __future__ import annotations

from common.errors import BadRequest
from proxy.http.message import Headers

_SECONDS_MAX = 9_999_999_999             # ten digits, Swift's end of time


def parse_delete_at(headers: Headers, now_us: int) -> int:
    """The second at which the object ends, 0 for never. X-Delete-After wins over X-Delete-At. Raises `BadRequest`."""
    after, at = headers.get("x-delete-after"), headers.get("x-delete-at")
    if after is None and at is None:
        return 0
    now_s = now_us // 1_000_000
    name = "X-Delete-At" if after is None else "X-Delete-After"
    seconds = _whole(at if after is None else after)
    if seconds is None:
        raise BadRequest(reason=f"Non-integer {name}").because("expiry.number", field=name)
    end_s = seconds if after is None else now_s + seconds
    if end_s <= now_s:
        raise BadRequest(reason=f"{name} in past").because("expiry.past", field=name)
    return min(end_s, _SECONDS_MAX)


def _whole(text: str | None) -> int | None:
    """A decimal number, sign allowed; Swift cuts a fraction off X-Delete-At ("1700000000.5")."""
    text = (text or "").strip().partition(".")[0]
    digits = text.removeprefix("-").removeprefix("+")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 18:
        return None
    return int(text)
