"""ring-builder: the verbs, arguments and exit codes that operators know."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.ring_builder import main
from common.errors import RingError
from ring.builderfile import load_builder
from ring.device import RingDevice
from ring.ringfile import load_ring
from ring.search import find_devices, parse_change, parse_new_device, parse_search


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
    ["set_weight", "d1", "-5"], ["fly"], ["set_overload", "-1"], ["validate"], ["write_ring"], ["--port"],
    ["set_info", "d1"], ["set_info", "d1", "10.0.0.3:6200/sda"], ["set_info", "d1", ":0"], ["set_info", "d1", "+"],
    ["set_info", "d9", ":1"], ["set_info", "d1", "", "d2"], ["set_zone", "d1", "x"],
    ["set_zone", "d1", "-1"], ["set_region", "2"], ["write_builder"],
    ["analyze"]])
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


def rows(path: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    found = shown(path, capsys)["devices"]
    assert isinstance(found, list)
    return found


def test_set_info_changes_what_is_given_and_nothing_else(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([path, "rebalance", "--seed", "1"]) == 0
    before = rows(path, capsys)
    assert main([path, "set_info", "d0", "10.0.0.9:6201/sdz_rack two", "z2", ":6300"]) == 0
    assert main([path, "set_info", "--zone", "3", "--change-ip", "fe80::1", "--change-meta", "", "--change-node", "n3"]) == 0
    after = rows(path, capsys)
    assert after == [{**before[0], "ip": "10.0.0.9", "port": 6201, "device": "sdz", "meta": "rack two"},
                     {**before[1], "port": 6300}, {**before[2], "ip": "fe80::1", "node": "n3"}]
    assert main([path, "rebalance"]) == 1                                  # nothing moves by a new address
    assert main([path, "write_ring"]) == 0
    ring = load_ring(path.replace(".builder", ".ring.gz"))
    assert ring.version == 2 and ring.devices[0] is not None and ring.devices[0].ip == "10.0.0.9"


def test_a_mistake_in_the_second_pair_changes_nothing(path: str) -> None:
    before = Path(path).read_bytes()
    assert main([path, "set_info", "d0", "10.0.0.9", "d1", "10.0.0.3:6200/sda"]) == 2
    assert main([path, "set_zone", "d0", "7", "d99", "8"]) == 2
    assert Path(path).read_bytes() == before


def test_zones_and_regions_move_and_replicas_follow(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([path, "add", *(text for n in (4, 5, 6) for text in (f"z1-10.0.0.{n}:6200/sda", "100"))]) == 0
    assert main([path, "set_zone", "d3", "2", "d4", "3"]) == 0
    assert main([path, "set_region", "--zone", "3", "9"]) == 0
    assert [(d["region"], d["zone"]) for d in rows(path, capsys)] == [(1, 1), (1, 2), (9, 3), (1, 2), (9, 3), (1, 1)]
    assert main([path, "rebalance", "--seed", "1"]) == 0
    assert shown(path, capsys)["dispersion"] == 0.0


@pytest.mark.parametrize("replicas", ["3", "2.25"])
def test_a_lost_builder_is_made_again_from_its_ring(path: str, replicas: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([path, "set_replicas", replicas]) == 0
    assert main([path, "add", "z1-10.0.0.4:6200/sda", "50"]) == 0
    assert main([path, "rebalance", "--seed", "1"]) == 0
    assert main([path, "remove", "d1"]) == 0
    assert main([path, "add", "z2-10.0.0.5:6200/sda", "100"]) == 0
    assert main([path, "rebalance", "--seed", "1", "--force"]) in (0, 1)
    ring_file = path.replace(".builder", ".ring.gz")
    assert main([ring_file, "write_builder"]) == 2                         # the builder is still there
    before, ring = rows(path, capsys), load_ring(ring_file)
    Path(path).unlink()
    assert main([ring_file, "write_builder", "7"]) == 0
    after = shown(path, capsys)
    assert (after["devices"], after["min_part_hours"], after["replicas"]) == (before, 7, float(replicas))
    assert after["ring_version"] == ring.version
    assert main([path, "write_ring"]) == 0
    assert load_ring(ring_file).rows == ring.rows and load_ring(ring_file).version == ring.version
    Path(path).unlink()
    assert main([path, "write_builder"]) == 0                              # named by the builder that shall be


def test_a_builder_of_a_ring_that_swift_wrote_goes_on_from_it(tmp_path: Path) -> None:
    golden = Path(__file__).parents[2] / "golden" / "ring" / "swift.ring.gz"
    copy = tmp_path / "object.ring.gz"
    copy.write_bytes(golden.read_bytes())
    swift = load_ring(copy)
    assert main([str(copy), "write_builder"]) == 0
    builder = load_builder(tmp_path / "object.builder")
    assert builder.ring().rows == swift.rows and builder.ring().devices == swift.devices
    assert main([str(tmp_path / "object.builder"), "add", "r1z1-10.9.9.9:6200/new", "100"]) == 0
    assert main([str(tmp_path / "object.builder"), "rebalance", "--seed", "1"]) in (0, 1)
    assert load_ring(copy).version > swift.version


SCENARIO = {"part_power": 8, "replicas": 3, "overload": 0.0, "random_seed": 7, "rounds": [
    [["add", f"r1z{n % 3}-10.0.0.{n}:6200/sda", 100] for n in range(6)], [["set_weight", 0, 50]], [["remove", 1]]]}


def test_analyze_tells_what_each_round_moves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = tmp_path / "s.json"
    saved = ["save", str(tmp_path / "after.builder")]
    scenario.write_text(json.dumps({**SCENARIO, "rounds": [*SCENARIO["rounds"], [saved]]}))          # type: ignore[misc]
    assert main([str(scenario), "analyze", "--json"]) == 0
    passes = json.loads(capsys.readouterr().out)
    assert [step["moved"] for step in passes if step["round"] == 1] == [768]
    assert 0 < passes[1]["moved"] < 100 and next(step["removed"] for step in passes if step["round"] == 3) == 1
    assert [step["moved"] for step in passes if step["round"] == 4] == [0]
    assert len(load_builder(tmp_path / "after.builder").devices) == 5
    assert main([str(scenario), "analyze"]) == 0
    assert "round pass" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"part_power": 8, "replicas": 3, "rounds": [[["fly"]]]}',
                                  '{"part_power": 8, "replicas": 3, "rounds": [[["add", "x", 1]]]}',
                                  '{"part_power": 8, "replicas": 3, "rounds": 7}',
                                  '{"part_power": 99, "replicas": 3, "rounds": []}'])
def test_what_is_no_scenario_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(text)
    assert main([str(tmp_path / "s.json"), "analyze"]) == 2


def test_changes_are_written_as_in_swift() -> None:
    assert parse_change("10.0.0.2:6201R10.1.0.2:6202/sdb_rack") == {"ip": "10.0.0.2", "port": 6201, "device": "sdb", "meta": "rack"}
    assert parse_change("[fe80::1]") == {"ip": "fe80::1"} and parse_change(":6201") == {"port": 6201}
    assert parse_change("/sdb") == {"device": "sdb"} and parse_change("_") == {"meta": ""}
    for text in ("", "+", "r1z1-10.0.0.1", "z2-10.0.0.1:6200"):
        with pytest.raises(RingError):
            parse_change(text)
