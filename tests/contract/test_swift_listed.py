"""What listings and answers say about writes that were just made, and about those not listed yet."""
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tests.contract.swift_client import swift


async def test_a_listing_shows_the_time_of_the_last_post_as_head_does(open_store):
    async with swift(open_store) as client:
        await client.put("c")
        await client.put("c/o", b"x")
        for _ in range(2):
            client.clock.advance(5_000_000)
            assert (await client.call("POST", "c/o", {"X-Object-Meta-A": "1"})).status == 202
            posted_s = client.clock.now_us() / 1e6
            row = (await client.call("GET", "c", query="format=json")).json[0]
            assert datetime.fromisoformat(row["last_modified"]).replace(tzinfo=UTC).timestamp() == pytest.approx(posted_s, abs=1e-5)
            assert float((await client.call("HEAD", "c/o")).headers["x-timestamp"]) == pytest.approx(posted_s, abs=2e-5)


async def test_a_container_made_again_with_another_policy_is_read_there(open_store):
    async with swift(open_store) as client:
        for policy in ("standard", "Silver", "standard"):
            await client.put("c", b"", {"X-Storage-Policy": policy})
            await client.put("c/o", policy.encode())
            assert (await client.call("GET", "c/o")).text == policy and await client.names("c") == ["o"]
            assert (await client.call("DELETE", "c/o")).status == 204 and (await client.call("DELETE", "c")).status == 204
            assert (await client.call("GET", "c")).status == 404 and (await client.call("GET", "c/o")).status == 404


@pytest.mark.parametrize(("method", "path", "fields", "status"), [
    ("PUT", "c/p", {}, 201), ("POST", "c/o", {}, 202), ("COPY", "c/o", {"Destination": "c/q"}, 201), ("DELETE", "c/o", {}, 204)])
async def test_an_answer_says_when_its_change_is_not_listed_yet(open_store, method, path, fields, status):
    async with swift(open_store) as client:
        await client.put("c")
        stored = await client.put("c/o", b"x")
        assert "x-listing" not in stored.headers
        store = client.store
        put, post, delete = store.put_object, store.post_object, store.delete_object

        async def put_unlisted(*args, **options):
            return replace(await put(*args, **options), is_listed=False)

        async def post_unlisted(*args):
            await post(*args)
            return False

        async def delete_unlisted(*args):
            return replace(await delete(*args), is_listed=False)

        store.put_object, store.post_object, store.delete_object = put_unlisted, post_unlisted, delete_unlisted
        changed = await client.call(method, path, fields)
        assert (changed.status, changed.headers["x-listing"]) == (status, "pending")
