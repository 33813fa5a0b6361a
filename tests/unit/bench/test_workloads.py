"""The words of --workloads."""
from __future__ import annotations

import pytest

from bench.workloads import DEFAULT, KINDS, MIB, parse_workloads
from common.errors import BenchFailed


def names(*arguments):
    return [workload.name for workload in parse_workloads(*arguments)]


def test_the_usual_ones_are_named_as_they_are_asked_for():
    assert names(DEFAULT) == DEFAULT.split(",")


def test_every_kind_can_be_asked_for_and_has_a_usual_number_of_connections():
    found = parse_workloads(",".join(KINDS))
    assert {workload.name.split(":")[0] for workload in found} == set(KINDS)
    assert all(workload.connections >= 1 for workload in found)


@pytest.mark.parametrize(("text", "connections", "wanted"), [
    ("put4k:64", (), ["put4k:64"]),
    ("put4k", (), ["put4k:1", "put4k:64"]),
    ("put4k,get1m:3", (1, 16), ["put4k:1", "put4k:16", "get1m:3"]),
    ("get*", (), ["get4k:1", "get4k:64", "get1m:8", "get64m:2"]),
    ("*64m:1", (), ["put64m:1", "get64m:1"]),
    ("list, list:4 ,list:4", (), ["list:1", "list:4"]),
    ("delete64m", (), ["delete64m:2"]),
])
def test_words_numbers_and_patterns(text, connections, wanted):
    assert names(text, connections) == wanted


@pytest.mark.parametrize("text", ["putt4k", "put4k:0", "put4k:x", "put4k:99999", "move*", "put"])
def test_what_there_is_not_is_refused(text):
    with pytest.raises(BenchFailed):
        parse_workloads(text)


def test_a_misspelt_word_gets_a_hint():
    with pytest.raises(BenchFailed, match="did you mean 'put4k'"):
        parse_workloads("putt4k")


def test_few_and_large_operations_are_waited_for():
    put, large, delete = parse_workloads("put4k:1,put1m:1,delete4k:1")
    assert [put.is_drained, large.is_drained, delete.is_drained] == [False, True, True]
    assert (large.verb, large.size_bytes) == ("put", MIB)
