"""The builder: balance, dispersion, few moves, min_part_hours, fractional replicas, its file."""
from __future__ import annotations

import numpy as np
import pytest

from common.errors import Corruption, RingError
from ring.builder import RebalancePlan, RingBuilder
from ring.builderfile import decode_builder, encode_builder
from ring.device import RingDevice
from ring.mover import NONE

DAY = 86_400


def device(zone: int, number: int, *, weight: float = 100.0, region: int = 1) -> RingDevice:
    return RingDevice(id=0, region=region, zone=zone, ip=f"10.{region}.{zone}.{number // 5}", port=6200 + number,
                      device=f"sd{number}", weight=weight)


def make(zones: int, per_zone: int, *, part_power: int = 12, replicas: float = 3, hours: int = 1) -> RingBuilder:
    builder = RingBuilder(part_power, replicas, hours)
    for zone in range(zones):
        for number in range(per_zone):
            builder.add_dev(device(zone, number))
    builder.rebalance(seed=1, now_s=DAY)
    builder.validate()
    return builder


def least_moves(before: np.ndarray, builder: RingBuilder) -> int:
    after = builder.parts_of()
    before = np.pad(before, (0, len(after) - len(before)))
    return int(np.maximum(after - before, 0).sum())


def most_lost(before: np.ndarray, builder: RingBuilder) -> int:
    return int((before != builder.state.table).sum(axis=0).max())


@pytest.mark.parametrize("zones", [1, 2, 3, 4, 5, 10])
def test_a_first_ring_is_balanced_and_dispersed(zones: int) -> None:
    builder = make(zones, 10)
    parts = builder.parts_of()
    assert parts.max() - parts.min() <= 1
    if zones > 1:
        assert builder.dispersion() == 0.0


@pytest.mark.parametrize("zones", [1, 2, 3, 4, 10])
def test_one_device_added_to_a_zone_of_25_moves_the_minimum_in_one_pass_and_ends_balanced(zones: int) -> None:
    builder = make(zones, 25, part_power=16)
    table, parts = builder.state.table.copy(), builder.parts_of()
    builder.add_dev(device(0, 25))
    plan = builder.rebalance(seed=2, now_s=2 * DAY)
    builder.validate()
    assert plan.moved_replicas <= 1.05 * least_moves(parts, builder)
    assert plan.moved_replicas <= 1.05 * 3 * 2**16 / (25 * zones + 1)
    assert builder.balance() < 1.0
    assert most_lost(table, builder) == 1


def test_a_removed_device_gives_away_its_partitions_and_nothing_else_moves() -> None:
    builder = make(5, 10)
    table, held = builder.state.table.copy(), int(builder.parts_of()[7])
    builder.remove_dev(7)
    plan = builder.rebalance(seed=2, now_s=2 * DAY)
    builder.validate()
    assert plan.moved_replicas <= 1.05 * held
    assert builder.state.devices[7] is None and not (builder.state.table == 7).any()
    assert ((table != builder.state.table).sum(axis=0) <= 1).all()


def test_the_id_of_a_removed_device_is_given_again() -> None:
    builder = make(3, 2)
    builder.remove_dev(2)
    builder.rebalance(seed=2, now_s=2 * DAY)
    assert builder.add_dev(device(9, 9)) == 2


def test_a_third_zone_gets_a_replica_of_each_partition_with_one_move_each() -> None:
    builder = make(2, 5)
    for number in range(5):
        builder.add_dev(device(2, number))
    table = builder.state.table.copy()
    builder.rebalance(seed=2, now_s=2 * DAY)
    assert most_lost(table, builder) == 1
    assert builder.dispersion() == 0.0
    builder.rebalance(seed=3, now_s=3 * DAY)
    assert builder.balance() < 1.0


def test_min_part_hours_holds_partitions_that_moved_and_only_those() -> None:
    builder = make(5, 5, hours=10)
    builder.add_dev(device(0, 90))
    builder.rebalance(seed=2, now_s=2 * DAY)
    moved = builder.state.last_move_s == 2 * DAY
    assert moved.any()
    table = builder.state.table.copy()
    for zone in range(5):
        builder.add_dev(device(zone, 91))
    builder.rebalance(seed=3, now_s=2 * DAY + 9 * 3600)
    changed = (table != builder.state.table).any(axis=0)
    assert changed.any() and not (changed & moved).any()
    builder.add_dev(device(0, 93, weight=1000.0))
    plan = builder.rebalance(seed=4, now_s=4 * DAY)
    assert plan.held_partitions == 0


def test_a_removed_device_is_emptied_also_from_partitions_that_are_held() -> None:
    builder = make(5, 5, hours=1000)
    builder.remove_dev(0)
    builder.rebalance(seed=2, now_s=2 * DAY)
    builder.remove_dev(1)
    builder.rebalance(seed=3, now_s=2 * DAY + 1)
    builder.validate()
    assert not np.isin(builder.state.table, [0, 1]).any()


def test_weights_decide() -> None:
    builder = make(4, 5)
    builder.set_dev_weight(0, 50.0)
    builder.set_dev_weight(1, 0.0)
    builder.rebalance(seed=2, now_s=2 * DAY)
    parts = builder.parts_of()
    assert parts[1] == 0
    assert abs(parts[0] / parts[2] - 0.5) < 0.02


