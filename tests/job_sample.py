"""A small service for tests of the job engine: boxes, which are rows and files, made in five steps and deleted in two.

Each step calls `point` before, in the middle of and after its effect; `PointDatabase` does so around transactions. What happens at
a point (a kill, a stop) is the test's business. `faults` names planted mistakes that the checks have to find.
"""
from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, delete, insert, select

from common.clock import SystemClock
from common.errors import BadRequest
from control.db import Database
from control.jobs import JobEngine, Pace
from control.jobs_model import Job, upgrade_jobs
from control.jobs_store import JobStore
from control.quota import Quotas
from control.states import Machine, state_columns
from control.workflow import Quota, Run, Step, Workflow, origin_of, submit

metadata = MetaData()
box = Table("box", metadata, Column("id", String(64), primary_key=True), Column("project_id", String(64), nullable=False),
            Column("size", Integer, nullable=False), *state_columns())
event = Table("event", metadata, Column("job_id", String(64), primary_key=True), Column("box_id", String(64), nullable=False))
QUOTAS = Quotas(metadata, {"boxes": 10})
MACHINE = Machine(what="box", table=box, moves={"creating": frozenset(), "extending": frozenset({"available"}),
                                                "deleting": frozenset({"available", "error", "error_deleting"})})
BODY = "0123456789" * 20
PACE = Pace(slots=2, lease_s=30.0, poll_s=0.05, delay_s=0.01)
Point = Callable[[str], None]


def ignore(_: str) -> None:
    """At no point does anything happen."""


