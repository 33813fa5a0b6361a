"""What is kept of requests that were refused or failed: bounded, without secrets, and with the right rule first."""
from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cli.explain import RULES
from common.clock import ManualClock
from common.errors import CAUSES_MAX, BadRequest, Conflict, NotFound, QuorumNotMet, StorageError
from proxy.errors import Refusal, mark
from proxy.explain import ENTRY_CHARS_MAX, Causes, chain_of
from proxy.http.message import Body, Headers, Request, Response
from proxy.witness import TOLD_MAX, Witness, explain

ROOT = Path(__file__).parents[3]


def make_request(path=b"/v1/a/c/o", query=b"", error=None, user=""):
    request = Request(method="GET", raw_path=path, raw_query=query, headers=Headers([]), body=Body.from_bytes(b""), peer="10.0.0.1")
    request.failed = (error, user) if error is not None else None
    return request


def note(causes, txid, status, **fields):
    causes.note(make_request(**fields), mark(Response(status), txid), 0.25)
    return causes.find(txid)


def test_an_entry_says_what_was_asked_and_what_decided():
    clock = ManualClock(5_000_000)
    error = BadRequest(reason="no").because("acl.write", acl="x")
    entry = note(Causes(clock), "tx1", 403, error=error, user="a:b", query=b"limit=3")
    assert entry == {
        "txid": "tx1", "time_us": 4_750_000, "status": 403, "ms": 250.0, "method": "GET", "path": "/v1/a/c/o",
        "parameters": {"limit": "3"}, "peer": "10.0.0.1", "user": "a:b", "code": "bad_request", "reason": "no",
        "chain": [{"rule": "acl.write", "facts": {"acl": "x"}}]}


@pytest.mark.parametrize(("error", "status", "rules"), [
    (NotFound(what="object"), 404, ["object.not_found"]), (Conflict(what="container"), 409, ["container.not_empty"]),
    (Refusal(405), 405, ["status.405"]), (None, 416, ["status.416"]), (StorageError(reason="x"), 500, ["storage_error"]),
    (Refusal(404).because("b").because("c"), 404, ["b", "c"]),
    (BadRequest().because("b").after(BadRequest().because("a")), 400, ["a", "b"]),
])
def test_each_error_has_a_rule(error, status, rules):
    assert [cause.rule for cause in chain_of(error, status)] == rules


def test_an_error_in_place_of_another_one_brings_its_causes():
    try:
        try:
            raise QuorumNotMet(needed=2).because("quorum.look")
        except QuorumNotMet as error:
            raise Refusal(410).because("account.deleted") from error
    except Refusal as error:
        assert [cause.rule for cause in chain_of(error, 410)] == ["account.deleted", "quorum.look"]


def test_a_bug_says_where_it_is_and_quotes_nothing():
    try:
        raise ValueError("s3cret")
    except ValueError as error:
        (cause,) = chain_of(error, 500)
    assert cause.rule == "bug" and cause.facts["exception"] == "ValueError" and "test_explain.py:" in str(cause.facts["where"])
    assert "s3cret" not in str(cause.facts)


def test_a_flood_of_refusals_pushes_out_no_failure():
    causes = Causes(ManualClock(), refusals_max=10, failures_max=3)
    note(causes, "failed", 503, error=QuorumNotMet(needed=2))
    for number in range(1_000):
        note(causes, f"tx{number}", 404, error=NotFound(what="object"))
    assert causes.find("failed") is not None and causes.find("tx0") is None and causes.find("tx989") is None
    assert all(causes.find(f"tx{number}") is not None for number in range(990, 1_000))


def test_how_far_back_entries_go_is_known():
    clock = ManualClock(1_000_000)
    causes = Causes(clock, refusals_max=2, failures_max=2)
    note(causes, "tx1", 404)
    assert causes.memory()["oldest_us"] is None and causes.memory()["started_us"] == 1_000_000
    clock.advance(1_000_000)
    note(causes, "tx2", 404)
    clock.advance(1_000_000)
    note(causes, "tx3", 404)
    assert causes.memory()["oldest_us"] == 1_750_000


