"""Metrics: values, their sum over processes, and Prometheus' text."""
from __future__ import annotations

import json
import math

import pytest

from common.metrics import Registry, format_prometheus, merge_snapshots


def filled(scale: float = 1) -> Registry:
    registry = Registry()
    puts = registry.counter("puts_total", "PUT requests", ("device",))
    puts.labels("d1").inc()
    puts.labels("d1").inc(2 * scale)
    puts.labels('d"2\\').inc()
    registry.gauge("open_files", "Open files").labels().set(5 * scale)
    registry.gauge("lag_seconds", "Worst lag", merge="max").labels().set(0.25 * scale)
    registry.gauge("free_ratio", "Least free", merge="min").labels().set(0.5 * scale)
    seconds = registry.histogram("get_seconds", "GET latency", buckets=(0.1, 1.0)).labels()
    for value in (0.05, 0.1, 0.5, 7.0):
        seconds.observe(value * scale)
    return registry


def test_the_text_is_what_prometheus_reads():
    assert format_prometheus(filled().snapshot()) == """\
# HELP free_ratio Least free
# TYPE free_ratio gauge
free_ratio 0.5
# HELP get_seconds GET latency
# TYPE get_seconds histogram
get_seconds_bucket{le="0.1"} 2
get_seconds_bucket{le="1"} 3
get_seconds_bucket{le="+Inf"} 4
get_seconds_sum 7.65
get_seconds_count 4
# HELP lag_seconds Worst lag
# TYPE lag_seconds gauge
lag_seconds 0.25
# HELP open_files Open files
# TYPE open_files gauge
open_files 5
# HELP puts_total PUT requests
# TYPE puts_total counter
puts_total{device="d\\"2\\\\"} 1
puts_total{device="d1"} 3
"""


def test_snapshots_of_several_processes_add_up_also_after_json():
    travelled = json.loads(json.dumps(filled(2).snapshot()))
    text = format_prometheus(merge_snapshots([filled(1).snapshot(), travelled]))
    for line in ('puts_total{device="d1"} 8', "open_files 15", "lag_seconds 0.5", "free_ratio 0.5", "get_seconds_count 8",
                 'get_seconds_bucket{le="0.1"} 3'):
        assert f"\n{line}\n" in "\n" + text


def test_merging_leaves_the_snapshots_as_they_were():
    one, two = filled().snapshot(), filled().snapshot()
    before = format_prometheus(one)
    merge_snapshots([one, two])
    assert format_prometheus(one) == before


def test_a_family_that_a_newer_process_describes_differently_does_not_break_the_sum():
    newer = Registry()
    newer.histogram("get_seconds", "GET latency", buckets=(0.5,)).labels().observe(1)
    newer.counter("puts_total", "PUT requests", ("device", "policy")).labels("d1", "p").inc()
    newer.counter("fresh_total", "New").labels().inc()
    text = format_prometheus(merge_snapshots([filled().snapshot(), newer.snapshot()]))
    assert 'puts_total{device="d1"} 3\n' in text and "get_seconds_count 4\n" in text and "fresh_total 1\n" in text


def test_a_gauge_may_ask_its_source_when_it_is_read():
    registry = Registry()
    registry.gauge("depth", "Queue depth").labels().source = [1, 2, 3].__len__
    assert "depth 3\n" in format_prometheus(registry.snapshot())


def test_what_is_gone_is_forgotten():
    registry = filled()
    registry.counter("puts_total", "PUT requests", ("device",)).forget("d1")
    assert 'device="d1"' not in format_prometheus(registry.snapshot())


def test_values_that_are_no_numbers_are_written_as_prometheus_names_them():
    registry = Registry()
    gauge = registry.gauge("g", "G", ("n",))
    for value in (math.inf, -math.inf, math.nan, 1e300):
        gauge.labels(str(value)).set(value)
    text = format_prometheus(registry.snapshot())
    for line in ('g{n="inf"} +Inf', 'g{n="-inf"} -Inf', 'g{n="nan"} NaN', 'g{n="1e+300"} 1e+300'):
        assert line in text


def test_the_same_name_is_the_same_family_and_a_different_use_of_it_is_a_bug():
    registry = filled()
    assert registry.counter("puts_total", "x", ("device",)).labels("d1").value == 3
    with pytest.raises(AssertionError):
        registry.counter("puts_total", "x", ("policy",))
