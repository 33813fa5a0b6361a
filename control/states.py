"""The states of a resource as data, changed by compare-and-swap: `UPDATE ... WHERE id AND status = what it was`.

A resource that a job holds is in a busy status and carries that job's id, so "busy" always says who is at it. Only the holder
moves it on.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import JSON, Column, Connection, String, Table, select, update

from common.errors import NotFound, StorageError

_TRIES = 5


class WrongState(StorageError):
    """The status of a resource does not allow what was asked for. what, id, status, allowed, job: who holds it, or ""."""

    code = "wrong_state"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The states of one kind of resource. table: has an `id` and the columns of `state_columns`.

    moves: from which states each state may be reached by a request; those that only a job reaches need no row.
    """

    what: str                                # "volume": for sentences
    table: Table
    moves: Mapping[str, frozenset[str]]


def state_columns() -> tuple[Column[Any], ...]:
    """status; job_id: of the job that holds it; fault: why it is in an error state, for its user."""
    return (Column("status", String(64), nullable=False), Column("job_id", String(32), index=True),
            Column("fault", JSON(none_as_null=True)))


def take(connection: Connection, machine: Machine, row_id: str, *, to: str, job_id: str | None,
         values: Mapping[str, object] | None = None) -> str:
    """Move a resource to `to`, held by a job; the status it had. Raises `NotFound`, `WrongState`."""
    table, allowed = machine.table, machine.moves[to]
    for left in range(_TRIES - 1, -1, -1):
        row = connection.execute(select(table.c.status, table.c.job_id).where(table.c.id == row_id)).first()
        if row is None:
            raise NotFound(what=machine.what, name=row_id[:255])
        if row.status not in allowed or not left:
            raise wrong_state(machine, row_id, row.status, row.job_id, allowed)
        moved = connection.execute(update(table).where(table.c.id == row_id, table.c.status == row.status)
                                   .values(status=to, job_id=job_id, fault=None, **(values or {})))
        if moved.rowcount:
            return str(row.status)
    raise AssertionError("unreachable")


def settle(connection: Connection, machine: Machine, row_id: str, *, busy: str, to: str, job_id: str,
           fault: Mapping[str, object] | None = None) -> bool:
    """The job that holds a resource lets go of it; False if it does not hold it (any more)."""
    table = machine.table
    moved = connection.execute(update(table).where(table.c.id == row_id, table.c.status == busy, table.c.job_id == job_id)
                               .values(status=to, job_id=None, fault=fault))
    return moved.rowcount > 0


def wrong_state(machine: Machine, row_id: str, status: str, job_id: str | None, allowed: frozenset[str]) -> WrongState:
    """To be raised."""
    held = f", held by job {job_id}" if job_id else ""
    wanted = " or ".join(sorted(allowed)) or "nothing that it could be in"
    return WrongState(what=machine.what, id=row_id, status=status, allowed=sorted(allowed), job=job_id or "", reason=(
        f"{machine.what} {row_id} is {status}{held}; this operation wants it to be {wanted}.")).because(
        "state.wrong", what=machine.what, id=row_id, status=status, allowed=", ".join(sorted(allowed)), job=job_id or "none")
