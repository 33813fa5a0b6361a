"""The job engine: what a job does when all goes well, when a step fails for a while or for good, and when a worker is slow."""
from __future__ import annotations

import asyncio
import dataclasses
import random
import threading

import pytest
from sqlalchemy import insert, select, update

from common.clock import ManualClock
from common.errors import BadRequest, NotFound, Overloaded
from control.errors import QuotaExceeded
from control.jobs import Pace
from control.jobs_model import FAILED, HISTORY, LEFT, LIVE, UNDONE, Job, job, metadata
from control.jobs_store import JobStore, LeaseLost, Outcome
from control.migrate import differences
from control.states import WrongState, take
from control.workflow import Step, Workflow, origin_of, submit
from tests.job_sample import MACHINE, PACE, QUOTAS, Boxes, box

SECOND_US = 1_000_000


async def finish(engine, job_id):
    """The job, once it has ended."""
    await engine.start()
    try:
        async with asyncio.timeout(30):
            return await engine.wait(job_id)
    finally:
        await engine.stop()


async def until(is_so):
    while not await is_so():                     # noqa: ASYNC110 - what is waited for happens in a database
        await asyncio.sleep(0.005)


async def has_ended(shop, job_id):
    return not (await shop.database.read(shop.store.find, job_id)).is_live


def one_step(do, *, undo=None, tries=5, kind="box.create", **options):
    """A workflow of a step that tests write."""
    return Workflow(kind=kind, machine=MACHINE, busy="creating", done="available",
                    steps=(Step(name="reserve", do=do, undo=undo, tries=tries, **options),))


class Custom(Boxes):
    """With workflows of the test."""

    def __init__(self, root, *workflows):
        super().__init__(root)
        self.workflows = workflows


# tables

async def test_the_tables_are_those_of_the_migrations(shop):
    with shop.database.engine.begin() as connection:
        others = ("box", "event", "quota_limit", "quota_usage")
        assert differences(connection, metadata, service=HISTORY, beside=others) == []
        assert differences(connection, metadata, service=HISTORY) != []              # the others are noticed unless named


# begin

async def test_state_quota_and_job_are_one_transaction(shop):
    job_id = await shop.create(size=10)
    row = await shop.database.read(lambda connection: connection.execute(select(box)).one())
    assert (row.status, row.job_id, row.size) == ("creating", job_id, 10)
    assert (await shop.database.read(QUOTAS.used, "p"))["boxes"] == 1
    await shop.database.run(QUOTAS.set_limits, "p", {"boxes": 1})
    with pytest.raises(QuotaExceeded):
        await shop.create("b2")
    assert len(await shop.database.read(shop.store.newest)) == 1
    assert len(await shop.database.read(lambda connection: connection.execute(select(box)).all())) == 1


async def test_a_wrong_state_names_the_job_that_holds_the_resource(shop):
    job_id = await shop.create()
    with pytest.raises(WrongState) as caught:
        await shop.delete()
    assert caught.value.fields["job"] == job_id and caught.value.fields["status"] == "creating"
    assert caught.value.causes[0].rule == "state.wrong" and caught.value.causes[0].facts["job"] == job_id
    with pytest.raises(NotFound):
        await shop.delete("nothing")


async def test_of_two_that_want_a_resource_at_once_one_gets_it(shop):
    await finish(shop.engine(), await shop.create())
    take_it = [shop.database.run(take, MACHINE, "b1", to="extending", job_id=f"j{n}") for n in range(6)]
    answers = await asyncio.gather(*take_it, return_exceptions=True)
    assert sum(answer == "available" for answer in answers) == 1
    assert sum(isinstance(answer, WrongState) for answer in answers) == 5


async def test_a_delete_that_is_asked_for_again_is_the_same_delete(shop):
    await finish(shop.engine(), await shop.create())
    first = await shop.delete()
    assert await shop.delete() == first
    assert (await finish(shop.engine(), first)).state == "done"
    assert await shop.problems("gone") == []


# run

async def test_a_job_runs_its_steps_in_order_and_hands_their_results_on(shop):
    job_id = await shop.create()
    ended = await finish(shop.engine(), job_id)
    assert ended.state == "done" and ended.error is None and ended.lease_owner is None
    assert await shop.problems("available") == []
    steps = await shop.database.read(shop.store.steps, job_id)
    assert [step["name"] for step in steps] == ["reserve", "allocate", "fill", "publish", "announce"]
    assert steps[1]["result"] == {"line": "b1"} and {step["attempt"] for step in steps} == {1}


