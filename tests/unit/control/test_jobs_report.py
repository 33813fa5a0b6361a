"""What operators see of jobs: the listing, and why what a request began has failed."""
from __future__ import annotations

from cli.explain import format_story
from cli.jobs import format_jobs
from control.jobs_report import JobDesk
from tests.job_sample import Boxes


async def run(shop, box_id, *, fails="", request_id):
    job_id = await shop.create(box_id, request_id=request_id)
    engine = shop.engine(boxes=Boxes(shop.root, fails=fails))
    await engine.start()
    await engine.wait(job_id)
    await engine.stop()
    return job_id


async def test_a_failed_job_is_found_by_the_request_that_began_it_and_tells_a_story(shop):
    await run(shop, "b1", fails="announce", request_id="req-bad")
    desk = JobDesk()
    desk.add("boxes", shop.database, shop.store)
    entry = await desk.find("req-bad")
    assert entry["status"] == 202 and entry["code"] == "bad_request" and entry["chain"][0]["rule"] == "job.step"
    assert [step["state"] for step in entry["steps"]] == ["undone", "undone", "done", "undone", "undone"]
    story = format_story(entry)
    assert "step announce of box.create failed" in story and "nobody wants this box" in story and "POST /boxes" in story


async def test_of_a_job_that_goes_well_or_waits_its_state_is_told(shop):
    await run(shop, "b1", request_id="req-good")
    await shop.create("b2", request_id="req-new")
    desk = JobDesk()
    desk.add("boxes", shop.database, shop.store)
    assert (await desk.find("req-good"))["chain"][0]["rule"] == "job.done"
    assert (await desk.find("req-new"))["chain"][0]["rule"] == "job.live"
    assert await desk.find("req-unknown") is None


async def test_the_listing_shows_who_is_at_what_and_no_arguments(shop):
    first = await run(shop, "b1", fails="announce", request_id="req-bad")
    second = await shop.create("b2")
    await shop.claim("host/1")
    desk = JobDesk()
    desk.add("boxes", shop.database, shop.store)
    rows = await desk.listing()
    assert [row["id"] for row in rows] == [second, first]
    assert rows[0]["lease_owner"] == "host/1" and rows[0]["attempt"] == 1 and rows[0]["step"] == "reserve"
    assert [row["id"] for row in await desk.listing(state="failed")] == [first]
    assert [row["id"] for row in await desk.listing(resource="b2")] == [second]
    assert len(await desk.listing(limit=1)) == 1 and not any("args" in row for row in rows)
    table = format_jobs(rows)
    assert "announce: nobody wants this box" in table and "box b2" in table
    assert format_jobs([]) == "no jobs\n"
