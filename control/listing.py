"""Lists: filters, sorting and pages, declared per resource as data and applied to a SELECT.

A page is found by key, never by offset: `marker` is the id of the last row that the client has, so that rows which come and
go do not shift the others.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, func, or_, select

from common.errors import BadRequest

LIMIT_MAX = 10_000
Query = Sequence[tuple[str, str]]
_TRUE, _FALSE = frozenset({"true", "1", "yes", "on", "t", "y"}), frozenset({"false", "0", "no", "off", "f", "n"})


def parse_boolean(text: str, name: str) -> bool:
    """True, true, 1, yes ... as clients write them. Raises `BadRequest`."""
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise BadRequest(reason=f"Invalid value for {name}: it must be true or false.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a list of one resource may be filtered and sorted by. booleans: among `filters`, those that are true or false."""

    key: ColumnElement[Any]
    filters: Mapping[str, ColumnElement[Any]]
    booleans: frozenset[str] = frozenset()
    sorts: Mapping[str, ColumnElement[Any]] = field(default_factory=dict)
    order: tuple[str, bool] | None = None          # the sort key that is used unless asked for another; True: descending

    def conditions(self, query: Query) -> list[ColumnElement[bool]]:
        """Of every parameter that names a filter; others are not ours to judge. Raises `BadRequest`.

        NAME=x, NAME=in:a,b, and NAME__contains, __startswith, __endswith, with an i in front for any case.
        """
        out: list[ColumnElement[bool]] = []
        for name, value in query:
            base, _, operator = name.partition("__")
            column = self.filters.get(base)
            if column is None:
                continue
            if base in self.booleans:
                out.append(column.is_(parse_boolean(value, base)))
            elif operator:
                out.append(_inexact(column, operator, value))
            elif value.startswith("in:"):
                out.append(column.in_([part.strip().strip('"') for part in value[3:].split(",")]))
            else:
                out.append(column == value)
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """limit: None for all."""

    limit: int | None = None
    marker: str | None = None
    sort: str | None = None
    is_descending: bool = False


def parse_page(query: Query, *, limit_max: int = LIMIT_MAX) -> Page:
    """limit, marker, sort_key, sort_dir, or sort=key:dir. Raises `BadRequest`."""
    given = dict(query)
    limit: int | None = None
    if "limit" in given:
        text = given["limit"]
        if not text.isascii() or not text.isdigit() or len(text) > 12:
            raise BadRequest(reason="limit must be a whole number that is not negative.")
        limit = min(int(text), limit_max)
    key, direction = given.get("sort_key"), given.get("sort_dir", "asc")
    if "sort" in given:
        key, _, direction = given["sort"].partition(",")[0].partition(":")
    if direction not in ("", "asc", "desc"):
        raise BadRequest(reason="a sort direction is asc or desc.")
    return Page(limit=limit, marker=given.get("marker") or None, sort=key or None, is_descending=direction == "desc")


def list_rows(connection: Connection, statement: Select[Any], listing: Listing, query: Query, *,
              keep: Callable[[Row[Any]], bool] | None = None) -> tuple[list[Row[Any]], str | None]:
    """The rows of a page, and the marker of the next one if there is more. Raises `BadRequest`.

    keep: further rows are asked for until the page is full of those that it keeps.
    """
    page = parse_page(query)
    order, is_descending = _order(listing, page)
    statement = statement.where(*listing.conditions(query))
    if page.marker is not None:
        statement = statement.where(_beyond(connection, listing, order, page.marker, is_descending=is_descending))
    directed = [column.desc() if is_descending else column.asc() for column in (*([] if order is None else [order]), listing.key)]
    statement = statement.order_by(*directed)
    if keep is None and page.limit is not None:
        statement = statement.limit(page.limit + 1)
    rows = [row for row in connection.execute(statement) if keep is None or keep(row)]
    if page.limit is None or len(rows) <= page.limit:
        return rows, None
    rows = rows[:page.limit]
    return rows, str(getattr(rows[-1], listing.key.key or "id")) if rows else None


def _order(listing: Listing, page: Page) -> tuple[ColumnElement[Any] | None, bool]:
    if page.sort is not None:
        if page.sort not in listing.sorts:
            raise BadRequest(reason=f"This list cannot be sorted by {page.sort[:64]!r}.")
        return listing.sorts[page.sort], page.is_descending
    if listing.order is not None:
        return listing.sorts[listing.order[0]], listing.order[1]
    return None, page.is_descending


def _beyond(connection: Connection, listing: Listing, order: ColumnElement[Any] | None, marker: str, *,
            is_descending: bool) -> ColumnElement[bool]:
    """After the row with this id, in the order of the list."""
    key = listing.key
    after = key < marker if is_descending else key > marker
    found = connection.execute(select(key if order is None else order).where(key == marker)).first()
    if found is None:
        raise BadRequest(reason=f"marker {marker[:64]!r} not found")
    if order is None:
        return after
    further = order < found[0] if is_descending else order > found[0]
    return or_(further, and_(order == found[0], after))


def _inexact(column: ColumnElement[Any], operator: str, value: str) -> ColumnElement[bool]:
    if operator.startswith("i") and operator[1:] in ("contains", "startswith", "endswith", "exact"):
        return _inexact(func.lower(column), operator[1:], value.lower())
    match operator:
        case "contains":
            return column.contains(value, autoescape=True)
        case "startswith":
            return column.startswith(value, autoescape=True)
        case "endswith":
            return column.endswith(value, autoescape=True)
        case "exact":
            return column == value
    raise BadRequest(reason=f"There is no filter __{operator[:32]}.")


def next_query(query: Query, marker: str) -> str:
    """The query of the next page."""
    return urlencode([*((name, value) for name, value in query if name != "marker"), ("marker", marker)])


def link_array(url: str, query: Query, marker: str | None) -> list[dict[str, str]]:
    """`servers_links`, `volumes_links`: [] or one link to the next page."""
    return [] if marker is None else [{"rel": "next", "href": f"{url}?{next_query(query, marker)}"}]


def link_map(url: str, query: Query, marker: str | None) -> dict[str, str | None]:
    """`links` of identity: next, self, previous."""
    me = f"{url}?{urlencode(list(query))}" if query else url
    return {"next": None if marker is None else f"{url}?{next_query(query, marker)}", "self": me, "previous": None}


def only(query: Iterable[tuple[str, str]], names: Iterable[str]) -> list[tuple[str, str]]:
    """The parameters with these names."""
    wanted = frozenset(names)
    return [(name, value) for name, value in query if name in wanted]
