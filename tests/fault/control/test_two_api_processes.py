"""Two API processes on one PostgreSQL share the work; one is killed, and nothing is stuck."""
from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest
from sqlalchemy import select

from control.db import Database
from control.jobs_model import LIVE, job, job_step
from tests.job_sample import BODY, QUOTAS, box, make_tables

ROOT = Path(__file__).parents[3]
LIMIT_S = 60


@contextmanager
def api(url, files):
    """A process and its port; killed at the end."""
    command = [sys.executable, str(Path(__file__).with_name("job_api.py")), url, str(files)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def ask(session, port, method, path, body=None):
    """Status and body; None for a process that is gone: nobody knows what became of the request."""
    try:
        async with session.request(method, f"http://127.0.0.1:{port}{path}", json=body, headers={"X-Auth-Token": "good"}) as answer:
            return answer.status, await answer.json() if answer.content_type == "application/json" else None
    except aiohttp.ClientError:
        return None


async def until(is_so):
    async with asyncio.timeout(LIMIT_S):
        while not await is_so():                 # noqa: ASYNC110 - what is waited for happens in other processes
            await asyncio.sleep(0.01)


@pytest.mark.needs_postgresql
async def test_two_api_processes_share_the_work_and_when_one_is_killed_nothing_is_stuck(postgres_url, tmp_path):
    database, files = Database(postgres_url), tmp_path / "files"
    files.mkdir()
    await database.run(make_tables)
    await database.run(QUOTAS.set_limits, "p", {"boxes": -1})

    async def owners():
        return set(await database.read(lambda connection: connection.execute(select(job_step.c.owner)).scalars().all()))

    async def all_ended():
        return not await database.read(lambda connection: connection.execute(select(job.c.id).where(job.c.state == LIVE)).all())

    with api(postgres_url, files) as (first, port_1), api(postgres_url, files) as (_, port_2):
        async with aiohttp.ClientSession() as session:
            answers = []

            async def send(port, count):
                for _ in range(count):
                    answers.append(await ask(session, port, "POST", "/boxes", {"size": 150}))

            async def both_work():
                await asyncio.gather(send(port_1, 2), send(port_2, 2))
                return len(await owners()) == 2

            await until(both_work)                   # also what was asked of one of them is done by the other

            async def kill():
                await until(lambda: asyncio.sleep(0, len(answers) > before + 10))
                first.send_signal(signal.SIGKILL)

            before = len(answers)
            await asyncio.gather(*(send(port, 8) for port in (port_1, port_2) * 3), kill())
            await until(all_ended)
            accepted = [answer[1]["id"] for answer in answers if answer is not None and answer[0] == 202]
            assert len(accepted) > before + 10 and None in answers
            shown = [await ask(session, port_2, "GET", f"/boxes/{one}") for one in accepted]
            assert {answer[1]["status"] for answer in shown} == {"available"}
            deleted = [await ask(session, port_2, "DELETE", f"/boxes/{one}") for one in accepted]
            assert {status for status, _ in deleted} == {202}
            await until(all_ended)
    rows = await database.read(lambda connection: connection.execute(select(box)).all())
    assert {row.status for row in rows} <= {"available"}          # of requests that got no answer: whole, or not there
    assert all((files / row.id / "body").read_text() == BODY[:150] for row in rows)
    assert sorted(path.name for path in files.iterdir() if path.is_dir()) == sorted(row.id for row in rows)
    assert (await database.read(QUOTAS.used, "p"))["boxes"] == len(rows)
    database.close()
