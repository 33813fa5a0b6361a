"""What keeps resources from being busy for ever, at the start and every 30 s; leases of the dead are looked for every 2 s.

* A resource in a busy status without a live job (a restored database, a hand in the tables, a workflow that is gone) gets a job, if
  its workflow can make one from the row, else the failed status with its reason.
* Leases of processes that are known to have ended are given up, so that after kill -9 nobody waits for them to run out.
* Jobs that ended long ago are dropped.
"""
from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, select, update

from common.errors import StorageError
from common.log import get_logger
from common.metrics import Registry
from control.db import Database
from control.jobs_model import LIVE, job
from control.jobs_store import JobStore, new_job_id
from control.lease_owner import has_ended
from control.workflow import PREVIOUS, Workflow, describe

EVERY_S, DEAD_S = 30.0, 2.0
_AT_ONCE = 100
_log = get_logger("control.reconcile")


class JobMissing(StorageError):
    """A resource was busy and no job was at it. what, id, status."""

    code = "job_missing"


@dataclass(slots=True, kw_only=True)
class Report:
    """What one pass did: ids."""

    resumed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    released: list[str] = field(default_factory=list)


class Reconciler:
    """For the workflows of one process; any number of processes may run one on the same database."""

    def __init__(self, database: Database, store: JobStore, workflows: Iterable[Workflow], *, poke: Callable[[], None],
                 registry: Registry) -> None:
        self._database, self._store, self._workflows, self._poke = database, store, tuple(workflows), poke
        self._live = registry.gauge("holdfast_jobs_live", "jobs that are not done and have not failed", ("kind",), merge="max")
        self._overdue = registry.gauge("holdfast_jobs_overdue_seconds", "how long the job that waits longest could have run",
                                       ("kind",), merge="max")

    async def follow(self) -> None:
        """Until cancelled."""
        rounds = 0
        while True:
            try:
                if rounds % round(EVERY_S / DEAD_S) == 0:
                    await self.run_once()
                elif any(has_ended(owner) for owner in await self._database.read(self._store.owners)):
                    released = await self._database.run(self._store.release_ended, has_ended)
                    _log.warning("a worker ended, its jobs go on elsewhere", released=len(released))
                    self._poke()
            except Exception as error:               # the edge of a daemon: the next pass tries again
                _log.error("resources cannot be compared with their jobs", exc=error)
            rounds += 1
            await asyncio.sleep(DEAD_S)

    async def run_once(self) -> Report:
        """One pass."""
        report = Report(released=await self._database.run(self._store.release_ended, has_ended))
        for workflow in self._workflows:
            resumed, failed = await self._database.run(self._repair_here, workflow)
            report.resumed += resumed
            report.failed += failed
        await self._database.run(self._store.prune)
        for kind, count, overdue_us in await self._database.read(self._store.counts):
            self._live.labels(kind).set(count)
            self._overdue.labels(kind).set(overdue_us / 1e6)
        if report.released or report.resumed or report.failed:
            _log.warning("resources were busy without a worker", released=len(report.released), resumed=",".join(report.resumed),
                         failed=",".join(report.failed))
            self._poke()
        return report

    def _repair_here(self, connection: Connection, workflow: Workflow) -> tuple[list[str], list[str]]:
        table = workflow.machine.table
        orphans = connection.execute(select(table).outerjoin(job, (job.c.id == table.c.job_id) & (job.c.state == LIVE))
                                     .where(table.c.status == workflow.busy, job.c.id.is_(None)).limit(_AT_ONCE)).all()
        if workflow.resume is not None:
            return [row.id for row in orphans if self._resume(connection, workflow, row)], []
        return [], [row.id for row in orphans if self._fail(connection, workflow, row)]

    def _resume(self, connection: Connection, workflow: Workflow, row: Row[Any]) -> bool:
        assert workflow.resume is not None
        job_id, machine = new_job_id(), workflow.machine
        if not _hold(connection, workflow, row, status=workflow.busy, job_id=job_id):
            return False                             # another process was faster
        why = describe(_why(workflow, row), step=workflow.steps[0].name)
        self._store.add(connection, job_id=job_id, kind=workflow.kind, step=workflow.steps[0].name, resource_type=machine.what,
                        resource_id=row.id, args=workflow.resume(dict(row._mapping)), origin={}, error=why)
        return True

    def _fail(self, connection: Connection, workflow: Workflow, row: Row[Any]) -> bool:
        status = "error" if workflow.failed == PREVIOUS else workflow.failed       # which it was before, only the job knew
        reason = _why(workflow, row).fields["reason"]
        fault = {"code": JobMissing.code, "message": reason, "job": row.job_id, "request_id": None}
        return _hold(connection, workflow, row, status=status, job_id=None, fault=fault)


def _hold(connection: Connection, workflow: Workflow, row: Row[Any], *, status: str, job_id: str | None,
          fault: dict[str, object] | None = None) -> bool:
    table = workflow.machine.table
    same = table.c.job_id.is_(None) if row.job_id is None else table.c.job_id == row.job_id
    return connection.execute(update(table).where(table.c.id == row.id, table.c.status == workflow.busy, same)
                              .values(status=status, job_id=job_id, fault=fault)).rowcount > 0


def _why(workflow: Workflow, row: Row[Any]) -> JobMissing:
    what = workflow.machine.what
    return JobMissing(what=what, id=row.id, status=row.status, reason=(
        f"{what} {row.id} was {row.status}, and no job was at it")).because(
        "job.missing", what=what, id=row.id, status=row.status, job=row.job_id or "none")
