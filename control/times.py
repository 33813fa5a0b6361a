"""Times of the API: microseconds inside, ISO 8601 outside."""
from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from common.errors import BadRequest

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FORM = re.compile(r"(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2}:\d{2})(?:\.(\d{1,6})\d*)?(Z|[+-]\d{2}:?\d{2})?", re.ASCII)


def format_time(us: int) -> str:
    """"2026-01-01T00:00:00.000000Z"."""
    return (_EPOCH + timedelta(microseconds=us)).strftime("%Y-%m-%dT%H:%M:%S.%f") + "Z"


def format_optional(us: int | None) -> str | None:
    """As `format_time`; None stays None."""
    return None if us is None else format_time(us)


def format_naive(us: int) -> str:
    """"2026-01-01T00:00:00.000000": without its zone, which is UTC, as some clients compare it."""
    return format_time(us)[:-1]


def format_second(us: int) -> str:
    """"2026-01-01T00:00:00Z"."""
    return (_EPOCH + timedelta(microseconds=us)).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: object, name: str) -> int:
    """Microseconds since 1970; without a zone it is UTC. Raises `BadRequest` that names the field."""
    found = _FORM.fullmatch(text.strip()) if isinstance(text, str) and len(text) < 64 else None
    try:
        if found is None:
            raise ValueError
        day, time, fraction, zone = found.groups()
        value = datetime.fromisoformat(f"{day}T{time}" + ("+00:00" if zone in (None, "Z") else str(zone)))
        us = (value - _EPOCH) // timedelta(microseconds=1) + int((fraction or "0").ljust(6, "0"))
        _EPOCH + timedelta(microseconds=us)              # what cannot be shown in UTC is no time of ours
        return us
    except (ValueError, OverflowError) as error:
        raise BadRequest(reason=f"{name} is not a time such as 2026-01-31T12:00:00Z") from error
