"""Jobs for an operator: a listing, and why what a request began has failed, in the form of `control/causes.py`.

Causes of refused requests are in memory; these are in the rows of the jobs, so they outlive the process. Arguments and results of
steps are not shown: they may be about anything.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from common.errors import Explained
from control.db import Database
from control.jobs_model import DONE, FAILED, LIVE, Job
from control.jobs_store import JobStore


class JobDesk:
    """Answers of the admin API about the jobs of all services of a process."""

    def __init__(self) -> None:
        self._services: dict[str, tuple[Database, JobStore]] = {}

    def add(self, service: str, database: Database, store: JobStore) -> None:
        """Another service that has jobs."""
        self._services[service] = (database, store)

    async def listing(self, *, state: str | None = None, resource: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """Newest first. state: live, done, failed, None for all; resource: an id."""
        rows: list[dict[str, Any]] = []
        for service, (database, store) in self._services.items():
            found = await database.read(store.newest, state=state, resource=resource, limit=limit)
            rows += [{"service": service, **show(job)} for job in found]
        return sorted(rows, key=lambda row: -int(row["created_us"]))[:limit]

    async def find(self, request_id: str) -> dict[str, Any] | None:
        """What became of the jobs that a request began; None if it began none, or they were dropped."""
        for service, (database, store) in self._services.items():
            entry = await database.read(_entry_here, store, service, request_id)
            if entry is not None:
                return entry
        return None


def show(job: Job) -> dict[str, Any]:
    """A row of the listing."""
    error = {name: job.error[name] for name in ("code", "reason", "step")} if job.error else None
    return {"id": job.id, "kind": job.kind, "resource": f"{job.resource_type} {job.resource_id}", "project": job.project_id,
            "state": job.state, "is_undoing": job.is_undoing, "step": job.step, "attempt": job.attempt, "tries": job.tries,
            "request": job.request_id, "lease_owner": job.lease_owner, "lease_until_us": job.lease_until_us,
            "run_after_us": job.run_after_us, "created_us": job.created_us, "changed_us": job.changed_us,
            "ended_us": job.ended_us, "error": error}


def _entry_here(connection: Connection, store: JobStore, service: str, request_id: str) -> dict[str, Any] | None:
    jobs = store.of_request(connection, request_id)
    if not jobs:
        return None
    worst = min(jobs, key=lambda job: (job.state != FAILED, job.error is None, job.state != LIVE))
    steps = store.steps(connection, worst.id)
    shown = [{name: step[name] for name in ("name", "state", "attempt", "ended_us")} for step in steps]
    return {**_entry(worst, service), "jobs": [show(job) for job in jobs], "steps": shown}


def _entry(job: Job, service: str) -> dict[str, Any]:
    """As `control.causes.Causes.find`: the request was answered with 202, and this is what came after."""
    error = job.error or {}
    chain = list(error.get("chain") or ()) or [{"rule": link.rule, "facts": dict(link.facts)} for link in _state_of(job).causes]
    origin: Mapping[str, Any] = job.origin
    return {"txid": job.request_id, "time_us": job.created_us, "status": 202,
            "ms": round(((job.ended_us or job.changed_us) - job.created_us) / 1e3, 3), "method": origin.get("method", ""),
            "path": origin.get("path", ""), "parameters": {}, "peer": origin.get("peer", ""), "user": origin.get("user", ""),
            "code": error.get("code", ""), "reason": error.get("reason", ""), "worker": service, "devices": {}, "chain": chain}


def _state_of(job: Job) -> Explained:
    """For one that has no error to tell of."""
    facts = {"kind": job.kind, "step": job.step, "attempt": job.attempt, "owner": job.lease_owner or "nobody"}
    if job.state == LIVE:
        return Explained().because("job.live", **facts)
    return Explained().because("job.done", **facts) if job.state == DONE else Explained().because("job.failed", **facts)
