"""Transactions of the job engine: each function takes the connection of one, and none has an effect beside it.

Whoever runs a job writes only through its fence: `UPDATE job ... WHERE id AND attempt AND state = live` comes first in every such
transaction. A worker that was taken for dead finds no row and stops; on PostgreSQL that row is locked until the commit, so nobody
can take the job over in between.
"""
from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, delete, func, insert, or_, select, text, update
from sqlalchemy.sql.expression import cast

from common.clock import Clock
from common.errors import StorageError
from control.db import after_commit
from control.jobs_model import DONE, FAILED, LEFT, LIVE, UNDONE, Job, job, job_step

CHANNEL = "holdfast_jobs"                        # of NOTIFY
LIST_MAX = 1_000
_DAY_US = 86_400_000_000
DONE_KEPT_US, FAILED_KEPT_US = 7 * _DAY_US, 90 * _DAY_US
_PRUNED_AT_ONCE = 500


class LeaseLost(StorageError):
    """Another worker has taken this job over: what this one still does is not written. job, attempt."""

    code = "lease_lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a step. state: done, undone, left."""

    name: str
    number: int
    state: str
    result: Mapping[str, Any]


class JobStore:
    """The rows of one database."""

    def __init__(self, clock: Clock, *, has_own_time: bool = False) -> None:
        """has_own_time: leases are measured by the database's clock, so that the clocks of many machines need not agree."""
        self._clock, self._has_own_time = clock, has_own_time
        self.on_added: Callable[[], None] = lambda: None

    @property
    def _now(self) -> ColumnElement[int]:
        if self._has_own_time:
            return cast(func.extract("epoch", func.statement_timestamp()) * 1_000_000, BigInteger)
        return cast(self._clock.now_us(), BigInteger)

    # by requests

    def add(self, connection: Connection, *, kind: str, step: str, resource_type: str, resource_id: str, job_id: str | None = None,
            args: Mapping[str, Any] | None = None, project_id: str | None = None, origin: Mapping[str, Any] | None = None,
            was: str | None = None, target: str = "", error: Mapping[str, Any] | None = None) -> str:
        """A new job, in the transaction that changes its resource; its id. target: the host that has to run it, "" for any."""
        job_id, origin = job_id or new_job_id(), dict(origin or {})
        now = self._now
        connection.execute(insert(job).values(
            id=job_id, kind=kind, resource_type=resource_type, resource_id=resource_id, project_id=project_id, target=target,
            request_id=origin.get("request_id"), origin=origin, args=dict(args or {}), was=was, state=LIVE, is_undoing=False,
            step=step, attempt=0, tries=0, run_after_us=now, lease_owner=None, lease_until_us=0, error=error, created_us=now,
            changed_us=now, ended_us=None))
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_notify('{CHANNEL}', '')"))
        after_commit(connection, self.on_added)
        return job_id

    # by workers

    def claim(self, connection: Connection, *, owner: str, kinds: Collection[str], targets: Collection[str],
              lease_us: int) -> Job | None:
        """The job that has waited longest, leased to `owner`; None if none is due."""
        now = self._now
        due = (select(job.c.id).where(job.c.state == LIVE, job.c.kind.in_(kinds), job.c.target.in_(("", *targets)),
                                      job.c.run_after_us <= now, job.c.lease_until_us <= now)
               .order_by(job.c.run_after_us, job.c.id).limit(1).with_for_update(skip_locked=True).scalar_subquery())
        row = connection.execute(update(job).where(job.c.id == due).values(
            attempt=job.c.attempt + 1, tries=job.c.tries + 1, lease_owner=owner, lease_until_us=now + lease_us, changed_us=now)
            .returning(*job.c)).first()
        return Job.of(row) if row is not None else None

    def next_due_in_us(self, connection: Connection, *, kinds: Collection[str], targets: Collection[str]) -> int | None:
        """How long until a job is due, 0 or less if one is; None if nothing waits."""
        due = func.max(job.c.run_after_us, job.c.lease_until_us) if connection.dialect.name == "sqlite" else \
            func.greatest(job.c.run_after_us, job.c.lease_until_us)
        found = connection.execute(select(func.min(due) - self._now).where(
            job.c.state == LIVE, job.c.kind.in_(kinds), job.c.target.in_(("", *targets)))).scalar_one()
        return None if found is None else int(found)

    def fence(self, connection: Connection, held: Job, **values: object) -> None:
        """First statement of every transaction of whoever runs a job. Raises `LeaseLost`."""
        done = connection.execute(update(job).where(job.c.id == held.id, job.c.attempt == held.attempt, job.c.state == LIVE)
                                  .values(changed_us=self._now, **values))
        if not done.rowcount:
            raise LeaseLost(job=held.id, attempt=held.attempt)

    def renew(self, connection: Connection, held: Sequence[Job], *, lease_us: int) -> set[str]:
        """Ids of the jobs that are still held; their leases last `lease_us` from now."""
        until = self._now + lease_us
        return {one.id for one in held if connection.execute(
            update(job).where(job.c.id == one.id, job.c.attempt == one.attempt, job.c.state == LIVE)
            .values(lease_until_us=until)).rowcount}

    def release(self, connection: Connection, held: Job, *, delay_us: int = 0, tries: int | None = None,
                error: Mapping[str, Any] | None = None) -> None:
        """Whoever is free may take it, after a while. error: why it could not go on; None keeps the one it has."""
        values: dict[str, object] = {"error": error} if error is not None else {}
        self.fence(connection, held, lease_owner=None, lease_until_us=0, run_after_us=self._now + delay_us,
                   tries=held.tries if tries is None else tries, **values)

    def record(self, connection: Connection, held: Job, outcome: Outcome, *, step: str, lease_us: int,
               error: Mapping[str, Any] | None = None) -> None:
        """What became of a step; `step` is the next one. error: why the job goes back, None if it does not. Raises `LeaseLost`."""
        now = self._now
        self.fence(connection, held, step=step, tries=1, lease_until_us=now + lease_us, error=error)
        values = {"number": outcome.number, "state": outcome.state, "result": dict(outcome.result), "attempt": held.attempt,
                  "owner": held.lease_owner, "ended_us": now}
        changed = connection.execute(update(job_step).where(job_step.c.job_id == held.id, job_step.c.name == outcome.name)
                                     .values(**values))
        if not changed.rowcount:
            connection.execute(insert(job_step).values(job_id=held.id, name=outcome.name, **values))

    def begin_undo(self, connection: Connection, held: Job, *, step: str, error: Mapping[str, Any], lease_us: int) -> None:
        """From now on the job goes backwards, from `step`. Raises `LeaseLost`."""
        self.fence(connection, held, step=step, tries=1, is_undoing=True, error=error, lease_until_us=self._now + lease_us)

    def end(self, connection: Connection, held: Job, *, state: str, error: Mapping[str, Any] | None) -> None:
        """Done or failed, for ever. Raises `LeaseLost`."""
        self.fence(connection, held, state=state, error=error, lease_owner=None, lease_until_us=0, ended_us=self._now)

    # by whoever looks after things

    def owners(self, connection: Connection) -> list[str]:
        """Whose leases have not run out."""
        rows = select(job.c.lease_owner).where(job.c.state == LIVE, job.c.lease_until_us > self._now).distinct()
        return [owner for owner in connection.execute(rows).scalars() if owner is not None]

    def release_ended(self, connection: Connection, has_ended: Callable[[str], bool]) -> list[str]:
        """Jobs of processes that are known to have ended are due at once; their ids."""
        gone = [owner for owner in self.owners(connection) if has_ended(owner)]
        if not gone:
            return []
        return list(connection.execute(update(job).where(job.c.state == LIVE, job.c.lease_owner.in_(gone))
                                       .values(lease_until_us=0).returning(job.c.id)).scalars())

    def abandon(self, connection: Connection, job_id: str, error: Mapping[str, Any]) -> bool:
        """An administrator sets the resource's state by hand: its job ends, and whoever runs it is fenced off."""
        return connection.execute(update(job).where(job.c.id == job_id, job.c.state == LIVE).values(
            state=FAILED, attempt=job.c.attempt + 1, error=error, lease_owner=None, lease_until_us=0, ended_us=self._now,
            changed_us=self._now)).rowcount > 0

    def prune(self, connection: Connection) -> int:
        """Drop some of the jobs that ended long ago; how many."""
        now = self._now
        old = (select(job.c.id).where(or_((job.c.state == DONE) & (job.c.ended_us < now - DONE_KEPT_US),
                                          (job.c.state == FAILED) & (job.c.ended_us < now - FAILED_KEPT_US)))
               .limit(_PRUNED_AT_ONCE))
        ids = list(connection.execute(old).scalars())
        if ids:
            connection.execute(delete(job_step).where(job_step.c.job_id.in_(ids)))
            connection.execute(delete(job).where(job.c.id.in_(ids)))
        return len(ids)

    # by whoever asks

    def find(self, connection: Connection, job_id: str) -> Job | None:
        """By id."""
        row = connection.execute(select(job).where(job.c.id == job_id)).first()
        return Job.of(row) if row is not None else None

    def results(self, connection: Connection, job_id: str) -> dict[str, Mapping[str, Any]]:
        """What steps that are done answered, by name."""
        rows = connection.execute(select(job_step).where(job_step.c.job_id == job_id, job_step.c.state == DONE)
                                  .order_by(job_step.c.number))
        return {row.name: row.result for row in rows}

    def steps(self, connection: Connection, job_id: str) -> list[dict[str, Any]]:
        """What became of each step that ended: name, number, state, result, attempt, owner, ended_us."""
        rows = connection.execute(select(job_step).where(job_step.c.job_id == job_id).order_by(job_step.c.number))
        return [{name: value for name, value in row._mapping.items() if name != "job_id"} for row in rows]

    def of_request(self, connection: Connection, request_id: str) -> list[Job]:
        """The jobs that a request began, oldest first."""
        rows = connection.execute(select(job).where(job.c.request_id == request_id).order_by(job.c.created_us).limit(LIST_MAX))
        return [Job.of(row) for row in rows]

    def newest(self, connection: Connection, *, state: str | None = None, resource: str | None = None,
               limit: int = 100) -> list[Job]:
        """For a listing, newest first. state: None for all. resource: an id."""
        query = select(job).order_by(job.c.created_us.desc(), job.c.id).limit(min(limit, LIST_MAX))
        query = query.where(job.c.state == state) if state is not None else query
        query = query.where(job.c.resource_id == resource) if resource is not None else query
        return [Job.of(row) for row in connection.execute(query)]

    def counts(self, connection: Connection) -> list[tuple[str, int, int]]:
        """(kind, live jobs, microseconds that the one that has waited longest is overdue, 0 if none is)."""
        now = self._now
        waits = now - job.c.run_after_us
        rows = connection.execute(select(job.c.kind, func.count(), func.max(waits)).where(job.c.state == LIVE).group_by(job.c.kind))
        return [(kind, count, max(int(overdue), 0)) for kind, count, overdue in rows]


def new_job_id() -> str:
    """32 hexadecimal digits."""
    return uuid.uuid4().hex


__all__ = ["DONE", "FAILED", "LEFT", "LIVE", "UNDONE", "Job", "JobStore", "LeaseLost", "Outcome", "new_job_id"]