class Boxes:
    """The workflows over one directory. fails: the step that refuses for good. faults: mistakes in what follows."""

    def __init__(self, root: Path, *, point: Point = ignore, fails: str = "", faults: frozenset[str] = frozenset()) -> None:
        self.root, self.point, self.fails, self.faults = root, point, fails, faults
        steps = (Step(name="reserve", do=self.reserve, undo=self.cancel), Step(name="allocate", do=self.allocate, undo=self.free),
                 Step(name="fill", do=self.fill), Step(name="publish", do=self.publish, undo=self.hide),
                 Step(name="announce", do=self.announce, undo=self.forget))
        self.create = Workflow(kind="box.create", machine=MACHINE, busy="creating", done="available", steps=steps,
                               resume=lambda row: {"size": row["size"]})
        self.erase = Workflow(kind="box.delete", machine=MACHINE, busy="deleting", done="deleted", failed="error_deleting",
                              is_desired_state=True, on_done=self.drop, resume=lambda row: {},
                              steps=(Step(name="withdraw", do=self.withdraw), Step(name="erase", do=self.erase_files)))
        self.extend = Workflow(kind="box.extend", machine=MACHINE, busy="extending", failed="available",
                               steps=(Step(name="extend", do=self.grow),))
        self.workflows = (self.create, self.erase, self.extend)

    # create

    async def reserve(self, run: Run) -> Mapping[str, Any]:
        line = f"{run.job.resource_id}\n"
        self.point("reserve.before")
        ledger = self.root / "ledger"
        have = ledger.read_text() if ledger.exists() else ""
        if line not in have or "not idempotent" in self.faults:
            self.point("reserve.inside")
            with ledger.open("a") as file:
                file.write(line)
        self.point("reserve.after")
        return {"line": line.strip()}

    async def cancel(self, run: Run) -> None:
        self.point("cancel.before")
        ledger = self.root / "ledger"
        if ledger.exists():
            left = [line for line in ledger.read_text().splitlines() if line != run.job.resource_id]
            (self.root / "ledger.new").write_text("".join(f"{line}\n" for line in left))
            self.point("cancel.inside")
            (self.root / "ledger.new").rename(ledger)
        self.point("cancel.after")

    async def allocate(self, run: Run) -> Mapping[str, Any]:
        self.point("allocate.before")
        if not self._place(run).exists():
            self._temporary(run).mkdir(exist_ok=True)
        self.point("allocate.after")
        return {"line": run.results["reserve"]["line"]}

    async def free(self, run: Run) -> None:
        self.point("free.before")
        shutil.rmtree(self._temporary(run), ignore_errors=True)
        self.point("free.after")

    async def fill(self, run: Run) -> None:
        self.point("fill.before")
        place = self._place(run) if self._place(run).exists() else self._temporary(run)
        with (place / "body").open("w") as file:
            file.write(BODY[:run.job.args["size"] // 2])
            file.flush()
            self.point("fill.inside")
            file.write(BODY[run.job.args["size"] // 2:run.job.args["size"]])
        self.point("fill.after")

    async def publish(self, run: Run) -> None:
        self.point("publish.before")
        await run.check()
        if not self._place(run).exists():
            self._temporary(run).rename(self._place(run))
        self.point("publish.after")

    async def hide(self, run: Run) -> None:
        self.point("hide.before")
        if "forgets" not in self.faults:
            shutil.rmtree(self._place(run), ignore_errors=True)
        self.point("hide.after")

    async def announce(self, run: Run) -> None:
        await run.write(self.announce_here, run.job)
        self.point("announce.after")
        if self.fails == "announce":
            raise BadRequest(reason="nobody wants this box")

    def announce_here(self, connection: Connection, job: Job) -> None:
        if connection.execute(select(event).where(event.c.job_id == job.id)).first() is None:
            connection.execute(insert(event).values(job_id=job.id, box_id=job.resource_id))

    async def forget(self, run: Run) -> None:
        await run.write(lambda connection: connection.execute(delete(event).where(event.c.job_id == run.job.id)))

    # delete

    async def withdraw(self, run: Run) -> None:
        await self.cancel(run)
        await run.write(lambda connection: connection.execute(delete(event).where(event.c.box_id == run.job.resource_id)))

    async def erase_files(self, run: Run) -> None:
        self.point("erase.before")
        shutil.rmtree(self._temporary(run), ignore_errors=True)
        body = self._place(run) / "body"
        body.unlink(missing_ok=True)
        self.point("erase.inside")
        shutil.rmtree(self._place(run), ignore_errors=True)
        self.point("erase.after")

    def drop(self, connection: Connection, job: Job, results: Mapping[str, Any]) -> None:
        connection.execute(delete(box).where(box.c.id == job.resource_id))
        QUOTAS.give_back(connection, "p", {"boxes": 1})

    async def grow(self, run: Run) -> None:
        raise BadRequest(reason="a box has the size it has")

    def _temporary(self, run: Run) -> Path:
        return self.root / f"{run.job.resource_id}.tmp"

    def _place(self, run: Run) -> Path:
        return self.root / run.job.resource_id


class PointDatabase(Database):
    """Before each transaction that writes, in it after all its statements, and after its commit, there is a point.

    writing: held by the thread of a transaction that writes.
    """

    def __init__(self, url: str, point: Point) -> None:
        super().__init__(url)
        self._point, self.writing = point, threading.RLock()

    def run_here(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        name = fn.__name__.strip("_")
        if name in ("release_ended", "repair_here", "prune", "renew"):
            return self._run_alone(fn, *args, **kwargs)

        def watched(connection: Connection, *args: Any, **kwargs: Any) -> Any:
            result = fn(connection, *args, **kwargs)
            self._point(f"{name}.inside")
            return result
        self._point(f"{name}.before")
        result = self._run_alone(watched, *args, **kwargs)
        self._point(f"{name}.after")
        return result

    def _run_alone(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self.writing:
            return super().run_here(fn, *args, **kwargs)


def make_tables(connection: Connection) -> None:
    """For a new database."""
    metadata.create_all(connection)
    upgrade_jobs(connection)


def make_store(database: Database) -> JobStore:
    """As a service makes one."""
    return JobStore(SystemClock(), has_own_time=not database.is_sqlite)


def make_engine(database: Database, boxes: Boxes, *, store: JobStore | None = None, pace: Pace = PACE, **options: Any) -> JobEngine:
    """Not yet started."""
    return JobEngine(database, store or make_store(database), boxes.workflows, clock=SystemClock(), rng=random.Random(7), pace=pace,
                     **options)


def submit_create(connection: Connection, store: JobStore, boxes: Boxes, box_id: str, *, size: int = 100,
                  request_id: str = "req-1") -> str:
    """What POST /boxes does; the job's id."""
    return submit(connection, store, boxes.create, box_id, origin=origin_of(request_id=request_id, method="POST", path="/boxes"),
                  args={"size": size}, quota=Quota(quotas=QUOTAS, project_id="p", amounts={"boxes": 1}),
                  create={"project_id": "p", "size": size})


def submit_delete(connection: Connection, store: JobStore, boxes: Boxes, box_id: str) -> str:
    """What DELETE /boxes/ID does."""
    return submit(connection, store, boxes.erase, box_id, origin=origin_of(request_id="req-2", method="DELETE", path="/boxes"))


def problems(connection: Connection, root: Path, box_id: str, *, wanted: str) -> list[str]:
    """What is not as it has to be once nothing runs any more. wanted: available, error, or gone; a sentence for each."""
    out = []
    row = connection.execute(select(box).where(box.c.id == box_id)).first()
    ledger = (root / "ledger").read_text().splitlines() if (root / "ledger").exists() else []
    events = len(connection.execute(select(event)).all())
    used = connection.execute(select(QUOTAS.usage.c.used)).scalar() or 0
    body = root / box_id / "body"
    status = row.status if row is not None else "gone"
    is_there = wanted == "available"
    facts: list[tuple[str, object, object]] = [
        ("status", status, wanted), ("lines of the ledger", ledger.count(box_id), int(is_there)), ("events", events, int(is_there)),
        ("quota used", used, int(row is not None)), ("a temporary directory", (root / f"{box_id}.tmp").exists(), False),
        ("body", body.read_text() if body.exists() else None, BODY[:row.size] if is_there and row is not None else None),
        ("a directory", (root / box_id).exists(), is_there)]
    if row is not None:
        facts += [("held by", row.job_id, None), ("has a reason", bool(row.fault and row.fault["message"]), wanted == "error")]
    live = connection.exec_driver_sql("SELECT count(*) FROM job WHERE state = 'live'").scalar()
    facts.append(("live jobs", live, 0))
    out += [f"{what}: {is_so!r}, not {should!r}" for what, is_so, should in facts if is_so != should]
    return out
