"""What went wrong among the devices is in the story of the request: which device answered what, after how long."""
from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace

from cli.explain import UNKNOWN, format_story
from common.metrics import Registry
from node.explain import explain
from node.report import gather_devices
from object.wire import OP_ACCEPT
from proxy.app import RequestReport, make_app
from proxy.explain import Causes
from proxy.model import MetaChange
from tests.contract.swift_client import SwiftClient
from tests.fault.cluster.harness import ROW_OPS, running, until

TIMEOUT_S = 0.8


class Told:
    """A client of the gateway, and the command for what went wrong with its requests."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.gateway = cluster.owner_count
        self.client = SwiftClient(cluster.store(), cluster.clock)
        self.causes = Causes(cluster.clock)
        self._app = make_app(self.client.door)
        self._report = RequestReport(Registry(), self.causes)
        self.client.door = self._run

    async def _run(self, request):
        response = await self._app(request)
        self._report(request, response, 0, 0.5)
        return response

    def story(self, answer):
        """The entry and what an operator reads."""
        answers = [{"entry": self.causes.find(answer.headers["x-trans-id"]), "memory": self.causes.memory()}]
        slots = self.cluster.plan(0).devices
        states = [storage.status() for storage in self.cluster.storages if storage is not None]
        entry = explain(answer.headers["x-trans-id"], answers, gather_devices(slots, states), slots, self.cluster.clock)
        text = format_story(entry)
        assert UNKNOWN not in text, text
        return entry, text

    def answers(self, entry):
        """(device, question, code) of what devices answered that was an error."""
        return {(f"d{answer['device'] + 1}", answer["asked"], answer["code"]): answer["ms"]
                for answer in entry["chain"][0]["facts"]["answers"]}


@asynccontextmanager
async def told(tmp_path, **options):
    async with running(tmp_path, request_timeout_s=TIMEOUT_S, **options) as cluster:
        await cluster.store().create_account("AUTH_demo", MetaChange())
        await cluster.store().put_container("AUTH_demo", "c", MetaChange(), policy=None)
        found = Told(cluster)
        try:
            yield found
        finally:
            found.client.auth.close()


async def test_two_devices_that_hang_are_both_named(tmp_path):
    async with told(tmp_path) as t:
        t.cluster.harm(t.gateway, 0, 2)
        answer = await t.client.call("PUT", "c/o", body=b"x")
        assert answer.status == 503
        entry, text = t.story(answer)
        assert entry["chain"][0]["rule"] == "quorum.look"
        silent = t.answers(entry)
        assert set(silent) == {("d1", "look", "deadline_exceeded"), ("d3", "look", "deadline_exceeded")}
        assert all(ms >= TIMEOUT_S * 500 for ms in silent.values())
        assert "2 of 3 are needed" in text and "device d2 answered" in text
        assert all(f"device {name} was asked to say what it holds: no answer, after " in text for name in ("d1", "d3"))


async def test_one_device_that_is_not_counted_and_one_that_is_away(tmp_path):
    async with told(tmp_path) as t:
        assert (await t.client.call("PUT", "c/o", body=b"x")).status == 201

        def is_remembered():
            first = t.cluster.owner_of(0).device
            return all(t.cluster.owner_of(i).device.peers.marks.get(first.identity.id) == first.mark() for i in (1, 2))
        await until(is_remembered, "peers remember d1")
        await t.cluster.stop(0)
        t.cluster.empty(0)
        await t.cluster.start(0)
        t.cluster.harm(t.gateway, 1)
        answer = await t.client.call("GET", "c/o")
        assert answer.status == 503
        entry, text = t.story(answer)
        assert {("d1", "look", "not_counted"), ("d2", "look", "deadline_exceeded")} <= set(t.answers(entry))
        assert "device d1 was asked to say what it holds: not counted, waits for copy: " in text
        assert "now: device d1 is not counted" in text


async def test_full_disks(tmp_path):
    async with told(tmp_path) as t:
        for index in (0, 1):
            device = t.cluster.owner_of(index).device
            device.limits, device.is_full = replace(device.limits, fill_max=0.0), True
        answer = await t.client.call("PUT", "c/o", body=b"x")
        assert answer.status == 507
        entry, text = t.story(answer)
        assert entry["chain"][0]["rule"] == "device.full"
        assert set(t.answers(entry)) == {("d1", "accept", "full"), ("d2", "accept", "full")}
        assert "are full" in text and "What to do  delete objects" in text


async def test_full_disks_under_a_large_body(tmp_path):
    async with told(tmp_path) as t:
        for index in (0, 1):
            device = t.cluster.owner_of(index).device
            device.limits, device.is_full = replace(device.limits, fill_max=0.0), True
        answer = await t.client.call("PUT", "c/o", body=bytes(300_000))
        assert answer.status == 507
        entry, _ = t.story(answer)
        assert entry["chain"][0]["rule"] == "device.full"
        assert {("d1", "body", "full"), ("d2", "body", "full")} <= set(t.answers(entry))


async def test_an_outcome_that_is_unknown(tmp_path):
    async with told(tmp_path) as t:
        t.cluster.harm(t.gateway, 0, 1, ops=frozenset({OP_ACCEPT}))
        answer = await t.client.call("PUT", "c/o", body=b"x")
        assert answer.status == 503 and answer.headers["x-error-code"] == "outcome_unknown"
        entry, text = t.story(answer)
        assert entry["chain"][0]["rule"] == "quorum.accept"
        assert {("d1", "accept", "deadline_exceeded"), ("d2", "accept", "deadline_exceeded")} <= set(t.answers(entry))
        assert "may or may not have taken effect" in text and "asked to take the write: no answer, after" in text


async def test_a_listing_without_databases(tmp_path):
    async with told(tmp_path) as t:
        await t.client.call("PUT", "c/o", body=b"x")
        t.cluster.harm(t.gateway, 0, 1, ops=ROW_OPS)
        answer = await t.client.call("GET", "c")
        assert answer.status == 503
        entry, text = t.story(answer)
        assert entry["chain"][0]["rule"] == "quorum.page"
        assert "for a page: no answer, after" in text


async def test_what_goes_well_leaves_nothing_behind(tmp_path):
    async with told(tmp_path) as t:
        for method in ("PUT", "GET", "HEAD", "DELETE"):
            assert (await t.client.call(method, "c/o", body=b"x" if method == "PUT" else b"")).status < 300
        assert t.causes.memory()["oldest_us"] is None and not t.causes._refusals and not t.causes._failures
