"""Whatever the devices and changes are: a valid table, exact where it can be, spread as far as weights allow."""
from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ring.builder import RingBuilder
from ring.deal import deal
from ring.device import RingDevice
from ring.targets import caps_of, round_quotas, share_out, target_shares, tiers_of

PLACES = st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(0, 3), st.sampled_from([0.5, 1.0, 1.0, 1.0, 3.0]))


def devices(places: list[tuple[int, int, int, float]]) -> list[RingDevice]:
    return [RingDevice(id=i, region=r, zone=z, ip=f"10.{r}.{z}.{n}", port=6200 + i, device=f"sd{i}", weight=w)
            for i, (r, z, n, w) in enumerate(places)]


@settings(max_examples=60, deadline=None)
@given(st.lists(PLACES, min_size=4, max_size=20), st.integers(1, 4), st.integers(0, 9), st.sampled_from([0.0, 0.1, 9.0]),
       st.integers(0, 2**32))
def test_a_dealt_ring_gives_each_device_its_quota_and_crowds_no_tier(
        places: list[tuple[int, int, int, float]], replicas: int, power: int, overload: float, seed: int) -> None:
    tiers, parts = tiers_of(devices(places)), 1 << power
    shares = target_shares(tiers, replicas, overload)
    assert abs(shares.sum() - replicas) < 1e-6
    quotas = round_quotas(tiers, shares * parts, np.zeros(len(places), dtype=np.int64), replicas * parts)
    table = deal(tiers, quotas, parts=parts, replicas=replicas, rng=np.random.default_rng(seed))
    assert (np.bincount(table.ravel(), minlength=len(places)) == quotas).all()
    assert (np.abs(quotas - shares * parts) < 1.001).all()
    for of, caps in zip(tiers.of, caps_of(tiers, shares)):
        for tier, cap in enumerate(caps):
            assert (of[table] == tier).sum(axis=0).max() <= cap


@settings(max_examples=40, deadline=None)
@given(st.lists(PLACES, min_size=8, max_size=16), st.sampled_from([1.0, 2.0, 2.5, 3.0]),
       st.lists(st.tuples(st.sampled_from(["add", "remove", "weight", "replicas"]), st.integers(0, 99)), max_size=5))
def test_any_history_leaves_a_valid_ring(places: list[tuple[int, int, int, float]], replicas: float,
                                         changes: list[tuple[str, int]]) -> None:
    builder = RingBuilder(7, replicas, 1)
    for device in devices(places):
        builder.add_dev(device)
    builder.rebalance(seed=1, now_s=100_000)
    builder.validate()
    for step, (change, number) in enumerate(changes):
        change_one(builder, change, number)
        before = builder.state.table.copy()
        removed = set(builder.state.removed)
        builder.rebalance(seed=step, now_s=200_000 * (step + 2))
        builder.validate()
        table = builder.state.table
        if table.shape == before.shape and change != "replicas":
            moved = ((before != table) & ~np.isin(before, list(removed))).sum(axis=0)
            assert moved.max() <= 1


def change_one(builder: RingBuilder, change: str, number: int) -> None:
    live = builder.devices
    device = live[number % len(live)]
    if change == "add":
        builder.add_dev(RingDevice(id=0, region=1, zone=number % 5, ip=f"10.9.0.{number}", port=7000 + len(live),
                                   device=f"new{builder.state.version}", weight=1.0))
    elif change == "remove" and len([d for d in live if d.weight > 0]) > 5:
        builder.remove_dev(device.id)
    elif change == "weight":
        builder.set_dev_weight(device.id, [0.5, 1.0, 2.0][number % 3])
    elif change == "replicas":
        builder.set_replicas([1.0, 1.5, 2.0, 3.0, 3.25][number % 5])


@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0, 1), st.floats(0, 3)), min_size=1, max_size=12), st.floats(0, 1))
def test_shares_stay_in_their_bounds_and_sum_up(rows: list[tuple[float, float, float]], part: float) -> None:
    weight, low, room = (np.array(column) for column in zip(*rows))
    high = low + room
    total = float(low.sum() + part * (high.sum() - low.sum()))
    shares = share_out(total, weight, low, high)
    assert abs(shares.sum() - total) < 1e-6
    assert (shares >= low - 1e-9).all() and (shares <= high + 1e-9).all()
