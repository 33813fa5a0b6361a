"""Run by test_job_kills.py: processes that work on boxes and kill themselves at one point each; other processes go on after them.

    python job_trials.py SCENARIO URL DIRECTORY FAULTS [PAIRS]

scenario: create, fail (create, of which the last step refuses), delete, poison (a step that ends each process). For each point
that one run passes: a clean database, a process that dies there, one that goes on (of PAIRS random pairs: that dies as well, and a
third), and a look at what they left. One JSON object per line: {"kill": [points], "problems": [sentences]}. This process forks, so
it has no threads.
"""
from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import NullPool, create_engine, select

from control.jobs_model import LIVE, job
from tests.job_sample import Boxes, PointDatabase, make_engine, make_store, make_tables, problems, submit_create, submit_delete

WANTED = {"create": "available", "fail": "error", "delete": "gone", "poison": "error"}
POISON = ("fill.inside#1",) * 5                  # as often as that step may begin
BOX = "b1"


class Points:
    """Names each point by how often its kind came; ends this process at one of them."""

    def __init__(self, kill_at: str | None, passed: Path) -> None:
        self.kill_at, self._counts, self._passed = kill_at, Counter[str](), passed

    def __call__(self, name: str) -> None:
        self._counts[name] += 1
        full = f"{name}#{self._counts[name]}"
        with self._passed.open("a") as file:
            file.write(full + "\n")
        if full == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


class Trials:
    """One scenario on one database."""

    def __init__(self, scenario: str, url: str, root: Path, faults: frozenset[str]) -> None:
        self.scenario, self.url, self.root, self.faults = scenario, url, root, faults
        self.files, self.passed = root / "files", root / "passed"
        self.is_sqlite = url.startswith("sqlite")
        self.engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)

    def prepare(self) -> None:
        """Tables, and for `delete` a box that is there."""
        with self.engine.begin() as connection:
            make_tables(connection)
        self.clean(is_empty=True)
        if self.scenario == "delete":
            self.fork(lambda: self.work(None, begin=submit_create, fails=""))
        if self.is_sqlite:
            shutil.copy(self.root / "test.sqlite", self.root / "template.sqlite")
        shutil.copytree(self.files, self.root / "template")

    def clean(self, *, is_empty: bool = False) -> None:
        """As `prepare` left it."""
        shutil.rmtree(self.files, ignore_errors=True)
        self.passed.unlink(missing_ok=True)
        if is_empty:
            self.files.mkdir()
            return
        shutil.copytree(self.root / "template", self.files)
        if self.is_sqlite:
            for suffix in ("", "-wal", "-shm"):
                (self.root / f"test.sqlite{suffix}").unlink(missing_ok=True)
            shutil.copy(self.root / "template.sqlite", self.root / "test.sqlite")
            return
        with self.engine.begin() as connection:
            for table in ("job_step", "job", "event", "box", "quota_usage"):
                connection.exec_driver_sql(f"DELETE FROM {table}")
        if self.scenario == "delete":
            shutil.rmtree(self.files)
            self.files.mkdir()
            self.fork(lambda: self.work(None, begin=submit_create, fails=""))
            self.passed.unlink()

    def fork(self, work: Callable[[], None]) -> int:
        """Exit code of a process that does `work`, negative for a signal."""
        pid = os.fork()
        if pid:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        try:
            work()
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(3)

    def work(self, kill_at: str | None, *, begin: Callable[..., str] | None, fails: str | None = None) -> None:
        """Begin a job, or take up what is there; until nothing is live."""
        points = Points(kill_at, self.passed)
        fails = ("announce" if self.scenario == "fail" else "") if fails is None else fails
        boxes = Boxes(self.files, point=points, fails=fails, faults=self.faults)
        asyncio.run(self._live(PointDatabase(self.url, points), boxes, begin))

    async def _live(self, database: PointDatabase, boxes: Boxes, begin: Callable[..., str] | None) -> None:
        store = make_store(database)
        engine = make_engine(database, boxes, store=store)
        if begin is not None:
            await database.run(begin, store, boxes, BOX)
        await engine.start()
        for job_id in await database.read(lambda connection: connection.execute(
                select(job.c.id).where(job.c.state == LIVE)).scalars().all()):
            async with asyncio.timeout(60):
                await engine.wait(job_id)
        await engine.stop()
        database.close()

    def judge(self) -> list[str]:
        """Before the request was committed nothing has happened, after it the wanted state is there."""
        with self.engine.connect() as connection:
            jobs = connection.execute(select(job.c.id)).all()
            is_begun = len(jobs) > (1 if self.scenario == "delete" else 0)
            before = "available" if self.scenario == "delete" else "gone"
            return problems(connection, self.files, BOX, wanted=WANTED[self.scenario] if is_begun else before)

    def trial(self, *kills: str) -> dict[str, Any]:
        """One row of the report."""
        self.clean()
        begin = submit_delete if self.scenario == "delete" else submit_create
        out: list[str] = []
        for kill_at, first in zip((*kills, None), (begin, *(None for _ in kills))):
            code = self.fork(lambda at=kill_at, first=first: self.work(at, begin=first))
            if code != 0 and not (kill_at is not None and code == -signal.SIGKILL):
                out.append(f"a process ended with {code}")
            if first is not None and kill_at is not None and code == 0:
                out.append(f"{kill_at} was not reached")
        return {"kill": list(kills), "problems": out + self.judge()}


def main(scenario: str, url: str, directory: str, faults: str, pairs: str = "0") -> None:
    """Print the report."""
    trials = Trials(scenario, url, Path(directory), frozenset(faults.split(",")) - {""})
    trials.prepare()
    if scenario == "poison":
        print(json.dumps(trials.trial(*POISON)), flush=True)
        return
    print(json.dumps(trials.trial()), flush=True)
    points = trials.passed.read_text().split()
    chosen = [(point,) for point in points]
    if int(pairs):
        rng = random.Random(4)
        chosen = [(rng.choice(points), rng.choice(points)) for _ in range(int(pairs))]
    for kills in chosen:
        print(json.dumps(trials.trial(*kills)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
