"""Logs: what a line looks like, and what never gets into one."""
from __future__ import annotations

import json
import os

import pytest

from common.clock import ManualClock
from common.log import DEBUG, ERROR, INFO, WARNING, Logger, Repeats, Sink, get_logger, is_secret_field


class Lines:
    """A logger over a file, and what it wrote."""

    def __init__(self, path, **given):
        self.clock = ManualClock()
        self.sink = Sink(clock=self.clock, **given)
        self.path = path
        self.sink.open(path)
        self.log = Logger("a.b", self.sink)

    @property
    def text(self) -> str:
        return self.path.read_text()


@pytest.fixture
def lines(tmp_path):
    return Lines(tmp_path / "log")


def test_a_line_is_time_level_logger_event_then_key_value(lines):
    lines.log.info("replica pushed", partition=1207, device="d3", ms=18.25, ok=True, peer=None)
    assert lines.text == "2023-11-14T22:13:20.000000Z info a.b replica pushed partition=1207 device=d3 ms=18.25 ok=True peer=None\n"


def test_a_value_can_not_forge_a_line_or_a_field(lines):
    lines.log.info("put", path="/a/c/x\n2023 error forged level=error", empty="", quote='a"b', unicode="grüße",
                   line="a\u2028b", control="\x1b[2J")
    assert lines.text.count("\n") == 1
    assert r'path="/a/c/x\n2023 error forged level=error"' in lines.text
    assert 'empty="" quote="a\\"b" unicode=grüße' in lines.text
    assert "\x1b" not in lines.text and "\u2028" not in lines.text


def test_json_lines_hold_the_same_facts(tmp_path):
    lines = Lines(tmp_path / "log", is_json=True)
    lines.log.warning("slow", ms=3.5, path="a b", token="t0p", raw=b"\xff")
    assert json.loads(lines.text) == {"time": "2023-11-14T22:13:20.000000Z", "level": "warning", "logger": "a.b", "event": "slow",
                                      "ms": 3.5, "path": "a b", "token": "(hidden)", "raw": "\\xff"}


def test_a_level_below_the_sinks_is_not_written(lines):
    for level in (DEBUG, INFO, WARNING, ERROR):
        lines.sink.level = level
        lines.log.debug("d")
        lines.log.info("i")
        lines.log.warning("w")
        lines.log.error("e")
    assert [line.split()[-1] for line in lines.text.splitlines()] == list("diweiwewee")


@pytest.mark.parametrize("is_json", [False, True])
@pytest.mark.parametrize("fields", [
    {"token": "hunter2"}, {"auth_token": "hunter2"}, {"X-Auth-Key": "hunter2"}, {"password": "hunter2"}, {"secret": b"hunter2"},
    {"url": "/v1/a?temp_url_sig=hunter2&x=1"}, {"headers": "X-Auth-Token: hunter2"}, {"url": "/b?X-Amz-Signature=hunter2"},
    {"exc": ValueError("bad token=hunter2")}, {"reason": "Authorization token: Bearer hunter2"},
])
def test_secrets_never_get_into_a_line(tmp_path, fields, is_json):
    lines = Lines(tmp_path / "log", is_json=is_json)
    lines.log.error("x", **fields)
    assert lines.text and "hunter2" not in lines.text


@pytest.mark.parametrize("name", ["key_file", "token_count", "device", "keyboard", "key_hash", "partition"])
def test_harmless_fields_stay_readable(name):
    assert not is_secret_field(name)


def test_an_exception_brings_its_traceback_in_lines_that_are_told_apart(lines):
    try:
        raise ValueError("what\nnow")
    except ValueError as error:
        lines.log.error("failed", exc=error, device="d1")
    first, *rest = lines.text.splitlines()
    assert first.endswith("error a.b failed exc=ValueError device=d1")
    assert rest and all(line.startswith("  | ") for line in rest)


def test_a_value_that_cannot_be_printed_and_a_full_disk_stop_nothing(lines):
    class Bad:
        def __str__(self):
            raise RuntimeError
    lines.log.info("x", bad=Bad())
    lines.sink.fd = os.open("/dev/full", os.O_WRONLY)
    lines.log.info("y")
    os.close(lines.sink.fd)
    assert lines.sink.lost_count == 2


def test_an_endless_value_is_cut(lines):
    lines.log.info("x", name="n" * 1_000_000)
    assert len(lines.text) < 3_000 and "(1000000 characters)" in lines.text


def test_bound_fields_come_with_each_event(lines):
    lines.log.bind(request="tx1").info("done", status=200)
    assert lines.text.endswith("done request=tx1 status=200\n")


def test_after_rotation_lines_go_to_a_new_file(lines):
    lines.log.info("one")
    lines.path.rename(lines.path.with_suffix(".1"))
    lines.sink.reopen()
    lines.log.info("two")
    assert "two" in lines.text and "one" not in lines.text


def test_repeated_events_are_counted_instead_of_written(lines):
    repeats = Repeats(lines.log, interval_s=10, clock=lines.clock)
    for _ in range(5):
        repeats.warning("peer gone", about="n2")
    repeats.warning("peer gone", about="n3")
    lines.clock.advance(11_000_000)
    repeats.warning("peer gone", about="n2", reason="refused")
    assert [line.split("a.b ")[1] for line in lines.text.splitlines()] == [
        "peer gone about=n2", "peer gone about=n3", "peer gone about=n2 reason=refused repeated=4"]


def test_the_memory_of_repeated_events_is_bounded(lines):
    repeats = Repeats(lines.log, clock=lines.clock)
    for number in range(5_000):
        repeats.warning("x", about=number)
    assert len(repeats._seen) <= 1_024


def test_a_modules_logger_follows_a_later_configuration(tmp_path, monkeypatch):
    from common import log as module

    monkeypatch.setattr(module, "_adopt_standard_logging", lambda: None)
    sink = module._SINK
    before = (sink.fd, sink.path, sink.level, sink.is_json)
    logger = get_logger("early")
    try:
        module.configure_logging(module.LogConfig(level="debug", file=str(tmp_path / "log")))
        logger.debug("seen")
        assert "debug early seen" in (tmp_path / "log").read_text()
    finally:
        os.close(sink.fd)
        sink.fd, sink.path, sink.level, sink.is_json = before
