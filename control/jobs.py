"""The job engine: takes jobs from the database, runs their steps, records each, goes back where one fails for good.

    claimed --> step --recorded--> step --recorded--> ... done: status, job and the workflow's own end in one transaction
                  |                                            ^
                  | failed, tries left: lease given up, run_after with backoff; whoever is free goes on at this step
                  | failed for good: undo in reverse from this step, each recorded, then failed with its reason

kill -9 anywhere: the lease is given up by whoever notices that the process ended (`control/reconcile.py`), or runs out, and the
step that was not recorded is repeated. A worker that only was slow is fenced off (`control/jobs_store.py`). A step that ends its
worker each time counts as tried. Costs about four transactions and one per step.
"""
from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from common.clock import Clock
from common.errors import StorageError
from common.log import get_logger
from common.metrics import Registry
from control.db import Database
from control.jobs_model import DONE, FAILED, LEFT, UNDONE, Job
from control.jobs_store import JobStore, LeaseLost, Outcome
from control.lease_owner import make_owner
from control.reconcile import Reconciler
from control.states import settle
from control.wake import listen_postgres
from control.workflow import PREVIOUS, Step, Workflow, describe, fault_of

P = ParamSpec("P")
T = TypeVar("T")
UNDO_TRIES = 8
_DELAY_S, _DELAY_S_MAX = 1.0, 60.0
_log = get_logger("control.jobs")


