"""What `holdfast status` prints."""
from __future__ import annotations

import json

import pytest

from cli.status import DOWN, format_bytes, format_duration, format_status, format_table, status

FACTS = {
    "node": "n1", "cluster": "c1", "is_healthy": False, "uptime_s": 3700.5, "version": "9", "state": "/s",
    "urls": {"swift": "http://h:1/v1", "auth": "http://h:1/auth/v1.0"},
    "findings": [{"level": "error", "text": "device d2 is full", "advice": "delete objects"}],
    "workers": [{"worker": 0, "pid": 17, "is_ready": True, "restarts": 2, "uptime_s": 61, "connections": 3, "requests": 900},
                {"worker": 1, "pid": None, "is_ready": False, "restarts": 9, "uptime_s": 0}],
    "devices": [{"name": "d1", "worker": 0, "state": "ok", "fill": 0.421, "free_bytes": 3 << 30, "segments": 4, "live_bytes": 2048,
                 "pending_updates": 5, "path": "/s/devices/d1"},
                {"name": "d2", "worker": 1, "state": "unknown", "fill": None, "path": "/s/devices/d2"}],
}


def test_everything_an_operator_asks_for_is_in_it():
    lines = format_status(FACTS).splitlines()
    assert "needs attention" in lines[0] and "1h 1m" in lines[0]
    assert lines[2:4] == ["!! device d2 is full", "   delete objects"]
    rows = {line.split()[0]: line.split() for line in lines[4:] if line}
    assert rows["0"] == ["0", "17", "1m", "1s", "2", "3", "900"] and rows["1"] == ["1", "-", "down", "9", "-", "-"]
    assert " ".join(rows["d1"]) == "d1 0 ok 42.1% 3.0 GiB 2.0 KiB, segment 4 5 /s/devices/d1"
    assert " ".join(rows["d2"]) == "d2 1 unknown - - - - /s/devices/d2"


def test_columns_are_as_wide_as_their_widest_cell():
    assert format_table(("A", "BB"), [("longer", "x")]) == "A       BB\nlonger  x\n"


@pytest.mark.parametrize(("count", "text"), [
    (None, "-"), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 20, "5.0 MiB"), (3 << 50, "3072.0 TiB"),
])
def test_bytes_have_a_readable_unit(count, text):
    assert format_bytes(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (59.9, "59s"), (60, "1m 0s"), (3_660, "1h 1m"), (90_000, "1d 1h")])
def test_durations_have_two_units(seconds, text):
    assert format_duration(seconds) == text


def test_where_nothing_runs_the_exit_code_says_down(tmp_path, capsys):
    assert status(["--data", str(tmp_path)]) == DOWN
    assert f"holdfast up --data {tmp_path}" in capsys.readouterr().err


def test_programs_are_told_the_same_as_json(tmp_path, capsys):
    assert status(["--data", str(tmp_path), "--json"]) == DOWN
    told = json.loads(capsys.readouterr().out)
    assert told["is_healthy"] is False and told["standing"] == "down"
