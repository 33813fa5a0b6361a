"""What clients saw, judged: which answers count as known, and what a listing may show."""
from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from tests.fault.history.judge import judge
from tests.fault.history.record import Event, load_history, save_history

_numbers = itertools.count(1)


def event(verb, begin_s, end_s, status=None, **facts):
    return Event(number=next(_numbers), client=0, gateway=0, verb=verb, key=facts.pop("key", "k"), begin_s=begin_s, end_s=end_s,
                 status=status, **facts)


def put(tag, begin_s, end_s, status=201, **facts):
    return event("put", begin_s, end_s, status, tag=tag, size=len(tag), mark="m" + tag, **facts)


def get(tag, begin_s, end_s, status=200, **facts):
    return event("get", begin_s, end_s, status, size=len(tag), seen=(tag, "m" + tag), **facts)


def delete(begin_s, end_s, status=204, **facts):
    return event("delete", begin_s, end_s, status, **facts)


def listing(begin_s, end_s, **rows):
    return event("list", begin_s, end_s, 200, key="", rows={key: (tag, len(tag)) for key, tag in rows.items()})


def kinds(*events):
    return [violation.what for violation in judge(events)]


def test_a_quiet_day():
    assert kinds(put("a", 0, 1), get("a", 2, 3), listing(2, 3, k="a"), event("post", 4, 5, 202, mark="n"),
                 event("get", 6, 7, 304, seen=("a", "n"), if_none_match="a"), put("b", 8, 9, 412, if_none_match="*"),
                 put("b", 8, 9, 412, if_match="x"), delete(10, 11), event("get", 12, 13, 404), listing(12, 13)) == []


@pytest.mark.parametrize("status", [None, 500, 503, 507, 408, 499])
def test_an_answer_that_says_nothing_is_unknown_and_never_failed(status):
    write = put("b", 2, None if status is None else 3, status)
    first = put("a", 0, 1)
    assert kinds(first, write, get("a", 4, 5), get("b", 6, 7)) == []
    assert kinds(first, write, get("b", 4, 5), get("a", 6, 7)) == ["object"]
    assert kinds(first, write, listing(4, 5, k="a"), listing(6, 7, k="b")) == []


def test_objects_are_judged_key_by_key():
    assert kinds(put("a", 0, 1, key="x"), put("b", 0, 1, key="y"), get("a", 2, 3, key="x"), get("b", 2, 3, key="y")) == []
    assert kinds(put("a", 0, 1, key="x"), get("a", 2, 3, key="y")) == ["object"]


@pytest.mark.parametrize(("rows", "expected"), [({"k": "b"}, []), ({}, ["listing"]), ({"k": "a"}, ["listing"])])
def test_a_listing_shows_what_was_answered_before_it_began(rows, expected):
    assert kinds(put("a", 0, 1), put("b", 2, 3), listing(4, 5, **rows)) == expected


def test_a_listing_may_trail_a_write_that_a_reader_has_seen():
    write = put("b", 2, 9)
    assert kinds(put("a", 0, 1), write, get("b", 3, 4), listing(5, 6, k="a")) == []
    assert kinds(put("a", 0, 1), write, listing(3, 4, k="b"), listing(5, 6, k="a")) == ["listing"]


def test_an_answer_that_is_not_listed_yet_is_listed_later_and_stays():
    write = put("b", 2, 3, is_pending=True)
    assert kinds(put("a", 0, 1), write, listing(4, 5, k="a"), listing(6, 7, k="b")) == []
    assert kinds(put("a", 0, 1), write, listing(4, 5, k="b"), listing(6, 7, k="a")) == ["listing"]


def test_a_deleted_name_is_not_listed_again():
    assert kinds(put("a", 0, 1), delete(2, 3), listing(4, 5)) == []
    assert kinds(put("a", 0, 1), delete(2, 3), listing(4, 5, k="a")) == ["listing"]


def test_a_row_with_the_size_of_another_body_is_found():
    bad = replace(listing(2, 3, k="a"), rows={"k": ("a", 7)})
    assert kinds(put("a", 0, 1), bad) == ["size"]
    assert kinds(put("a", 0, 1), replace(get("a", 2, 3), size=5)) == ["size"]


@pytest.mark.parametrize("bad", [
    event("get", 2, 3, 401), event("put", 2, 3, 404, tag="z", size=1, mark="z"), get("a", 2, 3, 304), get("a", 2, 3, 412),
    get("a", 2, 3, 200, if_none_match="a"), get("a", 2, 3, 200, if_match="b"), get("a", 2, 3, 412, if_match="a"),
    event("get", 2, 3, 200), replace(get("a", 2, 3), wrong="its body has another MD5"), event("list", 2, 3, 404, key=""),
])
def test_an_answer_that_no_order_of_things_allows_is_found(bad):
    assert "answer" in kinds(put("a", 0, 1), bad)


def test_a_violation_tells_what_was_seen_and_what_was_near():
    found, = judge([put("a", 0, 1), put("b", 2, 3), get("a", 4, 5)])
    assert "nothing explains" in found.text and found.text.count("put") == 2 and found.event.verb == "get"


def test_a_history_survives_its_file(tmp_path):
    events = [put("a", 0, 1), get("a", 2, 3), listing(2, 3, k="a"), put("b", 4, None, None), delete(5, 6, is_pending=True)]
    save_history(events, tmp_path / "h.jsonl")
    assert load_history(tmp_path / "h.jsonl") == events
