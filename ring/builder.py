"""The ring builder: devices in, a table of partitions out, with as few moves as possible between two versions.

Arithmetic of shares: ring/targets.py. A first table: ring/deal.py. Every later one: ring/mover.py. On disk:
ring/builderfile.py. Times are seconds since 1970, passed in.
"""
from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from common.errors import RingError
from ring.deal import deal
from ring.device import RingDevice
from ring.mover import NONE, Mover
from ring.placement import NO_DEVICE, Ring
from ring.targets import (
    Bools,
    Floats,
    Ints,
    Tiers,
    caps_of,
    dispersed_shares,
    overload_needed,
    round_quotas,
    share_out,
    target_shares,
    tiers_of,
    weighted_shares,
)

NEVER = 0                                # last_move_s of a partition that has not moved since it was first placed
PART_POWER_MAX = 24
REPLICAS_MAX = 16.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """`count` partition replicas go from a device to another; `source` is None for replicas that had no device."""

    source: int | None
    target: int
    count: int
    bytes: int = 0                       # count times the bytes per partition replica, if that was given


@dataclass(frozen=True, slots=True, kw_only=True)
class RebalancePlan:
    """What a rebalance would do, or did."""

    moves: tuple[Move, ...]
    moved_replicas: int
    moved_bytes: int
    peak_device_bytes: int               # the most that one device receives
    lowest_replicas: int                 # fewest settled replicas of a partition while the moves run
    held_partitions: int                 # might have lost a replica but for min_part_hours
    balance_before: float
    balance_after: float
    dispersion_before: float
    dispersion_after: float


@dataclass(slots=True, kw_only=True)
class BuilderState:
    """What the builder file holds. table: (replicas, partitions) ids or NONE; last_move_s: per partition."""

    part_power: int
    replicas: float
    min_part_hours: int
    overload: float
    version: int                         # of the builder: grows with every change
    ring_version: int                    # of the newest ring that was made; 0: none yet
    is_changed: bool                     # devices or table differ from what ring_version was made of
    devices: list[RingDevice | None]
    removed: set[int]                    # leave at the next rebalance
    table: Ints
    last_move_s: Ints
    last_rebalance_s: int = 0


