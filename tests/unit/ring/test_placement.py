"""From name to devices: the same answers as Swift, fast tuples, sensible handoffs."""
from __future__ import annotations

import json
from array import array
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import RingError
from ring.builder import RingBuilder
from ring.device import RingDevice
from ring.placement import HashPath, Ring
from ring.ringfile import load_ring

GOLDEN = Path(__file__).parents[2] / "golden" / "ring"


def device(number: int, *, region: int = 1, zone: int = 1, ip: str = "10.0.0.1", weight: float = 100.0) -> RingDevice:
    return RingDevice(id=number, region=region, zone=zone, ip=ip, port=6200 + number, device=f"sd{number}", weight=weight)


def built(devices: list[RingDevice], *, replicas: float = 3, part_power: int = 8) -> Ring:
    builder = RingBuilder(part_power, replicas, 1)
    for one in devices:
        builder.add_dev(one)
    builder.rebalance(seed=1, now_s=1000)
    return builder.ring()


def test_a_ring_that_swift_wrote_places_every_partition_and_name_as_swift_does() -> None:
    expected = json.loads((GOLDEN / "swift.json").read_text())
    ring = load_ring(GOLDEN / "swift.ring.gz")
    hash_path = HashPath(expected["prefix"].encode(), expected["suffix"].encode())
    assert (ring.part_power, ring.replica_count, ring.version) == (8, expected["replicas"], expected["version"])
    assert [[d.id for d in ring.primaries(p)] for p in range(256)] == expected["primaries"]
    for account, container, obj, partition, name_hash in expected["names"]:
        digest = hash_path(account, container, obj)
        assert digest.hex() == name_hash
        assert ring.partition(digest) == partition


def test_primaries_are_the_same_tuple_each_time() -> None:
    ring = built([device(i) for i in range(4)])
    assert ring.primaries(5) is ring.primaries(5)
    assert len(set(ring.primaries(5))) == 3


def test_handoffs_are_all_other_devices_each_once_in_an_order_that_never_changes() -> None:
    devices = [device(i, region=1 + i % 2, zone=i % 3, ip=f"10.0.0.{i // 2}") for i in range(12)]
    ring, again = built(devices), built(devices)
    for partition in range(0, 256, 17):
        order = list(ring.handoffs(partition))
        assert order == list(again.handoffs(partition))
        assert {d.id for d in order} | {d.id for d in ring.primaries(partition)} == set(range(12))
        assert len(order) == 9


def test_the_first_handoff_is_in_a_region_then_zone_then_node_that_holds_nothing_yet() -> None:
    far = [device(i, zone=i, ip=f"10.0.0.{i}") for i in range(3)] + [device(3, region=2, zone=9, ip="10.9.0.1", weight=1.0)]
    ring = built([*far, device(4, zone=7, ip="10.0.0.7", weight=1.0)])
    for partition in range(256):
        ids = {d.id for d in ring.primaries(partition)}
        first = next(iter(ring.handoffs(partition)))
        assert first.region == 2 or 3 in ids
    one_zone = built([device(i, ip=f"10.0.0.{i // 3}") for i in range(12)])
    for partition in range(256):
        nodes = {d.ip for d in one_zone.primaries(partition)}
        assert next(iter(one_zone.handoffs(partition))).ip not in nodes


def test_fractional_replicas_give_some_partitions_one_more() -> None:
    ring = built([device(i) for i in range(5)], replicas=2.25)
    assert ring.replica_count == 2.25
    assert [len(ring.primaries(p)) for p in range(256)] == [3] * 64 + [2] * 192


@pytest.mark.parametrize(("rows", "devices"), [
    ([array("H", [0, 1])], [device(0)]),                                # an unknown device
    ([array("H", [0, 0])], [None]),
    ([array("H", [0])], [device(0)]),                                   # whole rows are 2 long; a short last one too
    ([array("H", [0, 0, 0])], [device(0)]),
    ([], [device(0)]),
    ([array("H", [0, 0])], [replace(device(0), id=1)]),
])
def test_a_table_that_does_not_fit_its_devices_is_refused(rows: list[array[int]], devices: list[RingDevice | None]) -> None:
    if rows and len(rows[0]) == 1:
        rows = [rows[0], array("H", [0, 0])]
    with pytest.raises(RingError):
        Ring(part_power=1, version=1, devices=devices, rows=rows)
