"""From a name to the devices that hold it. On the path of every request; imports no numpy, so that workers stay small.

Budget: `partition` and `primaries` together under 1 us; the tuple of a partition is made once. Source of the name hash:
Swift's hash_path (md5 of prefix, "/account/container/object", suffix), so that its tools agree on every placement.
"""
from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import md5

from common.errors import RingError
from ring.device import RingDevice as RingDevice  # noqa: PLC0414 - callers find it beside Ring

NO_DEVICE = 0xFFFF                       # in a row of the table: nobody holds this replica


def hash_path(account: str, container: str | None = None, obj: str | None = None, *,
              prefix: bytes, suffix: bytes) -> bytes:
    """16 bytes that place an account, a container or an object. An object needs its container."""
    assert obj is None or container is not None
    path = f"/{account}"
    if container is not None:
        path += f"/{container}"
        if obj is not None:
            path += f"/{obj}"
    return md5(prefix + path.encode() + suffix, usedforsecurity=False).digest()


@dataclass(frozen=True, slots=True)
class HashPath:
    """`hash_path` with the cluster's secret prefix and suffix bound; both decide placement and never change."""

    prefix: bytes
    suffix: bytes

    def __call__(self, account: str, container: str | None = None, obj: str | None = None) -> bytes:
        return hash_path(account, container, obj, prefix=self.prefix, suffix=self.suffix)


class Ring:
    """One version of a ring. Immutable, but for the tuples it remembers.

    rows: one array('H') of device ids per replica, 2^part_power long; the last may be shorter (fractional replicas).
    former: partition in transition -> its primaries before this version (ring/membership.py).
    """

    __slots__ = ("_assigned", "_primaries", "_shift", "devices", "former", "part_power", "replica_count", "rows",
                 "version")

    def __init__(self, *, part_power: int, version: int, devices: Sequence[RingDevice | None],
                 rows: Sequence[array[int]], former: Mapping[int, tuple[RingDevice, ...]] | None = None) -> None:
        """Raises `RingError` for a table that names an unknown device or has rows of a wrong length."""
        self.part_power = part_power
        self.version = version
        self.devices: tuple[RingDevice | None, ...] = tuple(devices)
        self.rows = tuple(rows)
        self.former = dict(former or {})
        self._shift = 32 - part_power
        self._primaries: list[tuple[RingDevice, ...] | None] = [None] * self.partition_count
        self._check()
        short = len(self.rows[-1]) / self.partition_count
        self.replica_count: float = float(len(self.rows)) if short == 1 else len(self.rows) - 1 + short

    @property
    def partition_count(self) -> int:
        """2^part_power."""
        return 1 << self.part_power

    def partition(self, name_hash: bytes) -> int:
        """The partition of a name: the first part_power bits of its hash."""
        return int.from_bytes(name_hash[:4], "big") >> self._shift

    def primaries(self, partition: int) -> tuple[RingDevice, ...]:
        """The devices that hold `partition`, in replica order, each once."""
        found = self._primaries[partition]
        if found is None:
            found = self._primaries[partition] = self._find_primaries(partition)
        return found

    def handoffs(self, partition: int) -> Iterator[RingDevice]:
        """Every other device with partitions, best stand-in first: of an unused region, then zone, then node, then any.

        Walks the table from a point that `partition` decides, so that devices come up by weight; the same in every
        process that has this ring. The first of them usually costs a few steps.
        """
        used = set(self.primaries(partition))
        start = int.from_bytes(md5(b"handoff %d" % partition, usedforsecurity=False).digest()[:4], "big")
        for tier_of in (_region, _zone, _node, _device):
            used_tiers = {tier_of(device) for device in used}
            open_tiers = {tier_of(device) for device in self._assigned} - used_tiers
            for device in self._walk(start) if open_tiers else ():
                tier = tier_of(device)
                if tier in open_tiers:
                    open_tiers.discard(tier)
                    used.add(device)
                    yield device
                    if not open_tiers:
                        break

    def _walk(self, start: int) -> Iterator[RingDevice]:
        count = self.partition_count
        for step in range(count):
            yield from self.primaries((start + step) % count)

    def _find_primaries(self, partition: int) -> tuple[RingDevice, ...]:
        ids = dict.fromkeys(row[partition] for row in self.rows if partition < len(row))
        return tuple(device for i in ids if i != NO_DEVICE and (device := self.devices[i]) is not None)

    def _check(self) -> None:
        if not 0 <= self.part_power <= 32 or not self.rows:
            raise RingError(reason=f"a ring with part power {self.part_power} and {len(self.rows)} replicas")
        for index, row in enumerate(self.rows):
            is_last = index == len(self.rows) - 1
            if len(row) != self.partition_count and not (is_last and 0 < len(row) < self.partition_count):
                raise RingError(reason=f"replica {index} has {len(row)} of {self.partition_count} partitions")
        named = set().union(*self.rows) - {NO_DEVICE}
        unknown = [i for i in named if i >= len(self.devices) or self.devices[i] is None]
        if unknown:
            raise RingError(reason=f"the table names unknown devices {sorted(unknown)[:5]}")
        if any(device is not None and device.id != i for i, device in enumerate(self.devices)):
            raise RingError(reason="a device whose id is not its place in the table")
        self._assigned = tuple(d for i in sorted(named) if (d := self.devices[i]) is not None)


def _region(device: RingDevice) -> object:
    return device.region


def _zone(device: RingDevice) -> object:
    return device.region, device.zone


def _node(device: RingDevice) -> object:
    return device.region, device.zone, device.failure_unit


def _device(device: RingDevice) -> object:
    return device.id