async def test_a_job_that_is_added_elsewhere_is_begun_at_once_on_postgresql_and_soon_on_sqlite(shop):
    slow = dataclasses.replace(PACE, poll_s=0.2 if shop.database.is_sqlite else 3_600.0)
    engine = shop.engine(pace=slow)
    await engine.start()
    other = JobStore(ManualClock(), has_own_time=True) if not shop.database.is_sqlite else shop.store
    job_id = await shop.database.run(lambda connection: submit(
        connection, other, shop.boxes.create, "b1", origin=origin_of(request_id="r"), args={"size": 1},
        create={"project_id": "p", "size": 1}))
    async with asyncio.timeout(30):
        await until(lambda: has_ended(shop, job_id))
    await engine.stop()


async def test_many_jobs_run_side_by_side_and_never_more_than_slots(shop):
    at_once, most, full = set(), [], asyncio.Event()

    async def work(run):
        at_once.add(run.job.id)
        most.append(len(at_once))
        if len(at_once) == 3:
            full.set()
        await full.wait()
        await run.check()
        at_once.discard(run.job.id)

    boxes = Custom(shop.root, one_step(work))
    ids = [await shop.create(f"b{n}") for n in range(9)]
    engine = shop.engine(boxes=boxes, pace=dataclasses.replace(PACE, slots=3))
    await engine.start()
    async with asyncio.timeout(30):
        ended = [await engine.wait(one) for one in ids]
    await engine.stop()
    assert {one.state for one in ended} == {"done"} and max(most) == 3


async def test_two_workers_never_have_the_same_job(shop):
    for number in range(8):
        await shop.create(f"b{number}")
    taken = await asyncio.gather(*(shop.claim(f"w{n}") for n in range(12)))
    ids = [one.id for one in taken if one is not None]
    assert len(ids) == len(set(ids))
    while (more := await shop.claim("last")) is not None:           # what was locked just then was passed over
        ids.append(more.id)
    assert len(ids) == len(set(ids)) == 8


async def test_a_job_is_for_its_host_and_for_who_knows_its_kind(shop):
    await shop.database.run(lambda connection: submit(
        connection, shop.store, shop.boxes.create, "b1", origin={}, args={"size": 1}, target="host-a",
        create={"project_id": "p", "size": 1}))
    assert await shop.claim() is None
    assert await shop.claim(targets=("host-b",)) is None
    assert await shop.claim(targets=("host-a",), kinds=("box.other",)) is None
    assert (await shop.claim(targets=("host-b", "host-a"))).target == "host-a"


# failures

async def test_a_step_that_fails_for_a_while_is_tried_again_later_and_says_why_meanwhile(shop):
    tries = []

    async def flaky(run):
        tries.append(run.job.tries)
        if len(tries) < 3:
            raise Overloaded(what="disk", reason="no room just now")

    clock = ManualClock()
    store = JobStore(clock)
    job_id = await shop.database.run(lambda connection: submit(
        connection, store, one_step(flaky), "b1", origin={}, create={"project_id": "p", "size": 1}))
    shop.store = store
    engine = shop.engine(boxes=Custom(shop.root, one_step(flaky)), pace=dataclasses.replace(PACE, delay_s=10.0))
    delays = []
    await engine.start()
    async with asyncio.timeout(30):
        while (now := await shop.database.read(store.find, job_id)).is_live:
            if now.lease_owner is None and now.run_after_us > clock.now_us():
                delays.append((now.run_after_us - clock.now_us()) / SECOND_US)
                assert now.error["reason"] == "no room just now" and now.error["chain"][0]["rule"] == "job.step"
                clock.advance(now.run_after_us - clock.now_us())
                engine.poke()
            await asyncio.sleep(0.005)
    await engine.stop()
    assert tries == [1, 2, 3] and now.state == "done" and now.error is None
    assert 5 <= delays[0] <= 10 and 10 <= delays[1] <= 20


