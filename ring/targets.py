"""How much of every partition belongs to each region, zone, node and device: the pure arithmetic of the builder.

The unit is replicas per partition: a device with 0.25 holds a quarter of all partitions, a zone with 1.0 holds one
replica of each. A tier may hold at most the next integer of one partition (its cap): that is what spreads replicas.
All arrays are indexed by device id or by tier number within a level.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ring.device import RingDevice

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LEVELS = ("region", "zone", "node", "device")
_EPSILON = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiers:
    """The tree of failure domains. of[level][device id]: its tier; the last element (index -1) is "no device": -1.

    parent[level][tier]: its tier one level up (0, the root, for regions). keys: names for reports.
    """

    of: tuple[Ints, ...]
    parent: tuple[Ints, ...]
    keys: tuple[tuple[str, ...], ...]
    weight: Floats                       # by device id; 0 for places without a device

    def sums(self, by_device: NDArray[Any]) -> list[NDArray[Any]]:
        """A figure per device id, summed up for each level."""
        present = self.of[3][:-1] >= 0
        return [np.bincount(of[:-1][present], weights=by_device[present], minlength=len(parent))
                for of, parent in zip(self.of, self.parent)]


def tiers_of(devices: Sequence[RingDevice | None]) -> Tiers:
    """The tree over all devices of the table, also those with weight 0."""
    of = [np.full(len(devices) + 1, -1, dtype=np.int64) for _ in LEVELS]
    numbers: list[dict[str, int]] = [{} for _ in LEVELS]
    parents: list[list[int]] = [[] for _ in LEVELS]
    for device in devices:
        if device is None:
            continue
        region, zone = f"r{device.region}", f"r{device.region}z{device.zone}"
        node = f"{zone}-{device.failure_unit}"
        above = 0
        for level, key in enumerate((region, zone, node, f"{node}/{device.device}#{device.id}")):
            if key not in numbers[level]:
                numbers[level][key] = len(numbers[level])
                parents[level].append(above)
            above = numbers[level][key]
            of[level][device.id] = above
    weight = np.array([0.0 if d is None else d.weight for d in devices], dtype=np.float64)
    return Tiers(of=tuple(of), parent=tuple(np.array(p, dtype=np.int64) for p in parents),
                 keys=tuple(tuple(n) for n in numbers), weight=weight)


def share_out(total: float, weight: Floats, low: Floats, high: Floats) -> Floats:
    """Split `total` by weight within [low, high] each: clip(x * weight, low, high) with the x that makes the sum fit.

    Exact at its bounds. Needs sum(low) <= total <= sum(high); weightless shares stay at `low`.
    """
    live = weight > 0
    shares = np.array(low, dtype=np.float64)
    if not live.any():
        return shares
    w, lo, hi = weight[live], low[live], high[live]
    wanted = total - low[~live].sum()
    edges = np.unique(np.concatenate([lo / w, hi / w]))
    left, right = 0, len(edges) - 1
    while right - left > 1:                                  # the sum grows with x and is linear between two edges
        middle = (left + right) // 2
        if np.clip(edges[middle] * w, lo, hi).sum() <= wanted:
            left = middle
        else:
            right = middle
    at_left, at_right = (np.clip(edges[i] * w, lo, hi) for i in (left, right))
    gap = at_right.sum() - at_left.sum()
    part = min(1.0, max(0.0, (wanted - at_left.sum()) / gap)) if gap > 0 else 0.0
    shares[live] = at_left + part * (at_right - at_left)
    return shares


def weighted_shares(tiers: Tiers, replicas: float) -> Floats:
    """Replicas per partition of each device by weight alone, at most 1.0: no device holds a partition twice."""
    zero = np.zeros_like(tiers.weight)
    return share_out(replicas, tiers.weight, zero, np.minimum(1.0, np.where(tiers.weight > 0, 1.0, 0.0)))


def dispersed_shares(tiers: Tiers, replicas: float) -> Floats:
    """The same with the best spread: from the top, siblings differ by less than one replica, weights decide the rest."""
    weights = tiers.sums(tiers.weight)
    rooms = tiers.sums((tiers.weight > 0).astype(np.float64))
    above: Floats = np.array([replicas])
    for level in range(len(LEVELS)):
        mine = np.zeros(len(tiers.parent[level]))
        for tier in np.unique(tiers.parent[level]):
            children = np.flatnonzero(tiers.parent[level] == tier)
            mine[children] = _spread(float(above[tier]), weights[level][children], rooms[level][children])
        above = mine
    by_device = np.zeros_like(tiers.weight)
    present = tiers.of[3][:-1] >= 0
    by_device[present] = above[tiers.of[3][:-1][present]]
    return by_device


def _spread(total: float, weight: Floats, room: Floats) -> Floats:
    count = int((weight > 0).sum())
    if count == 0:
        return np.zeros_like(weight)
    each = total / count
    low = np.minimum(np.floor(each + _EPSILON) * (weight > 0), room)
    bound = max(1.0, np.ceil(each - _EPSILON))
    while np.minimum(bound, room).sum() < total - _EPSILON and bound < room.max():
        bound += 1                                           # some siblings are too small for their equal part
    return share_out(total, weight, low, np.minimum(bound, room))


def target_shares(tiers: Tiers, replicas: float, overload: float) -> Floats:
    """Between the two: as far towards dispersion as no device takes more than (1 + overload) times its weight's share."""
    fair, spread = weighted_shares(tiers, replicas), dispersed_shares(tiers, replicas)
    needed = overload_needed(fair, spread)
    if needed <= _EPSILON:
        return fair
    return fair + min(1.0, overload / needed) * (spread - fair)