def test_an_entry_is_bounded_whatever_the_client_sends():
    huge = {"a" * 10_000: ["b" * 10_000] * 1_000, "c": {"d": "e" * 10_000}, "f": {str(n): "g" * 100 for n in range(10_000)}}
    query = b"&".join(b"%d=%s" % (n, b"x" * 500) for n in range(500))
    error = BadRequest(reason="r" * 100_000).because("request.invalid", **{"huge": huge})
    entry = note(Causes(ManualClock()), "tx1", 400, path=b"/" + b"p" * 60_000, query=query, error=error)
    assert len(json.dumps(entry)) < 4 * ENTRY_CHARS_MAX


def test_values_that_may_be_secret_are_not_kept():
    query = b"temp_url_sig=s3cret&X-Amz-Signature=s3cret&prefix=p&s3cretless"
    error = BadRequest().because("request.invalid", token="s3cret", fine={"secret_key": "s3cret", "keys": 3})
    entry = note(Causes(ManualClock()), "tx1", 400, query=query, error=error)
    assert entry["parameters"]["prefix"] == "p" and entry["chain"][0]["facts"]["fine"]["keys"] == 3
    assert "s3cret" not in json.dumps(entry).replace("s3cretless", "")


@pytest.mark.parametrize(("data", "method", "path"), [
    (b"GET /v1/a?temp_url_sig=s3cret HTTP/1.1\r\n", "GET", "/v1/a"), (b"X-Auth-Token: s3cret\r\n", "", ""),
    (b"Cookie: s3cret /s3cret\r\n", "", ""), (b"\x16\x03\x01s3cret", "", ""), (b"", "", ""),
])
def test_of_what_the_front_refuses_only_method_and_path_are_kept(data, method, path):
    causes = Causes(ManualClock())
    causes.note_refused(mark(Response(400), "tx1"), "Malformed request.", "10.0.0.1", data)
    entry = causes.find("tx1")
    assert (entry["method"], entry["path"], entry["reason"]) == (method, path, "Malformed request.")
    assert entry["chain"][0]["rule"] == "http.malformed" and "s3cret" not in json.dumps(entry)


def test_names_that_are_no_text_can_be_told_as_json():
    entry = note(Causes(ManualClock()), "tx1", 404, path=b"/v1/\xff\xfe", error=NotFound(what="object", name="\udcff"))
    assert json.loads(json.dumps(entry)) == entry


def test_an_error_that_many_wait_for_does_not_grow():
    error = NotFound(what="object")
    for _ in range(100):
        error.because("again")
    assert len(error.causes) == CAUSES_MAX


def test_repeated_answers_of_a_device_are_counted_and_the_slowest_is_told():
    witness = Witness()
    for ms in (3.0, 900.04, 5.0):
        witness.note(2, "accept", StorageError(reason="broken", device="d3"), ms)
    assert witness.facts() == [
        {"device": 2, "asked": "accept", "code": "storage_error", "ms": 900.0, "times": 3, "reason": "broken"}]
    for device in range(1_000):
        witness.note(device, "look", NotFound(), 0.0)
    assert len(witness.facts()) == TOLD_MAX
    assert explain(QuorumNotMet(), "quorum.look", None).causes[0].facts == {"answers": []}


def test_every_rule_in_the_code_has_its_words():
    """What `holdfast explain` would have nothing to say about."""
    used = set()
    families = "|".join({rule.split(".")[0] for rule in RULES if "." in rule})
    for path in (ROOT / "proxy").rglob("*.py"):
        used |= set(re.findall(rf'"((?:{families})\.[a-z0-9_]+)"', path.read_text()))
        used |= set(re.findall(r'\.(?:because|denied)\(\s*"([a-z0-9_.]+)"', path.read_text()))
    assert len(used) > 50
    assert used - set(RULES) == set()