async def test_what_cannot_work_fails_at_once_and_everything_is_taken_back(shop):
    boxes = Boxes(shop.root, fails="announce")
    job_id = await shop.create(request_id="req-9")
    ended = await finish(shop.engine(boxes=boxes), job_id)
    assert ended.state == FAILED and ended.error["reason"] == "nobody wants this box" and ended.error["step"] == "announce"
    assert await shop.problems("error") == []
    row = await shop.database.read(lambda connection: connection.execute(select(box)).one())
    assert row.fault == {"code": "bad_request", "message": "nobody wants this box", "job": job_id, "request_id": "req-9"}
    states = {step["name"]: step["state"] for step in await shop.database.read(shop.store.steps, job_id)}
    assert states == {"reserve": UNDONE, "allocate": UNDONE, "fill": "done", "publish": UNDONE, "announce": UNDONE}


async def test_a_resource_that_was_well_before_is_so_after_a_failure_that_harms_nothing(shop):
    await finish(shop.engine(), await shop.create())
    job_id = await shop.database.run(submit, shop.store, shop.boxes.extend, "b1", origin={})
    assert (await finish(shop.engine(), job_id)).was == "available"
    row = await shop.database.read(lambda connection: connection.execute(select(box)).one())
    assert row.status == "available" and row.job_id is None and "size" in row.fault["message"]


async def test_a_step_that_goes_on_failing_fails_for_good_after_its_tries(shop):
    tries = []

    async def broken(run):
        tries.append(1)
        raise RuntimeError("hunter2")

    job_id = await shop.create()
    ended = await finish(shop.engine(boxes=Custom(shop.root, one_step(broken, tries=3))), job_id)
    assert len(tries) == 3 and ended.state == FAILED
    assert "hunter2" not in str(ended.error) and "RuntimeError" in ended.error["reason"]


async def test_a_step_that_does_not_end_in_its_time_is_stopped(shop):
    async def forever(run):
        await asyncio.Event().wait()

    ended = await finish(shop.engine(boxes=Custom(shop.root, one_step(forever, tries=1, timeout_s=0.01))), await shop.create())
    assert ended.state == FAILED and "did not end within 0.01 s" in ended.error["reason"]


async def test_what_cannot_be_undone_is_left_and_named(shop):
    tries = []

    async def refuse(run):
        raise BadRequest(reason="no")

    async def stuck(run):
        tries.append(1)
        raise OSError(5, "Input/output error", "/dev/sdx")

    fast = dataclasses.replace(PACE, delay_s=0.0001)
    ended = await finish(shop.engine(boxes=Custom(shop.root, one_step(refuse, undo=stuck)), pace=fast), await shop.create())
    assert ended.state == FAILED and ended.error["reason"] == "no" and len(tries) == 8
    assert ended.error["chain"][-1] == {"rule": "job.undo_left", "facts": {
        "step": "reserve", "reason": "Input/output error: /dev/sdx"}}
    (step,) = await shop.database.read(shop.store.steps, ended.id)
    assert step["state"] == LEFT
    assert (await shop.database.read(lambda connection: connection.execute(select(box.c.status)).scalar_one())) == "error"


async def test_a_step_that_this_version_does_not_have_is_a_clean_error(shop):
    job_id = await shop.create()
    await shop.database.run(lambda connection: connection.execute(update(job).values(step="of another version")))
    ended = await finish(shop.engine(), job_id)
    assert ended.state == FAILED and ended.error["chain"][0]["rule"] == "job.unknown_step"


# leases

async def test_a_lease_that_ran_out_is_taken_over_and_whoever_had_it_writes_nothing_more(shop):
    clock = ManualClock()
    store = JobStore(clock)
    await shop.database.run(lambda connection: submit(
        connection, store, shop.boxes.create, "b1", origin={}, args={"size": 1}, create={"project_id": "p", "size": 1}))
    old = await shop.claim("old", store=store)
    assert await shop.claim("new", store=store) is None
    clock.advance(31 * SECOND_US)
    new = await shop.claim("new", store=store)
    assert (new.id, new.attempt, new.tries) == (old.id, old.attempt + 1, 2)
    outcome = Outcome(name="reserve", number=0, state="done", result={"by": "old"})
    for refused in (lambda connection: store.record(connection, old, outcome, step="allocate", lease_us=1),
                    lambda connection: store.release(connection, old),
                    lambda connection: store.end(connection, old, state="done", error=None),
                    lambda connection: store.begin_undo(connection, old, step="reserve", error={}, lease_us=1)):
        with pytest.raises(LeaseLost):
            await shop.database.run(refused)
    assert await shop.database.run(store.renew, [old], lease_us=1) == set()
    assert await shop.database.run(store.renew, [new], lease_us=1) == {new.id}
    assert await shop.database.read(store.steps, old.id) == []
    await shop.database.run(store.record, new, outcome, step="allocate", lease_us=1)


