"""Two workers of one node over the same devices: what one has answered, the other shows."""
from contextlib import asynccontextmanager

from common.clock import SystemClock
from tests.contract.real_store import run_storages
from tests.contract.swift_client import POLICIES, SwiftClient


@asynccontextmanager
async def gateways():
    clock = SystemClock()
    async with run_storages(clock, policies=POLICIES) as storages:
        clients = [SwiftClient(storage.store, clock) for storage in storages]
        try:
            yield clients
        finally:
            for client in clients:
                client.auth.close()


async def test_what_one_gateway_found_missing_is_found_once_the_other_has_made_it():
    async with gateways() as (one, two):
        await one.call("PUT", "")
        for path in ("c", "c/o"):
            assert (await two.call("GET", path)).status == 404
        await one.put("c")
        assert await two.names("c") == []
        await one.put("c/o", b"x")
        assert (await two.call("GET", "c/o")).body == b"x" and await two.names("c") == ["o"]


async def test_a_container_made_again_with_another_policy_by_the_other_gateway_is_read_there():
    async with gateways() as (one, two):
        for policy in ("standard", "Silver"):
            await one.put("c", b"", {"X-Storage-Policy": policy})
            await one.put("c/o", policy.encode())
            assert (await two.call("GET", "c/o")).text == policy
            assert (await one.call("DELETE", "c/o")).status == 204 and (await one.call("DELETE", "c")).status == 204
            assert (await two.call("GET", "c")).status == 404


async def test_metadata_set_through_one_gateway_is_shown_by_the_other():
    async with gateways() as (one, two):
        await one.put("c")
        for number in ("1", "2"):
            await one.call("POST", "", {"X-Account-Meta-N": number})
            await one.call("POST", "c", {"X-Container-Meta-N": number})
            for method in ("HEAD", "GET"):
                assert (await two.call(method, "")).headers["x-account-meta-n"] == number
                assert (await two.call(method, "c")).headers["x-container-meta-n"] == number


async def test_every_listing_shows_what_any_gateway_has_stored():
    async with gateways() as (one, two):
        for number in range(40):
            await one.put(f"c{number}")
            await two.put(f"c{number}/o", b"x")
            assert await one.names(f"c{number}") == ["o"]
        assert len(await two.names("")) == 40


async def test_a_refused_change_of_a_container_holds_up_nobody():
    """A decision that raises leaves no promise open behind which rows would wait."""
    async with gateways() as (one, two):
        await one.put("c", b"", {f"X-Container-Meta-{n}": "v" * 200 for n in range(19)})
        assert (await one.call("POST", "c", {f"X-Container-Meta-B{n}": "v" * 200 for n in range(5)})).status == 400
        assert (await one.call("PUT", "c", {"X-Storage-Policy": "Silver"})).status == 409
        for storage in (one.store, two.store):
            for device in storage.cluster.container("AUTH_demo", "c")[1].clients:
                if device.is_local:
                    assert not device._store._registers.outstanding_promise(storage.cluster.container("AUTH_demo", "c")[0].key)