def overload_needed(fair: Floats, spread: Floats) -> float:
    """The overload at which dispersion is complete."""
    live = fair > 0
    return float((spread[live] / fair[live]).max() - 1.0) if live.any() else 0.0


def caps_of(tiers: Tiers, shares: Floats) -> list[Ints]:
    """Per level and tier, the most replicas of one partition."""
    return [np.maximum(1, np.ceil(s - _EPSILON)).astype(np.int64) * (s > 0) for s in tiers.sums(shares)]


def round_quotas(tiers: Tiers, wanted: Floats, have: Ints, total: int) -> Ints:
    """Whole partition replicas per device that sum to `total`; every tier, too, gets its share rounded down or up.

    wanted: by device id, fractional. Where there is a choice a tier that has the upper number already keeps it, so that
    rounding moves nothing. From the top, because a zone's quota must be what its devices' quotas add up to.
    """
    above: Ints = np.array([total], dtype=np.int64)
    wants, haves = tiers.sums(wanted), tiers.sums(have.astype(np.float64))
    for level in range(len(LEVELS)):
        parent = tiers.parent[level]
        floor = np.floor(wants[level] + _EPSILON).astype(np.int64)
        fraction = wants[level] - floor
        spare = above - np.bincount(parent, weights=floor, minlength=len(above)).astype(np.int64)
        likes_more = (haves[level] > floor) & (fraction > _EPSILON)
        order = np.lexsort((-fraction, ~likes_more, parent))
        rank = _rank_in_group(parent[order])
        size = np.bincount(parent, minlength=len(above))
        extra = np.zeros_like(floor)
        extra[order] = np.where(rank < spare[parent[order]], 1, 0)
        extra[order] -= np.where(size[parent[order]] - rank <= -spare[parent[order]], 1, 0)
        above = floor + extra
    quotas = np.zeros(len(tiers.weight), dtype=np.int64)
    present = tiers.of[3][:-1] >= 0
    quotas[present] = above[tiers.of[3][:-1][present]]
    return quotas


def _rank_in_group(groups: Ints) -> Ints:
    """0, 1, 2 ... within each run of equal values of a sorted array."""
    starts = np.flatnonzero(np.diff(groups, prepend=groups[:1] - 1)) if len(groups) else np.zeros(0, dtype=np.int64)
    index = np.arange(len(groups))
    return index - np.repeat(starts, np.diff(starts, append=len(groups)))