async def test_a_long_step_keeps_its_lease(shop):
    ran = []

    async def was_renewed(run, before):
        return (await run.read(shop.store.find, run.job.id)).lease_until_us != before

    async def long(run):
        ran.append(run.job.attempt)
        before = (await run.read(shop.store.find, run.job.id)).lease_until_us
        await until(lambda: was_renewed(run, before))

    pace = dataclasses.replace(PACE, lease_s=0.6)
    ended = await finish(shop.engine(boxes=Custom(shop.root, one_step(long)), pace=pace), await shop.create())
    assert ended.state == "done" and ran == [1]


async def test_a_worker_that_lost_its_job_is_stopped_in_the_middle_of_a_step(shop):
    stopped, begun = [], asyncio.Event()

    async def long(run):
        if run.job.attempt == 1:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                stopped.append(run.job.attempt)
                raise

    job_id = await shop.create()
    engine = shop.engine(boxes=Custom(shop.root, one_step(long)), pace=dataclasses.replace(PACE, lease_s=0.3))
    await engine.start()
    async with asyncio.timeout(30):
        await begun.wait()
        await shop.database.run(lambda connection: connection.execute(update(job).values(attempt=2, lease_until_us=0)))
        ended = await engine.wait(job_id)
    await engine.stop()
    assert stopped == [1] and ended.state == "done" and ended.attempt == 3


async def test_an_administrator_who_sets_a_state_by_hand_ends_the_job(shop):
    job_id = await shop.create()
    held = await shop.claim()
    assert await shop.database.run(shop.store.abandon, job_id, {"code": "reset", "reason": "by hand", "step": "", "chain": []})
    with pytest.raises(LeaseLost):
        await shop.database.run(shop.store.fence, held)
    assert not await shop.database.run(shop.store.abandon, job_id, {})


async def test_at_shutdown_the_running_step_ends_and_the_job_goes_on_elsewhere_as_if_it_had_not_been_tried(shop):
    begun, go_on, done = asyncio.Event(), asyncio.Event(), []

    async def first(run):
        begun.set()
        await go_on.wait()
        done.append("first")

    async def second(run):
        done.append("second")

    workflow = Workflow(kind="box.create", machine=MACHINE, busy="creating", done="available",
                        steps=(Step(name="first", do=first), Step(name="second", do=second)))
    boxes = Custom(shop.root, workflow)
    job_id = await shop.create()
    await shop.database.run(lambda connection: connection.execute(update(job).values(step="first")))
    engine = shop.engine(boxes=boxes)
    await engine.start()
    await asyncio.wait_for(begun.wait(), 30)
    stopping = asyncio.create_task(engine.stop(drain_s=30))
    await asyncio.sleep(0)
    go_on.set()
    await stopping
    left = await shop.database.read(shop.store.find, job_id)
    assert done == ["first"] and (left.state, left.step, left.lease_owner, left.tries) == (LIVE, "second", None, 0)
    assert (await finish(shop.engine(boxes=boxes), job_id)).state == "done" and done == ["first", "second"]


async def test_a_claim_that_is_under_way_at_shutdown_holds_nothing_afterwards(shop):
    loop, begun, ended, go_on = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event(), threading.Event()
    claim = shop.store.claim

    def slow(*args, **kwargs):
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(30)
        try:
            return claim(*args, **kwargs)
        finally:
            loop.call_soon_threadsafe(ended.set)

    shop.store.claim = slow
    job_id = await shop.create()
    engine = shop.engine()
    await engine.start()
    await asyncio.wait_for(begun.wait(), 30)
    stopping = asyncio.create_task(engine.stop(drain_s=30))
    await asyncio.wait([stopping], timeout=0.1)          # it cannot have ended before the claim has
    go_on.set()
    await stopping
    await asyncio.wait_for(ended.wait(), 30)
    left = await shop.database.read(shop.store.find, job_id)
    assert (left.state, left.lease_owner, left.tries) == (LIVE, None, 0)