def test_no_device_holds_a_partition_twice_however_heavy_it_is() -> None:
    builder = RingBuilder(8, 3, 0)
    for number, weight in enumerate([10_000.0, 1.0, 1.0, 1.0]):
        builder.add_dev(device(number, number, weight=weight))
    builder.rebalance(seed=1, now_s=DAY)
    builder.validate()
    assert builder.parts_of()[0] == 256


def test_overload_trades_balance_for_dispersion() -> None:
    builder = RingBuilder(10, 3, 0)
    for number in range(4):
        builder.add_dev(device(min(number, 2), number))                 # zones of 1, 1, 2 devices
    builder.rebalance(seed=1, now_s=DAY)
    assert builder.balance() < 0.2 and builder.dispersion() > 40
    builder.set_overload(0.1)
    builder.rebalance(seed=1, now_s=2 * DAY)
    assert 9 < builder.balance() < 11
    assert builder.dispersion() < 40
    builder.set_overload(1.0)
    builder.rebalance(seed=1, now_s=3 * DAY)
    builder.rebalance(seed=1, now_s=4 * DAY)
    assert builder.dispersion() < 1.0
    assert builder.overload_needed() == pytest.approx(1 / 3)


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 2), (3, 3.5), (3.5, 3), (2.25, 2.75), (1, 4)])
def test_the_replica_count_may_change(before: float, after: float) -> None:
    builder = make(4, 4, replicas=before, part_power=8)
    builder.set_replicas(after)
    builder.rebalance(seed=2, now_s=2 * DAY)
    builder.validate()
    assert builder.ring().replica_count == after
    assert builder.balance() < 3.0 and builder.dispersion() == 0.0


def test_fractional_replicas_spread_also_in_the_shorter_partitions() -> None:
    builder = make(3, 5, replicas=3.5)
    zones = np.array([d.zone for d in builder.devices])
    whole = builder.state.table[:3, 2**11:]
    assert (np.sort(zones[whole], axis=0) == np.array([[0], [1], [2]])).all()


def test_a_plan_is_what_the_rebalance_does_and_changes_nothing() -> None:
    builder = make(4, 5)
    builder.add_dev(device(0, 50))
    before = encode_builder(builder)
    plan = builder.plan_rebalance(seed=5, now_s=2 * DAY, bytes_per_partition=1000)
    assert encode_builder(builder) == before
    done: RebalancePlan = builder.rebalance(seed=5, now_s=2 * DAY, bytes_per_partition=1000)
    assert plan == done
    assert plan.moved_bytes == sum(m.bytes for m in plan.moves) == 1000 * sum(m.count for m in plan.moves)
    assert {m.target for m in plan.moves} == {20} and plan.peak_device_bytes == plan.moved_bytes
    assert plan.lowest_replicas == 2


def test_the_ring_version_grows_with_what_the_ring_says() -> None:
    builder = make(3, 3)
    assert (builder.ring().version, builder.ring().version) == (1, 1)
    builder.rebalance(seed=9, now_s=2 * DAY)
    assert builder.ring().version == 1
    builder.set_dev_info(0, ip="10.8.8.8")
    assert builder.ring().version == 2
    builder.add_dev(device(0, 40))
    assert builder.ring().version == 3                                  # the device table shows it, though without partitions
    builder.rebalance(seed=9, now_s=3 * DAY)
    assert builder.ring().version == 4


@pytest.mark.parametrize("arguments", [(0, 3, 1), (25, 3, 1), (8, 0.5, 1), (8, 17, 1), (8, 3, -1)])
def test_impossible_figures_are_refused(arguments: tuple[int, float, int]) -> None:
    with pytest.raises(RingError):
        RingBuilder(*arguments)


def test_impossible_changes_are_refused() -> None:
    builder = make(3, 1)
    for change in (lambda: builder.add_dev(device(0, 0)), lambda: builder.add_dev(device(0, 7, weight=-1.0)),
                   lambda: builder.set_dev_weight(0, float("nan")), lambda: builder.set_dev_weight(99, 1.0),
                   lambda: builder.remove_dev(99), lambda: builder.set_overload(-1.0), lambda: builder.set_replicas(99.0)):
        with pytest.raises(RingError):
            change()
    builder.remove_dev(0)
    with pytest.raises(RingError, match="as many devices"):
        builder.rebalance(seed=1, now_s=2 * DAY)
    with pytest.raises(RingError):
        RingBuilder(4, 1, 1).ring()


def test_validate_finds_a_table_that_is_wrong() -> None:
    for spoil in (NONE, 77):
        builder = make(3, 2, part_power=6)
        builder.state.table[1, 3] = spoil
        with pytest.raises(RingError):
            builder.validate()
    builder.state.table[1, 3] = builder.state.table[0, 3]
    with pytest.raises(RingError, match="two replicas"):
        builder.validate()


def test_the_builder_file_keeps_everything_and_notices_damage() -> None:
    builder = make(3, 3, part_power=6, replicas=2.5)
    builder.add_dev(device(1, 30))
    builder.rebalance(seed=2, now_s=2 * DAY)
    builder.remove_dev(1)
    data = encode_builder(builder)
    again = decode_builder(data)
    assert encode_builder(again) == data
    assert again.state.removed == {1} and (again.state.last_move_s == builder.state.last_move_s).all()
    for at in range(0, len(data), 5):
        with pytest.raises((Corruption, RingError)):
            decode_builder(data[:at] + bytes([data[at] ^ 1]) + data[at + 1:])
        with pytest.raises((Corruption, RingError)):
            decode_builder(data[:at])
