"""Tables, notes and documents."""
from __future__ import annotations

import dataclasses
import json

from bench.compare import summarize
from bench.job import OpResult
from bench.report import format_comparison, format_notes, format_results, format_table, make_compare_document, make_document
from bench.session import Measured

GET = OpResult(method="GET", issued=9, count=800, errors=0, bytes=3_276_800, rate=800, p50_ms=1.0, p99_ms=2.0, max_ms=3.5)
PUT = dataclasses.replace(GET, method="PUT", count=200, p50_ms=4.0)
GOOD = Measured(workload="mixed4k:16", size_bytes=4096, connections=16, rate=1000, mb_per_s=4.096, p50_ms=1.0, p99_ms=2.0,
                max_ms=3.5, elapsed_s=1.0, errors=0, error_text="", checks=40, failed_checks=(), cpu_us_per_op=85.25,
                server_cores=0.85, client_cpu_us_per_op=15, other_cores=0.05,
                rss_bytes_max=200_000_000, pss_bytes=150_000_000, ops=(GET, PUT))
AWAY = dataclasses.replace(GOOD, workload="get4k:1", cpu_us_per_op=None, server_cores=None, other_cores=None, rss_bytes_max=None,
                           pss_bytes=None, ops=(GET,))
BAD = dataclasses.replace(GOOD, errors=3, error_text="3 answers 503")
WRONG = dataclasses.replace(GOOD, failed_checks=("/c/o: answered 404", *["x"] * 9))


def with_figures(rate, cpu):
    return dataclasses.replace(GOOD, rate=rate, cpu_us_per_op=cpu)


def test_a_table_has_its_figures_below_their_heads():
    assert format_table([("name", "n"), ("a", "100"), ("bcdef", "1")]) == "name     n\na      100\nbcdef    1\n"


def test_a_row_per_workload_and_one_per_method_of_a_mix():
    lines = format_results([GOOD, AWAY]).splitlines()
    assert [line.split()[0] for line in lines] == ["workload", "mixed4k:16", "GET", "PUT", "get4k:1"]
    assert lines[1].split() == ["mixed4k:16", "1000", "4.10", "1.00", "2.00", "3.5", "0", "40", "85.2", "0.85", "200", "150",
                                "0.05"]


def test_what_is_not_known_is_a_dash():
    assert format_results([AWAY]).splitlines()[1].split()[-5:] == ["-"] * 5


def test_errors_failed_checks_strangers_and_a_slow_client_are_said():
    noisy = dataclasses.replace(GOOD, other_cores=1.2)
    text = format_notes([BAD, WRONG, noisy], ["cleaning up: no"], "client-bound")
    assert "note: client-bound\n" in text
    assert "3 of 1003 failed: 3 answers 503" in text
    assert "/c/o: answered 404" in text and "and 5 more" in text
    assert "error: cleaning up: no" in text
    assert "0.2 cores during mixed4k:16" in text


def test_good_figures_need_no_note():
    assert format_notes([GOOD, AWAY], [], None) == ""


def test_figures_with_errors_failed_checks_or_no_operation_are_not_good():
    empty = dataclasses.replace(GOOD, ops=(dataclasses.replace(GET, count=0),))
    assert [one.is_good for one in (GOOD, AWAY, BAD, WRONG, empty)] == [True, True, False, False, False]


def test_the_document_is_json_and_knows_whether_all_was_good():
    def make(results, problems=()):
        made = make_document(results, generator="c", warning=None, options={}, problems=problems)
        return json.loads(json.dumps(made))["is_good"]

    assert make([GOOD, AWAY])
    assert not make([GOOD, BAD])
    assert not make([GOOD], ["no"])


def test_a_comparison_is_the_median_of_the_ratios_of_pairs_not_the_ratio_of_medians():
    pairs = [(with_figures(100.0, 50.0), with_figures(200.0, 25.0)), (with_figures(1000.0, 60.0), with_figures(1100.0, 60.0)),
             (with_figures(10.0, 70.0), with_figures(5.0, 140.0))]
    row = summarize("put4k:64", pairs)
    assert (row.rate.median, row.cpu.median) == (1.1, 1.0)
    assert (row.rates, row.cpu_us_per_op) == ((100.0, 200.0), (60.0, 60.0))
    assert "1.100 ~" in format_comparison([row])
    assert row.is_good


def test_one_failed_window_spoils_a_comparison():
    row = summarize("put4k:64", [(GOOD, GOOD), (GOOD, BAD)])
    made = make_compare_document([row], commits=("a", "b"), generator="c", warning=None, options={}, problems=[])
    assert json.loads(json.dumps(made))["is_good"] is False
    assert format_comparison([row]).splitlines()[1].split()[-2:] == ["2", "3"]


def test_a_comparison_without_cpu_has_dashes_for_it():
    assert " - " in format_comparison([summarize("get4k:1", [(AWAY, AWAY)])])
