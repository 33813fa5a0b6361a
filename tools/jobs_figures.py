"""Figures of the job engine and of backups for docs/performance.md.

    python -m tools.jobs_figures [URL of an empty PostgreSQL database]

A job here has three steps that do nothing. CPU is of this process (with PostgreSQL not of the server).
"""
from __future__ import annotations

import asyncio
import os
import random
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Connection, MetaData, String, Table, insert

from common.clock import SystemClock
from common.config import Loaded
from common.configfile import NO_FILE
from common.log import LogConfig, configure_logging
from control.db import Database, sqlite_url
from control.jobs import JobEngine, Pace
from control.jobs_model import upgrade_jobs
from control.jobs_store import JobStore
from control.states import Machine, state_columns
from control.workflow import Run, Step, Workflow, submit
from identity.config import IdentityConfig
from identity.main import open_database
from identity.model import project, user
from node.backup import create_backup
from node.backup_restore import Restore, restore_backup
from node.config import HoldfastConfig
from node.state import open_state

_JOBS, _ALONE, _USERS = 400, 60, 10_000
_METADATA = MetaData()
_THING = Table("thing", _METADATA, Column("id", String(32), primary_key=True), *state_columns())


async def _nothing(_: Run) -> Mapping[str, Any] | None:
    return None


_WORKFLOW = Workflow(kind="thing.create", machine=Machine(what="thing", table=_THING, moves={"creating": frozenset()}),
                     busy="creating", done="ready", steps=tuple(Step(name=f"step{n}", do=_nothing) for n in range(3)))


def _begin(connection: Connection, store: JobStore, row_id: str) -> str:
    return submit(connection, store, _WORKFLOW, row_id, origin={}, create={})


async def measure_jobs(url: str) -> None:
    """One job at a time, then as many as there are slots."""
    database, clock = Database(url), SystemClock()
    database.run_here(lambda connection: (_METADATA.create_all(connection), upgrade_jobs(connection)))
    store = JobStore(clock, has_own_time=not database.is_sqlite)
    engine = JobEngine(database, store, (_WORKFLOW,), clock=clock, rng=random.Random(1), pace=Pace(slots=4))
    began_s = time.perf_counter()
    ids = [await database.run(_begin, store, f"a{n}") for n in range(_JOBS)]
    print(f"  begun: {(time.perf_counter() - began_s) / _JOBS * 1e3:.2f} ms each")
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    await engine.start()
    for one in ids:
        await engine.wait(one)
    wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    print(f"  claimed, three steps, ended, 4 at once: {_JOBS / wall_s:.0f} per second, {cpu_s / _JOBS * 1e3:.2f} ms CPU each")
    delays = []
    for number in range(_ALONE):
        began_s = time.perf_counter()
        await engine.wait(await database.run(_begin, store, f"b{number}"))
        delays.append(time.perf_counter() - began_s)
    print(f"  alone, from request to done: median {sorted(delays)[_ALONE // 2] * 1e3:.1f} ms")
    await engine.stop()
    database.close()


def measure_backup(root: Path, url: str | None) -> None:
    """Of 10 000 users and as many projects."""
    config = HoldfastConfig(identity=IdentityConfig(database=url))
    open_state(root / "state", config, device_count=None, clock=SystemClock(), say=_quiet)
    database = open_database(config.identity, root / "state")

    def fill(connection: Connection) -> None:
        for domain in ("", "default"):
            connection.execute(insert(project).values(id=domain, name=domain, domain_id="", parent_id=None, is_domain=True,
                                                      enabled=True, options={}, extra={}))
        connection.execute(insert(user), [{
            "id": f"u{n:05}", "domain_id": "default", "name": f"u{n:05}", "enabled": True, "must_change_password": False,
            "options": {}, "extra": {}, "failed_count": 0, "created_us": 0, "password_hash": "x" * 97} for n in range(_USERS)])
        connection.execute(insert(project), [{
            "id": f"p{n:05}", "name": f"p{n:05}", "domain_id": "default", "parent_id": "default", "is_domain": False,
            "enabled": True, "options": {}, "extra": {}} for n in range(_USERS)])

    database.run_here(fill)
    database.close()
    loaded = Loaded(value=config, origins={}, file=NO_FILE)
    made = create_backup(loaded, root / "state", root / "b.tar", clock=SystemClock(), say=_quiet)
    began_s = time.perf_counter()
    asked = Restore(archive=root / "b.tar", root=root / "again", config=config, replaces=True)
    restore_backup(asked, clock=SystemClock(), say=_quiet)
    print(f"  backup of {_USERS} users and projects ({made['databases'][0]['kind']}): {made['seconds']:.2f} s with verification, "
          f"{made['bytes'] / 1e6:.1f} MB; restored in {time.perf_counter() - began_s:.2f} s")


def _quiet(_: str) -> None:
    pass


def main(arguments: list[str]) -> None:
    """Print the figures."""
    os.umask(0o077)
    configure_logging(LogConfig(level="error"))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        print("SQLite")
        asyncio.run(measure_jobs(sqlite_url(root / "jobs.sqlite")))
        measure_backup(root, None)
    if arguments:
        with tempfile.TemporaryDirectory() as name:
            print("PostgreSQL")
            asyncio.run(measure_jobs(arguments[0]))
            measure_backup(Path(name), arguments[0])


if __name__ == "__main__":
    main(sys.argv[1:])