class RingBuilder:
    """A ring in the making. Every change is in memory until the caller saves it."""

    def __init__(self, part_power: int, replicas: float, min_part_hours: int) -> None:
        """Raises `RingError` for figures outside of 1 <= part_power <= 24, 1 <= replicas <= 16, 0 <= hours."""
        if not 1 <= part_power <= PART_POWER_MAX:
            raise RingError(reason=f"part power must be 1 to {PART_POWER_MAX}, not {part_power}")
        if min_part_hours < 0:
            raise RingError(reason=f"min_part_hours must not be negative, as {min_part_hours} is")
        _check_replicas(replicas)
        parts = 1 << part_power
        self.state = BuilderState(
            part_power=part_power, replicas=replicas, min_part_hours=min_part_hours, overload=0.0, version=0,
            ring_version=0, is_changed=False, devices=[], removed=set(),
            table=np.full((int(np.ceil(replicas)), parts), NONE, dtype=np.int64),
            last_move_s=np.full(parts, NEVER, dtype=np.int64))

    @classmethod
    def from_state(cls, state: BuilderState) -> RingBuilder:
        """A builder that goes on from `state`."""
        builder = cls.__new__(cls)
        builder.state = state
        return builder

    @classmethod
    def from_ring(cls, ring: Ring, *, min_part_hours: int) -> RingBuilder:
        """A builder for a ring whose own is lost. When partitions moved is unknown, and so is the overload: 0 until it is set.

        The version that the next change makes is above the ring's. Raises `RingError` for figures that a builder cannot have.
        """
        builder = cls(ring.part_power, ring.replica_count, min_part_hours)
        state = builder.state
        for row, ids in zip(state.table, ring.rows, strict=True):
            row[:len(ids)] = np.frombuffer(ids, dtype=np.uint16)
        state.devices = list(ring.devices)
        state.version = state.ring_version = max(ring.version, 1)      # other tools may write none
        builder.validate()
        return builder

    @property
    def partition_count(self) -> int:
        """2^part_power."""
        return 1 << self.state.part_power

    @property
    def devices(self) -> tuple[RingDevice, ...]:
        """The devices that are there, also those to be removed."""
        return tuple(d for d in self.state.devices if d is not None)

    def device(self, device_id: int) -> RingDevice:
        """Raises `RingError`."""
        found = self.state.devices[device_id] if 0 <= device_id < len(self.state.devices) else None
        if found is None:
            raise RingError(reason=f"there is no device d{device_id}")
        return found

    # changes: they take effect with the next rebalance

    def add_dev(self, device: RingDevice) -> int:
        """Add `device` under the first free id (its own `id` is not looked at). Returns the id. Raises `RingError`."""
        if not 0 <= device.weight < float("inf"):
            raise RingError(reason=f"weight must be 0 or more, not {device.weight}")
        place = (device.ip, device.port, device.device)
        for other in self.devices:
            if (other.ip, other.port, other.device) == place and other.id not in self.state.removed:
                raise RingError(reason=f"{other} is this device already")
        devices = self.state.devices
        free = next((i for i, d in enumerate(devices) if d is None), len(devices))
        if free >= NO_DEVICE:
            raise RingError(reason="a ring holds 65535 devices at most")
        if free == len(devices):
            devices.append(None)
        devices[free] = replace(device, id=free)
        self.state.is_changed = True
        self._touch()
        return free

    def remove_dev(self, device_id: int) -> None:
        """Take all partitions from it at the next rebalance, whatever min_part_hours says. Raises `RingError`."""
        device = self.device(device_id)
        self.state.devices[device_id] = replace(device, weight=0.0)
        self.state.removed.add(device_id)
        self.state.is_changed = True
        self._touch()

    def set_dev_weight(self, device_id: int, weight: float) -> None:
        """0 drains the device in steps of min_part_hours. Raises `RingError`."""
        if device_id in self.state.removed:
            raise RingError(reason=f"d{device_id} is to be removed: its weight stays 0")
        if not 0 <= weight < float("inf"):
            raise RingError(reason=f"weight must be 0 or more, not {weight}")
        self.state.devices[device_id] = replace(self.device(device_id), weight=float(weight))
        self.state.is_changed = True
        self._touch()

    def set_dev_info(self, device_id: int, **changes: str | int) -> None:
        """Change region, zone, ip, port, device, meta or node of a device. Raises `RingError`."""
        changed = replace(self.device(device_id), **changes)  # type: ignore[arg-type]
        if not 0 < changed.port < 65536:
            raise RingError(reason=f"port {changed.port} is out of range")
        place = (changed.ip, changed.port, changed.device)
        for other in self.devices:
            if (other.ip, other.port, other.device) == place and other.id not in (device_id, *self.state.removed):
                raise RingError(reason=f"{other} is at this place already")
        self.state.devices[device_id] = changed
        self.state.is_changed = True
        self._touch()

    def set_overload(self, overload: float) -> None:
        """How much more than its weight's share a device may take for better dispersion: 0.1 is 10 %. Raises `RingError`."""
        if not 0 <= overload < float("inf"):
            raise RingError(reason=f"overload must be 0 or more, not {overload}")
        self.state.overload = overload
        self._touch()

    def set_min_part_hours(self, hours: int) -> None:
        """The least time between two moves of one partition. Raises `RingError`."""
        if hours < 0:
            raise RingError(reason=f"min_part_hours must not be negative, as {hours} is")
        self.state.min_part_hours = hours
        self._touch()

    def set_replicas(self, replicas: float) -> None:
        """Replicas that are too many leave at the next rebalance, new ones are placed by it. Raises `RingError`."""
        _check_replicas(replicas)
        self.state.replicas = replicas
        self._touch()

    def pretend_min_part_hours_passed(self) -> None:
        """Let every partition move again. Only safe when replication has caught up."""
        self.state.last_move_s[:] = NEVER
        self._touch()

    # rebalance

    def plan_rebalance(self, *, seed: int, now_s: int, bytes_per_partition: int = 0) -> RebalancePlan:
        """What `rebalance` with the same arguments would do; changes nothing. Raises `RingError`."""
        return self._plan(self._next_table(seed, now_s), now_s, bytes_per_partition)

    def rebalance(self, *, seed: int, now_s: int, bytes_per_partition: int = 0) -> RebalancePlan:
        """Assign partitions to devices by weight; the same seed, time and state give the same table.

        Raises `RingError` if there are fewer devices with weight than replicas.
        """
        state = self.state
        table = self._next_table(seed, now_s)
        plan = self._plan(table, now_s, bytes_per_partition)
        lost = self._losses(table)
        state.last_move_s[lost > 0] = now_s
        is_same = state.table.shape == table.shape and bool((state.table == table).all())
        state.is_changed |= bool(state.removed) or not is_same
        for device_id in state.removed:
            state.devices[device_id] = None
        state.removed.clear()
        state.table, state.last_rebalance_s = table, now_s
        self._touch()
        return plan

    def _next_table(self, seed: int, now_s: int) -> Ints:
        state, rng = self.state, np.random.default_rng(seed)
        tiers = tiers_of(state.devices)
        live = int((tiers.weight > 0).sum())
        if live < state.replicas:
            raise RingError(reason=f"{state.replicas:g} replicas need as many devices with a weight, there are {live}")
        exists, classes = self._exists(), self._classes()
        table = self._grown_table(exists)
        shares = [target_shares(tiers, n, state.overload) for n in self._class_replicas()]
        if (table == NONE).all():
            for number, share in enumerate(shares):
                self._deal_class(table, np.flatnonzero(classes == number), number=number, share=share, tiers=tiers, rng=rng)
            return table
        table[np.isin(table, list(state.removed))] = NONE
        have = np.bincount(table[exists & (table != NONE)], minlength=len(state.devices))
        sizes = np.bincount(classes, minlength=len(shares))
        wanted: Floats = sum((size * share for size, share in zip(sizes, shares)), np.zeros(len(state.devices)))
        quotas = round_quotas(tiers, wanted, have, int(exists.sum()))
        caps = [np.stack(level) for level in zip(*(caps_of(tiers, share) for share in shares))]
        mover = Mover(table, exists=exists, tiers=tiers, quotas=quotas, caps=caps, partition_class=classes,
                      frozen=self._frozen(now_s), rng=rng)
        mover.run()
        return table

    def _deal_class(self, table: Ints, parts: Ints, *, number: int, share: Floats, tiers: Tiers,
                    rng: np.random.Generator) -> None:
        replicas = int(np.floor(self.state.replicas)) + number
        nobody = np.zeros(len(share), dtype=np.int64)
        quotas = round_quotas(tiers, share * len(parts), nobody, replicas * len(parts))
        if len(parts):
            table[:replicas, parts] = deal(tiers, quotas, parts=len(parts), replicas=replicas, rng=rng)

    def _class_replicas(self) -> list[int]:
        """Partitions come with floor(replicas) or one more: the replicas of each of the two classes."""
        whole = int(np.floor(self.state.replicas))
        return [whole] if whole == self.state.replicas else [whole, whole + 1]

    def _classes(self) -> Ints:
        whole = int(np.floor(self.state.replicas))
        longer = round((self.state.replicas - whole) * self.partition_count)
        return (np.arange(self.partition_count) < longer).astype(np.int64)

    def _exists(self) -> Bools:
        """Which places (replica, partition) are replicas; the last row is short with fractional replicas."""
        whole = int(np.floor(self.state.replicas))
        rows = np.arange(int(np.ceil(self.state.replicas)))[:, None]
        return np.asarray(rows < whole + self._classes()[None, :])

    def _grown_table(self, exists: Bools) -> Ints:
        """A copy of the table in the shape that `replicas` asks for; what is too much is cut, what is new is NONE."""
        old = self.state.table
        table = np.full(exists.shape, NONE, dtype=np.int64)
        rows = min(len(old), len(table))
        table[:rows] = old[:rows]
        table[~exists] = NONE
        return table

    def _frozen(self, now_s: int) -> Bools:
        last, hold_s = self.state.last_move_s, self.state.min_part_hours * 3600
        return np.asarray((last != NEVER) & (now_s - last < hold_s))

    # figures

    def parts_of(self) -> Ints:
        """Partition replicas on each device, by id."""
        return self._count(self.state.table)

    def balance(self) -> float:
        """The worst device's distance from its weight's share, in percent; 999.99 for parts on weight 0."""
        return self._balance_of(self.state.table)

    def device_balances(self) -> Floats:
        """Distance of each device from its weight's share in percent, by id; NaN for places without a device."""
        return self._balances(self.state.table)

    def dispersion(self) -> float:
        """Percent of partitions with more replicas in some tier than the best spread would put there."""
        return self._dispersion_of(self.state.table)

    def dispersion_by_tier(self) -> dict[str, tuple[int, int, tuple[int, ...]]]:
        """Per tier name: partitions crowded there, most replicas a partition should have, partitions by replica count."""
        tiers = tiers_of(self.state.devices)
        caps = self._best_caps(tiers)
        report: dict[str, tuple[int, int, tuple[int, ...]]] = {}
        for level, of in enumerate(tiers.of):
            here = of[self.state.table]
            for tier, key in enumerate(tiers.keys[level]):
                count = (here == tier).sum(axis=0)
                over = int((count > caps[level][self._classes(), tier]).sum())
                histogram = np.bincount(count, minlength=len(self.state.table) + 1)
                report[key] = (over, int(caps[level][-1, tier]), tuple(histogram.tolist()))
        return report

    def overload_needed(self) -> float:
        """The overload at which dispersion would be complete."""
        tiers = tiers_of(self.state.devices)
        if (tiers.weight > 0).sum() < self.state.replicas:
            return 0.0
        return max(overload_needed(weighted_shares(tiers, n), dispersed_shares(tiers, n))
                   for n in self._class_replicas())

    def validate(self) -> None:
        """Raises `RingError` unless every replica has a device that exists, each partition on different ones."""
        table, exists = self.state.table, self._exists()
        if table.shape != exists.shape or (table[exists] == NONE).any():
            raise RingError(reason="some replicas have no device: rebalance first")
        absent = [i for i, d in enumerate(self.state.devices) if d is None]
        if table.max() >= len(self.state.devices) or np.isin(table[exists], absent).any():
            raise RingError(reason="the table names a device that does not exist")
        ordered = np.sort(table, axis=0)
        twice = ((ordered[1:] == ordered[:-1]) & (ordered[1:] != NONE)).any(axis=0)
        if twice.any():
            raise RingError(reason=f"{int(twice.sum())} partitions have two replicas on one device")

    def ring(self) -> Ring:
        """The ring as it now is; its version grows when it differs from the one before. Raises `RingError`."""
        state = self.state
        if (state.table == NONE).all():
            raise RingError(reason="nothing is assigned yet: rebalance first")
        if state.is_changed:
            state.ring_version += 1
            state.is_changed = False
        lengths = (state.table != NONE).sum(axis=1)
        rows = [array("H", row[:size].astype(np.uint16).tobytes()) for row, size in zip(state.table, lengths) if size]
        return Ring(part_power=state.part_power, version=state.ring_version, devices=state.devices, rows=rows)

    def _touch(self) -> None:
        self.state.version += 1

    def _count(self, table: Ints) -> Ints:
        return np.bincount(table[table != NONE], minlength=len(self.state.devices))

    def _balances(self, table: Ints) -> Floats:
        weight = tiers_of(self.state.devices).weight
        have = self._count(table).astype(np.float64)
        wanted = _fair_parts(weight, float((table != NONE).sum()), float(table.shape[1]))
        balances = np.zeros(len(weight))
        live = wanted > 0
        balances[live] = 100.0 * have[live] / wanted[live] - 100.0
        balances[~live & (have > 0)] = 999.99
        balances[[i for i, d in enumerate(self.state.devices) if d is None]] = np.nan
        return balances

    def _balance_of(self, table: Ints) -> float:
        if (table == NONE).all():
            return 0.0 if not self.devices else 100.0
        return float(np.nanmax(np.abs(self._balances(table)), initial=0.0))

    def _best_caps(self, tiers: Tiers) -> list[Ints]:
        classes = [caps_of(tiers, dispersed_shares(tiers, n)) for n in self._class_replicas()]
        return [np.stack(level) for level in zip(*classes)]

    def _dispersion_of(self, table: Ints) -> float:
        tiers = tiers_of(self.state.devices)
        if (tiers.weight > 0).sum() < self.state.replicas or table.shape != self._exists().shape:
            return 0.0
        mover = Mover(table, exists=self._exists() & (table != NONE), tiers=tiers,
                      quotas=np.zeros(len(tiers.weight), dtype=np.int64), caps=self._best_caps(tiers),
                      partition_class=self._classes(), frozen=np.zeros(self.partition_count, dtype=np.bool_),
                      rng=np.random.default_rng(0))
        return 100.0 * float(mover.crowded_partitions().mean())

    def _losses(self, table: Ints) -> NDArray[np.int64]:
        """Per partition how many of its replicas leave a device for another one."""
        rows = min(len(table), len(self.state.table))
        old, new = self.state.table[:rows], table[:rows]
        return np.asarray(((old != new) & (old != NONE) & (new != NONE)).sum(axis=0))

    def _plan(self, table: Ints, now_s: int, bytes_per_partition: int) -> RebalancePlan:
        before = self._grown_table(self._exists())
        rows, parts = np.nonzero(before != table)
        pairs, counts = np.unique(np.stack([before[rows, parts], table[rows, parts]]), axis=1, return_counts=True)
        moves = tuple(Move(source=None if a == NONE else int(a), target=int(b), count=int(n),
                           bytes=int(n) * bytes_per_partition) for (a, b), n in zip(pairs.T, counts))
        received = np.bincount(table[rows, parts], minlength=1)
        settled = ((before == table) & (table != NONE)).sum(axis=0)
        return RebalancePlan(
            moves=moves, moved_replicas=len(rows), moved_bytes=len(rows) * bytes_per_partition,
            peak_device_bytes=int(received.max(initial=0)) * bytes_per_partition,
            lowest_replicas=int(settled.min()), held_partitions=int(self._frozen(now_s).sum()),
            balance_before=self.balance(), balance_after=self._balance_of(table),
            dispersion_before=self.dispersion(), dispersion_after=self._dispersion_of(table))


def add_devices(builder: RingBuilder, devices: Iterable[RingDevice]) -> list[int]:
    """Add all of them; their ids."""
    return [builder.add_dev(device) for device in devices]


def _fair_parts(weight: Floats, replicas: float, parts: float) -> Floats:
    """Replicas that each device should have by weight, none more than one of every partition."""
    high = np.where(weight > 0, parts, 0.0)
    return share_out(min(replicas, float(high.sum())), weight, np.zeros_like(weight), high)


def _check_replicas(replicas: float) -> None:
    if not 1 <= replicas <= REPLICAS_MAX:
        raise RingError(reason=f"replicas must be 1 to {REPLICAS_MAX:g}, not {replicas:g}")
