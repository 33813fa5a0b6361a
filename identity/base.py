"""What the use-cases of identity have in common: rows by id, new ids, free attributes."""
from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from sqlalchemy import ColumnElement, Connection, Row, Select, Table, delete, insert, select, update

from common.errors import BadRequest, Forbidden, NotFound
from control.app import Call
from control.errors import Duplicate

_EXTRA_MAX = 64
_IDS_MAX = 5_000


def new_id() -> str:
    """32 hexadecimal digits."""
    return uuid.uuid4().hex


def find_row(connection: Connection, table: Table, row_id: str | None) -> Row[Any] | None:
    """By its id."""
    return None if row_id is None else connection.execute(select(table).where(table.c.id == row_id)).first()


def get_row(connection: Connection, table: Table, row_id: str, *, what: str) -> Row[Any]:
    """By its id. Raises `NotFound`."""
    row = find_row(connection, table, row_id)
    if row is None:
        raise missing(what, row_id)
    return row


def missing(what: str, row_id: str) -> NotFound:
    """To be raised."""
    return NotFound(what=what, name=row_id[:255])


def get_allowed(connection: Connection, call: Call, table: Table, row_id: str, *, what: str, target: Any) -> Row[Any]:
    """A row that the caller may do this to. target: from a row to the target of the policy.

    Who may not is told so whether the row is there or not, so that nobody learns which ids exist.
    """
    row = find_row(connection, table, row_id)
    call.enforce(target(row) if row is not None else None)
    if row is None:
        raise missing(what, row_id)
    return row


def add_row(connection: Connection, table: Table, *, what: str, **values: object) -> Row[Any]:
    """Insert and read back. Raises `Duplicate` with a sentence that names the row."""
    try:
        with connection.begin_nested():
            connection.execute(insert(table).values(**values))
    except Exception as error:
        translated = _translated(error)
        if isinstance(translated, Duplicate):
            raise Duplicate(table=table.name, reason=duplicate_sentence(what, values)) from error
        raise
    return get_row(connection, table, str(values["id"]), what=what)


def duplicate_sentence(what: str, values: Mapping[str, object]) -> str:
    """For a 409."""
    name = values.get("name", values.get("id", ""))
    return f"Conflict occurred attempting to store {what} - Duplicate entry found with name {str(name)[:255]}."


def _translated(error: Exception) -> object:
    from sqlalchemy.exc import IntegrityError

    from control.db import translate_integrity
    return translate_integrity(error) if isinstance(error, IntegrityError) else None


def change_row(connection: Connection, table: Table, row_id: str, values: Mapping[str, object], *, what: str) -> Row[Any]:
    """Update and read back. Raises `NotFound`, `Duplicate`."""
    if values:
        try:
            with connection.begin_nested():
                connection.execute(update(table).where(table.c.id == row_id).values(**values))
        except Exception as error:
            if isinstance(_translated(error), Duplicate):
                raise Duplicate(table=table.name, reason=duplicate_sentence(what, values)) from error
            raise
    return get_row(connection, table, row_id, what=what)


def drop_row(connection: Connection, table: Table, row_id: str, *, what: str) -> None:
    """Delete one row. Raises `NotFound`."""
    if not connection.execute(delete(table).where(table.c.id == row_id)).rowcount:
        raise missing(what, row_id)


def free_attributes(given: Mapping[str, Any], known: Iterable[str], old: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a client sent beyond the known attributes is kept and given back; None removes. Raises `BadRequest` for too many."""
    names = frozenset(known) | {"links", "id"}
    out = dict(old or {})
    for name, value in given.items():
        if name in names:
            continue
        out[name] = value
    if len(out) > _EXTRA_MAX:
        raise BadRequest(reason=f"There may be at most {_EXTRA_MAX} attributes beyond the known ones.")
    return out


def same_or_absent(given: Mapping[str, Any], name: str, have: object) -> None:
    """An attribute that cannot be changed may be sent as it is. Raises `BadRequest`."""
    if name in given and given[name] != have:
        raise BadRequest(reason=f"{name} cannot be changed.")


def merged_options(old: Mapping[str, Any], new: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options of a user, project or role after a change; None takes one away."""
    return {name: value for name, value in {**old, **(new or {})}.items() if value is not None}


def refuse_immutable(what: str, options: Mapping[str, Any], given: Mapping[str, Any] | None) -> None:
    """Of an immutable resource only that option can be changed, alone: so nothing is changed by a slip. Raises `Forbidden`.

    given: the fields of the change; None: it is deleted, or changed some other way.
    """
    if not options.get("immutable"):
        return
    new = given.get("options") if given is not None and given.keys() == {"options"} else None
    if not isinstance(new, Mapping) or new.keys() != {"immutable"}:
        raise Forbidden(reason=f"This {what} is immutable: set its option immutable to false first, and nothing else with it.")


def rows_among(connection: Connection, statement: Select[Any], column: ColumnElement[Any], ids: Iterable[str]) -> list[Row[Any]]:
    """The rows of a statement whose column is one of many ids, in their order: databases bound how many one IN may have."""
    ordered = sorted(ids)
    return [row for begin in range(0, len(ordered), _IDS_MAX)
            for row in connection.execute(statement.where(column.in_(ordered[begin:begin + _IDS_MAX])).order_by(column))]


def self_link(call: Call, *parts: str) -> dict[str, str]:
    """`links` of a resource."""
    return {"self": link_to(call, *parts)}


def link_to(call: Call, *parts: str) -> str:
    """A URL below /v3. Clients chose some of the ids that are parts of paths: a slash or a question mark in one is escaped."""
    return "/".join((f"{call.base}/v3", *(quote(part, safe="") for part in parts)))
