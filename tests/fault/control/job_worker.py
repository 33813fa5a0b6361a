"""Run by test_job_fencing.py: a worker that may stop itself (SIGSTOP) at a point.

    python job_worker.py URL DIRECTORY LEASE_S begin|join STOP_AT FAULT

begin: submits a job and works; join: works on what is live. Ends when nothing is. FAULT "unfenced": writes are not fenced.
"""
from __future__ import annotations

import asyncio
import dataclasses
import signal
import sys
import threading
from pathlib import Path

from sqlalchemy import select, update

from control.jobs_model import LIVE, job
from control.jobs_store import JobStore
from tests.job_sample import PACE, Boxes, PointDatabase, make_engine, make_store, submit_create


class Unfenced(JobStore):
    """The planted mistake: whoever writes is believed."""

    def fence(self, connection, held, **values):
        connection.execute(update(job).where(job.c.id == held.id).values(changed_us=self._now, **values))


async def live(url: str, root: Path, lease_s: float, role: str, stop_at: str, fault: str) -> None:
    """Until no job is live."""
    def point(name: str) -> None:
        if name == stop_at:
            with database.writing:               # a transaction of another thread ends first: it would hold SQLite's lock for ever
                signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)      # here, not a few statements later

    boxes, database = Boxes(root, point=point), PointDatabase(url, point)
    store = Unfenced(make_store(database)._clock, has_own_time=not database.is_sqlite) if fault else make_store(database)
    engine = make_engine(database, boxes, store=store, pace=dataclasses.replace(PACE, lease_s=lease_s))
    if role == "begin":
        await database.run(submit_create, store, boxes, "b1")
    await engine.start()
    async with asyncio.timeout(60):
        for job_id in await database.read(lambda connection: connection.execute(
                select(job.c.id).where(job.c.state == LIVE)).scalars().all()):
            await engine.wait(job_id)
    await engine.stop()
    database.close()


if __name__ == "__main__":
    asyncio.run(live(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:7]))
