"""What a job does, as data: named steps, what undoes them, and the states of the resource on the way.

A step makes sure of something: it looks at the world and acts on the difference, because it is repeated when its worker ended
before the result was recorded. What it did is undone by its `undo`, which may find nothing, a part or all of it; the steps that
began are undone in reverse order once one has failed for good.
"""
from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection, insert

from common.errors import Explained, NotFound, StorageError
from control.context import Context
from control.jobs_model import Job
from control.jobs_store import JobStore, new_job_id
from control.quota import Quotas
from control.states import Machine, WrongState, take

P = ParamSpec("P")
T = TypeVar("T")
PREVIOUS = "(previous)"                          # as `done` or `failed`: the status that the resource had before


class Run(Protocol):
    """A job as its steps see it. results: of the steps before, by name."""

    job: Job
    results: Mapping[str, Mapping[str, Any]]

    async def write(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`fn(connection, ...)` in a transaction that only the holder of the job can commit. Raises `LeaseLost`."""

    async def read(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`fn(connection, ...)` in a transaction that reads."""

    async def check(self) -> None:
        """Just before an effect that cannot be taken back: is the job still ours? Renews its lease. Raises `LeaseLost`."""


Do = Callable[[Run], Awaitable[Mapping[str, Any] | None]]
Undo = Callable[[Run], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """do: answers what later steps need, as JSON. tries: beginnings before it has failed for good; an error that is not
    retryable fails at once. timeout_s: a thread that a step has started is not stopped by it, so it needs a limit of its own.
    """

    name: str
    do: Do
    undo: Undo | None = None
    tries: int = 5
    timeout_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """All jobs of one kind.

    busy: status of the resource while a job of this kind holds it; done, failed: the one it gets then. on_done, on_failed: in the
    transaction that ends the job, after the status was set: where a deleted row goes and quota is given back. is_desired_state:
    asking again while it runs is no conflict (a delete). resume: args of a new job, from the columns of a resource that is busy
    without one; None: such a resource gets the failed status and a reason.
    """

    kind: str
    machine: Machine
    busy: str
    steps: tuple[Step, ...]
    done: str = PREVIOUS
    failed: str = "error"
    on_done: Callable[[Connection, Job, Mapping[str, Mapping[str, Any]]], None] = lambda connection, job, results: None
    on_failed: Callable[[Connection, Job], None] = lambda connection, job: None
    is_desired_state: bool = False
    resume: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    _numbers: dict[str, int] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Names of steps are recorded, so each is there once."""
        assert self.steps and self.busy in self.machine.moves, self.kind
        self._numbers.update({step.name: number for number, step in enumerate(self.steps)})
        assert len(self._numbers) == len(self.steps), self.kind

    def number(self, name: str) -> int | None:
        """Place of a step; None for one that this version does not have."""
        return self._numbers.get(name)

    def to_undo(self, up_to: int) -> str | None:
        """The last step up to that place that has something to undo."""
        return next((step.name for step in reversed(self.steps[:up_to + 1]) if step.undo is not None), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What a resource counts for its project."""

    quotas: Quotas
    project_id: str
    amounts: Mapping[str, int]


def origin_of(*, request_id: str, method: str = "", path: str = "", peer: str = "",
              context: Context | None = None) -> dict[str, str]:
    """Who asked for a job."""
    return {"request_id": request_id, "method": method[:16], "path": path[:512], "peer": peer,
            "user": context.user_id if context is not None else ""}


def submit(connection: Connection, store: JobStore, workflow: Workflow, row_id: str, *, origin: Mapping[str, Any],
           args: Mapping[str, Any] | None = None, quota: Quota | None = None, create: Mapping[str, Any] | None = None,
           project_id: str | None = None, target: str = "", values: Mapping[str, Any] | None = None) -> str:
    """State, quota and job in one transaction, the caller's; the job's id. The answer to the client is 202, after the commit.

    create: columns of a new resource; None for one that is there, which then has to be in a state that allows `busy`. values:
    what else changes of it. Raises `NotFound`, `WrongState`, `QuotaExceeded`, `Duplicate`.
    """
    machine, job_id, was = workflow.machine, new_job_id(), None
    if quota is not None:
        quota.quotas.take(connection, quota.project_id, quota.amounts)
        project_id = project_id or quota.project_id
    if create is not None:
        connection.execute(insert(machine.table).values(id=row_id, status=workflow.busy, job_id=job_id, fault=None, **create))
    else:
        try:
            was = take(connection, machine, row_id, to=workflow.busy, job_id=job_id, values=values)
        except WrongState as error:
            if workflow.is_desired_state and error.fields["status"] == workflow.busy and error.fields["job"] and quota is None:
                return str(error.fields["job"])
            raise
    return store.add(connection, job_id=job_id, kind=workflow.kind, step=workflow.steps[0].name, resource_type=machine.what,
                     resource_id=row_id, args=args, project_id=project_id, origin=origin, was=was, target=target)


def fault_of(error: Mapping[str, Any], job: Job) -> dict[str, Any]:
    """What the user of a resource is told of a job that failed."""
    return {"code": error["code"], "message": error["reason"], "job": job.id, "request_id": job.request_id}


def describe(error: BaseException, *, step: str) -> dict[str, Any]:
    """An error for the row of a job: code, reason, step, and the chain of why, the deciding link first. No secrets."""
    chain = error.causes if isinstance(error, Explained) else ()
    if isinstance(error, StorageError):
        code, reason = error.code, str(error.fields.get("reason") or _plain(error))
    elif isinstance(error, OSError):
        code, reason = "os_error", f"{error.strerror or type(error).__name__}: {error.filename or 'no file'}"
    else:
        code, reason = "bug", f"{type(error).__name__}; the log has more"       # its text may quote anything
    links = [{"rule": link.rule, "facts": {name: str(value)[:512] for name, value in link.facts.items()}} for link in chain]
    return {"code": code, "reason": reason[:1_024], "step": step, "chain": links}


def _plain(error: StorageError) -> str:
    if isinstance(error, NotFound):
        return f"there is no {error.fields.get('what', 'such thing')} {error.fields.get('name', '')}".strip()
    return str(error)


__all__ = ["PREVIOUS", "Quota", "Run", "Step", "Workflow", "describe", "fault_of", "origin_of", "submit"]
