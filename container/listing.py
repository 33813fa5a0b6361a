"""Which names a page shows: bounds, roll-up by a delimiter of any length, both directions. Pure; rows come from `seek`.

A rolled-up prefix costs one seek, not a scan of what is below it. Order: Unicode code points, which is the order of
UTF-8 bytes. Rules of Swift: bounds are exclusive; a rolled-up name equal to the marker is not repeated; `path` lists
what lies directly below it and rolls nothing up.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from container.wire import PageRequest

T = TypeVar("T", bound=tuple[Any, ...])
_LAST = 0x10FFFF


@dataclass(frozen=True, slots=True)
class Bounds:
    """A range of names. low: included only if `has_low`; high: never included; None: none."""

    low: str
    has_low: bool
    high: str | None

    def holds(self, name: str) -> bool:
        return (name > self.low or (self.has_low and name == self.low)) and (self.high is None or name < self.high)


Seek = Callable[[Bounds, int], list[T]]          # at most so many rows, each begins with its name, in the page's direction
SEEK_ROLLED = 32                         # rows looked at before the next seek, where names may roll up


def page_bounds(page: PageRequest) -> Bounds:
    """The names a page may cover."""
    after, before = (page.end_marker, page.marker) if page.reverse else (page.marker, page.end_marker)
    low, has_low = page.prefix, True
    if after and after >= low:
        low, has_low = after, False
    high = successor(page.prefix)
    if before and (high is None or before < high):
        high = before
    return Bounds(low, has_low, high)


def list_page(seek: Seek[T], page: PageRequest) -> tuple[list[T | str], str | None]:
    """The entries (a row, or a rolled-up name as str) and the name they end at; None: the page reaches its bound."""
    entries: list[T | str] = []
    bounds: Bounds | None = page_bounds(page)
    last: str | None = None
    while bounds is not None and len(entries) < page.limit:
        if bounds.high is not None and bounds.low >= bounds.high:
            break
        if not page.delimiter:           # nothing rolls up: the rows are the page
            rows = seek(bounds, page.limit)
            return list(rows), (rows[-1][0] if len(rows) >= page.limit else None)
        found = None
        for row in seek(bounds, min(page.limit - len(entries), SEEK_ROLLED)):
            found = name = row[0]
            rolled_up = roll_up(name, page)
            if rolled_up is None:
                if not (page.is_flat and name == page.prefix):
                    entries.append(row)
                    last = name
                continue
            if not page.is_flat and rolled_up != page.marker:
                entries.append(rolled_up)
                last = rolled_up
            bounds = _beyond(bounds, rolled_up, reverse=page.reverse, is_flat=page.is_flat)
            break
        else:
            if found is None or len(entries) >= page.limit:
                break
            bounds = _after(bounds, found, reverse=page.reverse)
    return entries, (last if len(entries) >= page.limit else None)


def roll_up(name: str, page: PageRequest) -> str | None:
    """The prefix that `name` disappears in, up to and with the delimiter; None: it is listed itself."""
    if not page.delimiter:
        return None
    at = name.find(page.delimiter, len(page.prefix))
    if at < 0:
        return None
    end = at + len(page.delimiter)
    return None if page.is_flat and end == len(name) else name[:end]


def successor(prefix: str) -> str | None:
    """The first name after all names that begin with `prefix`; None: there is none."""
    while prefix and ord(prefix[-1]) == _LAST:
        prefix = prefix[:-1]
    if not prefix:
        return None
    after = ord(prefix[-1]) + 1
    return prefix[:-1] + chr(0xE000 if 0xD800 <= after <= 0xDFFF else after)


def _beyond(bounds: Bounds, rolled_up: str, *, reverse: bool, is_flat: bool) -> Bounds | None:
    """The bounds once everything below a rolled-up name is skipped."""
    if reverse:                          # flat pages list the folder's own marker, which sorts right below its content
        return Bounds(bounds.low, bounds.has_low, rolled_up + "\0" if is_flat else rolled_up)
    low = successor(rolled_up)
    return Bounds(low, True, bounds.high) if low is not None else None


def _after(bounds: Bounds, name: str, *, reverse: bool) -> Bounds:
    return Bounds(bounds.low, bounds.has_low, name) if reverse else Bounds(name, False, bounds.high)