async def test_a_step_that_does_not_end_at_shutdown_keeps_its_lease(shop):
    begun = asyncio.Event()

    async def stubborn(run):
        begun.set()
        await asyncio.Event().wait()

    job_id = await shop.create()
    engine = shop.engine(boxes=Custom(shop.root, one_step(stubborn)))
    await engine.start()
    await asyncio.wait_for(begun.wait(), 30)
    await engine.stop(drain_s=0.01)
    left = await shop.database.read(shop.store.find, job_id)
    assert left.lease_owner == engine.owner and left.lease_until_us > 0
    assert await shop.claim() is None


# the reconciler

async def test_a_busy_resource_without_a_job_gets_one_if_its_row_says_how(shop):
    def plant(connection):
        connection.execute(insert(box).values(id="b1", project_id="p", size=7, status="creating", job_id="gone"))
        QUOTAS.take(connection, "p", {"boxes": 1})

    await shop.database.run(plant)
    engine = shop.engine()
    report = await engine.reconciler.run_once()
    assert report.resumed == ["b1"] and report.failed == []
    (made,) = await shop.database.read(shop.store.newest)
    assert made.args == {"size": 7} and made.error["chain"][0]["rule"] == "job.missing"
    assert (await engine.reconciler.run_once()).resumed == []
    assert (await finish(engine, made.id)).state == "done"
    assert await shop.problems("available") == []


async def test_a_busy_resource_without_a_job_that_nobody_can_resume_is_an_error_with_its_reason(shop):
    await shop.database.run(lambda connection: connection.execute(
        insert(box).values(id="b1", project_id="p", size=7, status="extending", job_id=None)))
    report = await shop.engine().reconciler.run_once()
    assert report.failed == ["b1"]
    row = await shop.database.read(lambda connection: connection.execute(select(box)).one())
    assert row.status == "available" and "no job was at it" in row.fault["message"]


async def test_a_resource_with_a_live_job_is_left_alone(shop):
    await shop.create()
    report = await shop.engine().reconciler.run_once()
    assert (report.resumed, report.failed, report.released) == ([], [], [])


async def test_jobs_that_ended_long_ago_are_dropped_failed_ones_later(shop):
    clock = ManualClock()
    shop.store = JobStore(clock)
    ids = {}
    for name, fails in (("b1", ""), ("b2", "announce")):
        ids[name] = await shop.create(name)
        await finish(shop.engine(boxes=Boxes(shop.root, fails=fails)), ids[name])
    clock.advance(8 * 86_400 * SECOND_US)
    assert await shop.database.run(shop.store.prune) == 1
    assert await shop.database.read(shop.store.find, ids["b1"]) is None
    assert await shop.database.read(shop.store.steps, ids["b1"]) == []
    assert (await shop.database.read(shop.store.find, ids["b2"])).state == FAILED
    clock.advance(90 * 86_400 * SECOND_US)
    assert await shop.database.run(shop.store.prune) == 1


async def test_a_database_that_is_away_for_a_while_is_asked_again(shop, monkeypatch):
    asked, read = [], shop.database.read

    async def away(fn, *args, **kwargs):
        asked.append(fn)
        if len(asked) < 4:
            raise OSError("away")
        return await read(fn, *args, **kwargs)

    job_id = await shop.create()
    monkeypatch.setattr(shop.database, "read", away)
    engine = shop.engine()
    await engine.start()
    async with asyncio.timeout(30):
        await until(lambda: asyncio.sleep(0, len(asked) >= 4))
        assert (await engine.wait(job_id)).state == "done"
    await engine.stop()


def test_delays_grow_and_are_never_the_same_for_all(shop):
    engine = shop.engine(pace=Pace(delay_s=1.0))
    engine._rng = random.Random(1)
    delays = [engine._delay_us(tries) / SECOND_US for tries in (1, 2, 3, 4, 50)]
    assert all(longest / 2 <= delay <= longest for delay, longest in zip(delays, (1, 2, 4, 8, 60)))
    assert len({engine._delay_us(3) for _ in range(10)}) == 10


def test_a_job_says_what_its_row_says():
    assert {field.name for field in dataclasses.fields(Job)} == {column.name for column in job.c}
