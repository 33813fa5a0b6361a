"""The app: every request gets an id, a door, and an answer; what it counts stays small."""
from __future__ import annotations

import random

import pytest

from common.clock import ManualClock
from common.errors import NotFound, QuorumNotMet
from common.metrics import Registry
from proxy.app import RequestReport, TxidSource, make_app
from proxy.errors import Refusal, mark
from proxy.http.message import Body, Headers, Request, Response


def ask(path: bytes, *, method="GET", query=b"", headers=()):
    return Request(method=method, raw_path=path, raw_query=query, headers=Headers(list(headers)), body=Body.from_bytes(b"abc"))


def app_over(answer):
    async def door(request):
        if isinstance(answer, Exception):
            raise answer
        return mark(answer, request.txid)
    return make_app(door, new_txid=TxidSource(ManualClock(), random.Random(1)))


def fields(response):
    names = [name for name, _ in response.headers]
    assert len(names) == len(set(names))
    return dict(response.headers)


@pytest.mark.parametrize("path", [b"/v1/AUTH_a/c/o", b"/v1.0/a", b"/auth/v1.0", b"/info", b"/healthcheck", b"/%761/a"])
async def test_swift_paths_go_to_the_swift_door(path):
    request = ask(path)
    response = await app_over(Response(204))(request)
    assert response.status == 204 and fields(response)["X-Trans-Id"] == request.txid


@pytest.mark.parametrize(("path", "given"), [
    (b"/", {}), (b"/bucket/key", {}), (b"/favicon.ico", {}),
])
async def test_what_is_nobodys_is_told_where_the_api_is(path, given):
    response = await app_over(Response(204))(ask(path, **given))
    assert response.status == 404 and b"/auth/v1.0" in response.body and fields(response)["X-Trans-Id"].startswith("tx")


@pytest.mark.parametrize("given", [
    {"headers": [(b"Authorization", b"AWS4-HMAC-SHA256 Credential=x")]}, {"headers": [(b"Authorization", b"AWS a:b")]},
    {"query": b"X-Amz-Algorithm=AWS4-HMAC-SHA256"},
])
async def test_a_signature_of_another_api_is_told_that_it_is_not_spoken(given):
    response = await app_over(Response(204))(ask(b"/bucket/key", **given))
    assert response.status == 400 and b"does not speak the S3 API" in response.body


@pytest.mark.parametrize(("error", "status"), [
    (NotFound(what="object"), 404), (QuorumNotMet(needed=2), 503), (Refusal(412, "Bad URL"), 412), (ZeroDivisionError("bug"), 500),
])
async def test_an_error_that_leaves_the_door_becomes_an_answer_with_the_request_id(error, status):
    request = ask(b"/v1/a/c/o")
    response = await app_over(error)(request)
    assert response.status == status and fields(response)["X-Trans-Id"] == request.txid
    assert b"bug" not in response.body


def test_ids_of_requests_differ_and_name_their_time():
    new = TxidSource(ManualClock(1_700_000_000_000_000), random.Random(2))
    made = [new() for _ in range(100)]
    assert len(set(made)) == 100 and all(txid.endswith(f"-{1_700_000_000:010x}") and len(txid) == 34 for txid in made)


def samples(registry, name):
    return {tuple(labels): value for labels, value in registry.snapshot()[name]["samples"]}


def test_requests_are_counted_by_method_and_kind_of_answer():
    registry = Registry()
    report = RequestReport(registry)
    for method, status in (("GET", 200), ("GET", 206), ("GET", 404), ("PUT", 201)):
        report(ask(b"/v1/a", method=method), Response(status), 10, 0.001)
    counted = samples(registry, "holdfast_request_seconds")
    assert {labels: sum(value[:-1]) for labels, value in counted.items()} == {
        ("GET", "2xx"): 2, ("GET", "4xx"): 1, ("PUT", "2xx"): 1}
    assert samples(registry, "holdfast_request_sent_bytes_total") == {(): 40}
    assert samples(registry, "holdfast_request_received_bytes_total") == {(): 12}


def test_methods_that_clients_make_up_do_not_make_metrics_grow():
    registry = Registry()
    report = RequestReport(registry)
    for number in range(50):
        report(ask(b"/v1/a", method=f"X{number}"), Response(405), 0, 0.0)
    assert list(samples(registry, "holdfast_request_seconds")) == [("other", "4xx")]