class StepFailed(StorageError):
    """What a job is told of itself. reason: a sentence."""

    code = "step_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """slots: jobs at once in this process. lease_s: how long a job of a worker that is cut off waits. poll_s: between looks for
    jobs that nobody called us for. delay_s: before the second try of a step, doubled for each further one.
    """

    slots: int = 4
    lease_s: float = 30.0
    poll_s: float = 1.0
    delay_s: float = _DELAY_S

    @property
    def lease_us(self) -> int:
        """For the store."""
        return int(self.lease_s * 1e6)


class JobEngine:
    """The workers of one process on one database."""

    def __init__(self, database: Database, store: JobStore, workflows: Iterable[Workflow], *, clock: Clock, rng: random.Random,
                 pace: Pace | None = None, targets: Iterable[str] = (), registry: Registry | None = None) -> None:
        """targets: host names whose jobs are ours, besides those that are for anybody."""
        self.database, self.store, self.pace, self.owner = database, store, pace or Pace(), make_owner()
        self.workflows = {workflow.kind: workflow for workflow in workflows}
        self._clock, self._rng, self._targets = clock, rng, frozenset(targets)
        self._running: dict[tuple[str, int], _Running] = {}        # by job and attempt
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()
        self._is_draining, self._is_idle = False, True
        self._tasks: list[asyncio.Task[None]] = []
        metrics = registry or Registry()
        self._outcomes = metrics.counter("holdfast_jobs_ended_total", "jobs that ended", ("kind", "outcome"))
        self._retries = metrics.counter("holdfast_jobs_retries_total", "steps that are tried again", ("kind",))
        self.reconciler = Reconciler(database, store, self.workflows.values(), poke=self.poke, registry=metrics)
        store.on_added = self.poke

    # life

    async def start(self) -> None:
        """Jobs are taken from now on."""
        self._tasks = [asyncio.create_task(self._dispatch(), name="jobs"), asyncio.create_task(self._keep(), name="leases"),
                       asyncio.create_task(self.reconciler.follow(), name="reconciler")]
        if not self.database.is_sqlite:
            url = self.database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
            self._tasks.append(asyncio.create_task(listen_postgres(url, self.poke), name="wake-ups"))

    async def stop(self, *, drain_s: float = 5.0) -> None:
        """No new jobs; those that run end their step and are given up. One that does not in time keeps its lease: what it does
        may go on in a thread, and nobody should do the same beside it before the lease has run out.
        """
        self._is_draining = True
        self.poke()
        deadline_s = self._clock.monotonic_s() + drain_s
        if self._tasks:                              # a claim may be under way in a thread: what it takes is given up as well
            await asyncio.wait(self._tasks[:1], timeout=drain_s)
        if running := [one.task for one in self._running.values()]:
            await asyncio.wait(running, timeout=max(deadline_s - self._clock.monotonic_s(), 0.0))
        rest = [*self._tasks, *(one.task for one in self._running.values())]
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest)
        self._tasks = []

    def poke(self) -> None:
        """There may be something to do."""
        self._wake.set()

    async def wait(self, job_id: str) -> Job:
        """Until a job has ended, here or elsewhere. Raises `LookupError` for one that is not there."""
        while True:
            self._ended.clear()
            found = await self.database.read(self.store.find, job_id)
            if found is None:
                raise LookupError(job_id)
            if not found.is_live:
                return found
            await _first_of(self._ended, self.pace.poll_s)

    def facts(self) -> list[dict[str, object]]:
        """Jobs that run here now."""
        return [{"id": one.job.id, "kind": one.job.kind, "step": one.job.step} for one in self._running.values()]

    # taking jobs

    async def _dispatch(self) -> None:
        """Until cancelled or draining."""
        while not self._is_draining:
            self._wake.clear()
            try:
                wait_s = self.pace.poll_s if len(self._running) >= self.pace.slots else await self._take()
            except Exception as error:               # the edge: the database is away; the next look may find it
                _log.error("jobs cannot be taken", exc=error)
                wait_s = self.pace.poll_s
            if wait_s > 0:
                await _first_of(self._wake, wait_s)

    async def _take(self) -> float:
        """Begin one job; how long there is nothing to do, 0 if one was begun."""
        kinds, targets = tuple(self.workflows), tuple(self._targets)
        if self._is_idle:                            # a look costs no writer; after a job there probably is another
            due_in_us = await self.database.read(self.store.next_due_in_us, kinds=kinds, targets=targets)
            if due_in_us is None or due_in_us > 0:
                return min(self.pace.poll_s, (due_in_us or 1 << 60) / 1e6)
        job = await self.database.run(self.store.claim, owner=self.owner, kinds=kinds, targets=targets,
                                      lease_us=self.pace.lease_us)
        was_idle, self._is_idle = self._is_idle, job is None
        if job is not None:
            earlier = [one.give_up() for one in self._running.values() if one.job.id == job.id]       # lost, to ourselves
            running = self._running[job.id, job.attempt] = _Running(self, job, self._clock.monotonic_s())
            running.task = asyncio.create_task(self._run(running, earlier), name=f"job {job.kind}")
            running.task.add_done_callback(partial(self._forget, (job.id, job.attempt)))
        return 0.05 if job is None and was_idle else 0.0          # it was due, and another process is at it

    async def _keep(self) -> None:
        """Leases are renewed thrice as often as needed; what is held no more is stopped."""
        every_s = self.pace.lease_s / 3
        while True:
            await asyncio.sleep(every_s)
            running, began_s = list(self._running.values()), self._clock.monotonic_s()
            if not running:
                continue
            try:
                async with asyncio.timeout(every_s):
                    kept = await self.database.run(self.store.renew, [one.job for one in running], lease_us=self.pace.lease_us)
            except Exception as error:               # the edge: only what is known to be lost, or too old, is given up
                _log.warning("leases cannot be renewed", error=error)
                kept = {one.job.id for one in running if began_s - one.renewed_s < self.pace.lease_s - every_s}
            else:
                for one in running:
                    one.renewed_s = began_s
            for one in running:
                if one.job.id not in kept:
                    one.give_up()

    # running one

    def _forget(self, key: tuple[str, int], _: object) -> None:
        del self._running[key]
        self._ended.set()
        self.poke()

    async def _run(self, running: _Running, earlier: list[asyncio.Task[None]]) -> None:
        """Until it ended, was put off, or is not ours any more. earlier: tasks that have to end first."""
        job = running.job
        try:
            if earlier:
                await asyncio.wait(earlier)
            running.results = await self.database.read(self.store.results, job.id)
            while await self._advance(running):
                pass
        except LeaseLost as error:
            _log.warning("job was taken over by another worker", job=job.id, kind=job.kind, attempt=job.attempt, error=error)
        except asyncio.CancelledError:
            if not running.is_lost:
                raise
            _log.warning("job is held no more, it stops here", job=job.id, kind=job.kind, attempt=job.attempt)
        except Exception as error:                   # the edge: the lease runs out and the step is repeated
            _log.error("job cannot be recorded, its lease will run out", job=job.id, kind=job.kind, exc=error)

    async def _advance(self, running: _Running) -> bool:
        """One step, forwards or back; whether there is another one to be made here."""
        job, workflow = running.job, self.workflows[running.job.kind]
        number = workflow.number(job.step)
        if self._is_draining:
            await self.database.run(self.store.release, job, tries=job.tries - 1)
            return False
        if number is None:
            error = StepFailed(reason=f"this version has no step {job.step!r} of {job.kind}").because(
                "job.unknown_step", step=job.step, kind=job.kind)
            return await self._end_failed(running, describe(error, step=job.step))
        if job.is_undoing:
            return await self._go_back(running, workflow, number)
        return await self._go_on(running, workflow, number)

    async def _go_on(self, running: _Running, workflow: Workflow, number: int) -> bool:
        job, step = running.job, workflow.steps[number]
        try:
            _refuse_worn(job, step.name, step.tries)
            result = await _within(step, step.do, running) or {}
        except (LeaseLost, asyncio.CancelledError):
            raise
        except Exception as error:                   # the edge of what drivers do
            return await self._failed(running, workflow, number, error)
        running.results[step.name] = result
        if number + 1 == len(workflow.steps):
            await self.database.run(self._end_done, job, workflow, dict(running.results))
            self._note_end(job, DONE)
            return False
        following = workflow.steps[number + 1].name
        outcome = Outcome(name=step.name, number=number, state=DONE, result=result)
        await self.database.run(self.store.record, job, outcome, step=following, lease_us=self.pace.lease_us)
        running.job = replace(job, step=following, tries=1)
        return True

    async def _failed(self, running: _Running, workflow: Workflow, number: int, error: Exception) -> bool:
        job, step = running.job, workflow.steps[number]
        is_final = (isinstance(error, StorageError) and not error.is_retryable) or job.tries >= step.tries
        if not isinstance(error, StorageError | OSError):
            _log.error("step failed", job=job.id, kind=job.kind, step=step.name, request=job.request_id, exc=error)
        if not isinstance(error, StepFailed):
            error = _because_step(error, job, step.name)
        described = describe(error, step=step.name)
        if not is_final:
            self._retries.labels(job.kind).inc()
            await self.database.run(self.store.release, job, delay_us=self._delay_us(job.tries), error=described)
            return False
        _log.warning("job fails", job=job.id, kind=job.kind, step=step.name, request=job.request_id, reason=described["reason"])
        first = workflow.to_undo(number)
        if first is None:
            return await self._end_failed(running, described)
        await self.database.run(self.store.begin_undo, job, step=first, error=described, lease_us=self.pace.lease_us)
        running.job = replace(job, step=first, tries=1, is_undoing=True, error=described)
        return True

    async def _go_back(self, running: _Running, workflow: Workflow, number: int) -> bool:
        job, step = running.job, workflow.steps[number]
        error, outcome = dict(job.error or {}), Outcome(name=step.name, number=number, state=UNDONE, result={})
        assert step.undo is not None, step.name
        try:
            _refuse_worn(job, step.name, UNDO_TRIES)
            await _within(step, step.undo, running)
        except (LeaseLost, asyncio.CancelledError):
            raise
        except Exception as failure:                 # the edge of what drivers do
            described = describe(failure, step=step.name)
            if not isinstance(failure, StorageError | OSError):
                _log.error("undoing a step failed", job=job.id, kind=job.kind, step=step.name, exc=failure)
            if job.tries < UNDO_TRIES:               # also what is not retryable: leaving things behind is the last resort
                self._retries.labels(job.kind).inc()
                await self.database.run(self.store.release, job, delay_us=self._delay_us(job.tries))
                return False
            _log.error("a step could not be undone, what it made is left", job=job.id, kind=job.kind, step=step.name,
                       reason=described["reason"])
            left = StepFailed().because("job.undo_left", step=step.name, reason=described["reason"]).causes[0]
            error["chain"] = [*error["chain"], {"rule": left.rule, "facts": left.facts}]
            outcome = replace(outcome, state=LEFT, result={"reason": described["reason"]})
        before = workflow.to_undo(number - 1) if number else None
        if before is None:
            return await self._end_failed(running, error, outcome)
        await self.database.run(self.store.record, job, outcome, step=before, error=error, lease_us=self.pace.lease_us)
        running.job = replace(job, step=before, tries=1, error=error)
        return True

    # ends, each one transaction

    def _end_done(self, connection: Connection, job: Job, workflow: Workflow, results: Mapping[str, Mapping[str, Any]]) -> None:
        last = workflow.steps[-1].name
        outcome = Outcome(name=last, number=len(workflow.steps) - 1, state=DONE, result=results[last])
        self.store.record(connection, job, outcome, step=last, lease_us=0)
        self.store.end(connection, job, state=DONE, error=None)
        settle(connection, workflow.machine, job.resource_id, busy=workflow.busy, to=_status(workflow.done, job), job_id=job.id)
        workflow.on_done(connection, job, results)

    async def _end_failed(self, running: _Running, error: Mapping[str, Any], outcome: Outcome | None = None) -> bool:
        job = running.job
        await self.database.run(self._fail_here, job, self.workflows[job.kind], error, outcome)
        self._note_end(job, FAILED)
        return False

    def _fail_here(self, connection: Connection, job: Job, workflow: Workflow, error: Mapping[str, Any],
                   outcome: Outcome | None) -> None:
        if outcome is not None:
            self.store.record(connection, job, outcome, step=job.step, lease_us=0)
        self.store.end(connection, job, state=FAILED, error=error)
        settle(connection, workflow.machine, job.resource_id, busy=workflow.busy, to=_status(workflow.failed, job), job_id=job.id,
               fault=fault_of(error, job))
        workflow.on_failed(connection, job)

    def _note_end(self, job: Job, outcome: str) -> None:
        self._outcomes.labels(job.kind, outcome).inc()
        _log.debug("job ended", job=job.id, kind=job.kind, resource=job.resource_id, outcome=outcome, attempts=job.attempt,
                  request=job.request_id)

    def _delay_us(self, tries: int) -> int:
        longest_s = min(self.pace.delay_s * 2 ** min(tries - 1, 16), _DELAY_S_MAX)
        return int(longest_s * self._rng.uniform(0.5, 1.0) * 1e6)


class _Running:
    """A job in this process; what its steps see (`control.workflow.Run`)."""

    task: asyncio.Task[None]

    def __init__(self, engine: JobEngine, job: Job, renewed_s: float) -> None:
        self._engine, self.job, self.renewed_s = engine, job, renewed_s
        self.results: dict[str, Mapping[str, Any]] = {}
        self.is_lost = False

    def give_up(self) -> asyncio.Task[None]:
        """The lease is lost: stop. Returns the task, which ends soon."""
        if not self.task.done():
            self.is_lost = True
            self.task.cancel()
        return self.task

    async def write(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        def fenced(connection: Connection) -> T:
            self._engine.store.fence(connection, self.job)
            return fn(connection, *args, **kwargs)
        return await self._engine.database.run(fenced)

    async def read(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._engine.database.read(fn, *args, **kwargs)

    async def check(self) -> None:
        kept = await self._engine.database.run(self._engine.store.renew, [self.job], lease_us=self._engine.pace.lease_us)
        if not kept:
            raise LeaseLost(job=self.job.id, attempt=self.job.attempt)


async def _within(step: Step, do: Callable[[Any], Awaitable[T]], running: _Running) -> T:
    """What the step answers, in its time."""
    limit = asyncio.timeout(step.timeout_s)
    try:
        async with limit:
            return await do(running)
    except TimeoutError as error:
        if limit.expired():
            raise TimeoutError(0, f"the step did not end within {step.timeout_s:g} s") from error
        raise


def _refuse_worn(job: Job, name: str, tries: int) -> None:
    """A step that was begun too often, without anybody who could say why it did not end: its worker ended each time."""
    if job.tries > tries:
        raise StepFailed(reason=f"the worker ended during step {name!r}, {job.tries - 1} times").because(
            "job.worker_ended", step=name, kind=job.kind, times=job.tries - 1)


def _because_step(error: Exception, job: Job, name: str) -> Exception:
    """The same, and which step it was."""
    if isinstance(error, StorageError):
        return error.because("job.step", step=name, kind=job.kind, tries=job.tries)
    described = describe(error, step=name)
    return StepFailed(reason=described["reason"]).because("job.step", step=name, kind=job.kind, tries=job.tries,
                                                          error=described["code"])


def _status(wanted: str, job: Job) -> str:
    return job.was or "error" if wanted == PREVIOUS else wanted


async def _first_of(event: asyncio.Event, timeout_s: float) -> None:
    """Until the event, or for so long."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
