"""PostgreSQL that throws its clients out: jobs go on, wake-ups come again."""
from __future__ import annotations

import asyncio
import dataclasses

import psycopg
import pytest

from control.db import Database
from control.workflow import Step, Workflow
from tests.job_sample import MACHINE, PACE, Boxes, make_engine, make_store, make_tables, submit_create

LIMIT_S = 60


def throw_out(url, *, only=""):
    """End every other connection to the database, or those of an application; how many."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                                  "AND pid <> pg_backend_pid() AND application_name LIKE %s", [f"%{only}%"]).fetchall()
    return len(rows)


@pytest.mark.needs_postgresql
async def test_a_job_whose_connections_are_cut_in_a_step_is_done(postgres_url, tmp_path):
    database, did = Database(postgres_url), []
    await database.run(make_tables)
    store, boxes = make_store(database), Boxes(tmp_path)

    async def cut(run):
        did.append(run.job.attempt)
        if len(did) == 1:
            await asyncio.to_thread(throw_out, postgres_url)

    boxes.workflows = (Workflow(kind="box.create", machine=MACHINE, busy="creating", done="available",
                                steps=(Step(name="reserve", do=cut), Step(name="rest", do=cut))),)
    engine = make_engine(database, boxes, store=store, pace=dataclasses.replace(PACE, lease_s=0.6))
    job_id = await database.run(submit_create, store, boxes, "b1")
    await engine.start()
    async with asyncio.timeout(LIMIT_S):
        ended = await engine.wait(job_id)
    await engine.stop()
    database.close()
    assert ended.state == "done" and did[0] == 1 and len(did) >= 2            # a step may be repeated


@pytest.mark.needs_postgresql
async def test_wake_ups_come_again_after_their_connection_was_cut(postgres_url, tmp_path):
    database = Database(postgres_url)
    await database.run(make_tables)
    boxes = Boxes(tmp_path)
    engine = make_engine(database, boxes, pace=dataclasses.replace(PACE, poll_s=3_600.0))
    await engine.start()
    async with asyncio.timeout(LIMIT_S):
        while not await asyncio.to_thread(throw_out, postgres_url, only="wake-ups"):      # noqa: ASYNC110 - a server's list
            await asyncio.sleep(0.01)
        elsewhere = make_store(database)                 # as another process: it pokes nobody here
        job_id = await database.run(submit_create, elsewhere, boxes, "b1")
        while (await database.read(elsewhere.find, job_id)).is_live:         # noqa: ASYNC110 - what happens is in a database
            await asyncio.sleep(0.01)
    await engine.stop()
    database.close()
