"""ring-builder: the verbs, arguments and exit codes that operators know."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.ring_builder import main
from common.errors import RingError
from ring.device import RingDevice
from ring.ringfile import load_ring
from ring.search import find_devices, parse_new_device, parse_search


@pytest.fixture
def path(tmp_path: Path) -> str:
    name = str(tmp_path / "object.builder")
    assert main([name, "create", "8", "3", "1"]) == 0
    assert main([name, "add", "r1z1-10.0.0.1:6200/sda_rack one", "100", "z2-10.0.0.2:6200/sda", "100"]) == 0
    assert main([name, "add", "--zone", "3", "--ip", "10.0.0.3", "--port", "6200", "--device", "sda", "--weight", "100"]) == 0
    return name


def shown(path: str, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    assert main([path, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_create_add_rebalance_makes_a_ring_file(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([path, "rebalance", "--seed", "1"]) == 0
    ring = load_ring(path.replace(".builder", ".ring.gz"))
    assert (ring.version, ring.part_power, [d.zone for d in ring.devices if d]) == (1, 8, [1, 2, 3])
    assert shown(path, capsys)["balance"] == 0.0
    assert main([path, "validate"]) == 0


def test_nothing_to_move_is_a_warning_and_a_dry_run_changes_no_file(path: str) -> None:
    before = Path(path).read_bytes()
    assert main([path, "rebalance", "--dry-run"]) == 0
    assert Path(path).read_bytes() == before and not Path(path.replace(".builder", ".ring.gz")).exists()
    assert main([path, "rebalance"]) == 0
    assert main([path, "rebalance"]) == 1


def test_weights_removal_and_search(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([path, "add", "z1-10.0.0.1:6200/sdb", "100", "z2-10.0.0.2:6200/sdb", "100"]) == 0
    assert main([path, "rebalance", "--seed", "1"]) == 0
    assert main([path, "set_weight", "d3", "50", "/sdb", "60"]) == 0
    assert main([path, "remove", "z1-10.0.0.1:6200/sda"]) == 0
    devices = shown(path, capsys)["devices"]
    assert isinstance(devices, list)
    assert [(d["weight"], d["flags"]) for d in devices] == [
        (0.0, "DEL"), (100.0, ""), (100.0, ""), (60.0, ""), (60.0, "")]
    assert main([path, "rebalance", "--seed", "2"]) in (0, 1)
    assert main([path, "search", "d0"]) == 2
    assert load_ring(path.replace(".builder", ".ring.gz")).devices[0] is None


@pytest.mark.parametrize("arguments", [
    ["create", "8", "3", "1"], ["create"], ["add", "r1z1-10.0.0.9:6200/sda"], ["add", "nonsense", "1"], ["add", "--zone", "1"],
    ["add", "z1-10.0.0.1:6200/sda", "1"], ["remove"], ["remove", "d99"], ["remove", "+"], ["set_weight", "d1", "x"],
    ["set_weight", "d1", "-5"], ["fly"], ["set_overload", "-1"], ["validate"], ["write_ring"], ["--port"]])
def test_mistakes_are_errors_and_change_nothing(path: str, arguments: list[str]) -> None:
    before = Path(path).read_bytes()
    assert main([path, *arguments]) == 2
    assert Path(path).read_bytes() == before


def test_a_file_that_is_absent_or_foreign_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.builder").write_bytes(b"\x80\x03pickle")
    assert main([str(tmp_path / "x.builder")]) == main([str(tmp_path / "none.builder")]) == 2
    assert "no builder file" in capsys.readouterr().err


def test_search_values_mean_what_they_mean_in_swift() -> None:
    devices = [
        RingDevice(id=74, region=1, zone=2, ip="1.2.3.4", port=5678, device="sdb1", weight=1.0, meta="snet: 5.6.7.8"),
        RingDevice(id=1, region=2, zone=1, ip="host-1.example", port=6200, device="sda", weight=1.0),
        RingDevice(id=2, region=2, zone=2, ip="fe80::1", port=6200, device="sda", weight=1.0)]
    for text, ids in {
        "d74": [74], "r2": [1, 2], "z2": [2, 74], "1.2.3.4": [74], "-1.2.3.4": [74], ":6200": [1, 2], "/sda": [1, 2],
        "_snet": [74], 'r1z2-1.2.3.4:5678/sdb1_"snet: 5.6.7.8"': [74], "z1-host-1.example:6200": [1], "[fe80::1]": [2],
        "r2z2-[fe80::1]:6200/sda": [2], "d74r2": [], "host-1.example": [1], "d1r2z1": [1], "1.2.3.4R5.6.7.8:9/sdb1": [74],
    }.items():
        assert [d.id for d in find_devices(devices, parse_search(text))] == ids, text
    for text in ("", "+", "d74 r2"):
        with pytest.raises(RingError):
            parse_search(text)


def test_new_devices_are_written_as_in_swift() -> None:
    made = parse_new_device('r3z4-[::1]:6200R10.0.0.1:6300/sdx_"big disk"', 12.5)
    assert made == RingDevice(id=0, region=3, zone=4, ip="::1", port=6200, device="sdx", weight=12.5, meta="big disk")
    assert parse_new_device("z4-10.0.0.1:6200/sdx", 1.0).region == 1
    for text in ("r1-10.0.0.1:6200/sdx", "z1-10.0.0.1/sdx", "z1-10.0.0.1:0/sdx", "z1-10.0.0.1:6200/"):
        with pytest.raises(RingError):
            parse_new_device(text, 1.0)
