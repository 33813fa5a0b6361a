"""How a cluster agrees on its next ring: one small consensus (Paxos) per version, among the nodes of the current one.

A node takes a candidate for version N + 1 only on top of the version N it has itself, compared by hash. A majority that
stored one candidate under one ballot has chosen it; then it is adopted everywhere, by whoever learns of it. Two proposers
that race may both get some nodes: the one that comes later finds the other's candidate in its majority, finishes that one
and plans again. So a version is never two rings, and no crash in between leaves it undecided for ever.

Per node: current.bundle (the adopted ring), candidate.bundle (ballot and ring not known to be adopted), promised.json; all
written atomically and durably before the answer. A bundle holds ring and sidecar: | "HFRG" | meta bytes u32 | meta | .ring.gz |
"""
from __future__ import annotations

import asyncio
import fcntl
import json
import random
import struct
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from common.errors import Conflict, Corruption, QuorumNotMet, RingError, StorageError
from ring.device import RingDevice
from ring.placement import Ring
from ring.ringfile import (
    compress_payload,
    decode_meta,
    decode_ring,
    decompress_payload,
    encode_meta,
    encode_payload,
    meta_of,
    write_atomically,
)

_T = TypeVar("_T")
MAGIC = b"HFRG"
_HEAD = struct.Struct(">4sI")
_ROUNDS_MAX = 8
_PAUSE_S = 0.05


class Ballot(NamedTuple):
    """Order of attempts to decide one version; `proposer`: 64 random bits, so that no two are equal."""

    round: int
    proposer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRing:
    """A ring as nodes keep and exchange it."""

    version: int
    hash: str
    predecessor_hash: str
    bundle: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A ring that some node has stored under a ballot."""

    ballot: Ballot
    ring: StoredRing


class NodeRings(Protocol):
    """The rings of one name on one node. Every answer is durable."""

    async def get_current(self) -> StoredRing | None:
        """The adopted ring; None before the first."""

    async def promise(self, version: int, predecessor_hash: str, ballot: Ballot) -> Candidate | None:
        """Take nothing below `ballot` for `version` any more; answers the candidate that is held.

        Raises `Conflict` with `round` (a higher ballot was promised) or `version` (another predecessor is current).
        """

    async def store_candidate(self, candidate: Candidate) -> bool:
        """Compare and swap: stored if the predecessor is current and no higher ballot was promised."""

    async def adopt(self, ring: StoredRing) -> None:
        """Make a chosen ring current; an older one than the current is ignored."""


# rings and their successors

def pack_ring(ring: Ring, *, predecessor_hash: str, key: bytes | None) -> StoredRing:
    """Ring and signed sidecar in one piece."""
    payload = encode_payload(ring)
    meta = meta_of(ring, payload, predecessor_hash=predecessor_hash)
    text = encode_meta(meta, key=key)
    bundle = _HEAD.pack(MAGIC, len(text)) + text + compress_payload(payload)
    return StoredRing(version=ring.version, hash=meta.ring_hash, predecessor_hash=predecessor_hash, bundle=bundle)


def unpack_ring(bundle: bytes, *, key: bytes | None) -> tuple[StoredRing, Ring]:
    """Inverse of `pack_ring`. Raises `Corruption`, `RingError` (signature)."""
    if len(bundle) < _HEAD.size or bundle[:4] != MAGIC:
        raise Corruption(what="ring bundle", reason="magic")
    size = _HEAD.unpack_from(bundle)[1]
    meta = decode_meta(bundle[_HEAD.size:_HEAD.size + size], key=key)
    ring = decode_ring(decompress_payload(bundle[_HEAD.size + size:]), meta)
    return StoredRing(version=meta.version, hash=meta.ring_hash, predecessor_hash=meta.predecessor_hash,
                      bundle=bundle), ring


def successor(current: Ring | None, planned: Ring) -> Ring:
    """`planned` as the version after `current`: partitions that change hands are in transition, with their former primaries.

    The first version has none: nothing can have been stored before it. Raises `RingError` if a partition that is still
    in transition would move again (its data is not yet where the current ring says), or if the part power differs.
    """
    if current is None:
        return Ring(part_power=planned.part_power, version=1, devices=planned.devices, rows=planned.rows)
    if planned.part_power != current.part_power:
        raise RingError(reason=f"part power {planned.part_power} cannot follow {current.part_power}")
    former: dict[int, tuple[RingDevice, ...]] = dict(current.former)
    for partition in range(current.partition_count):
        before, after = current.primaries(partition), planned.primaries(partition)
        if {_identity(d) for d in before} == {_identity(d) for d in after}:
            continue
        if partition in current.former:
            raise RingError(reason=f"partition {partition} is still in transition: wait for its copy before it moves again")
        former[partition] = before
    if len({d.id for devices in former.values() for d in devices}) != len(
            {_identity(d) for devices in former.values() for d in devices}):
        raise RingError(reason="an id was given to a new device while data of the old one is in transition: wait for it")
    return Ring(part_power=planned.part_power, version=current.version + 1, devices=planned.devices, rows=planned.rows,
                former=former)


def _identity(device: RingDevice) -> tuple[object, ...]:
    """What makes it the same store of data: its id may have been given to another disk, its weight and address may change."""
    return device.id, device.device, device.node or (device.ip, device.port)


def settled(current: Ring, partitions: Collection[int]) -> Ring:
    """The next version, in which `partitions` have left their transition."""
    former = {p: devices for p, devices in current.former.items() if p not in partitions}
    return Ring(part_power=current.part_power, version=current.version + 1, devices=current.devices, rows=current.rows,
                former=former)


# agreement

class RingStore:
    """The versions of one ring on all nodes that decide about it."""

    def __init__(self, nodes: Sequence[NodeRings], *, key: bytes | None, rng: random.Random,
                 pause: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """key: the cluster's, signs what is proposed and checks what is read. pause: waits between rounds."""
        self._nodes, self._key, self._rng, self._pause = tuple(nodes), key, rng, pause
        self._needed = len(self._nodes) // 2 + 1

    async def current(self) -> tuple[StoredRing, Ring] | None:
        """The newest adopted ring that a majority knows of; None if there is none. Raises `QuorumNotMet`."""
        answers = await self._ask([node.get_current() for node in self._nodes])
        known = [stored for stored in answers if stored is not None]
        if not known:
            return None
        return unpack_ring(max(known, key=lambda stored: stored.version).bundle, key=self._key)

    async def propose(self, ring: Ring, *, predecessor: StoredRing | None) -> StoredRing:
        """Have `ring` (made by `successor` or `settled`) adopted. Raises `Conflict` if another one won: plan again.

        Raises `QuorumNotMet` when no majority answers: whether the ring will be adopted is then unknown; propose it again.
        """
        base_version = predecessor.version if predecessor else 0
        if ring.version != base_version + 1:
            raise RingError(reason=f"version {ring.version} cannot follow {base_version}")
        mine = pack_ring(ring, predecessor_hash=predecessor.hash if predecessor else "", key=self._key)
        ballot = Ballot(1, self._rng.getrandbits(64))
        for attempt in range(_ROUNDS_MAX):
            newest = await self._catch_up(predecessor)
            if newest is not None and newest.bundle == mine.bundle:
                return mine                                  # an attempt whose outcome was unknown had succeeded
            if newest is not None:
                raise Conflict(reason="a newer ring is current: plan again", version=newest.version)
            chosen, seen_round = await self._decide(mine, ballot)
            if chosen is not None:
                await self._ask([node.adopt(chosen) for node in self._nodes])
                if chosen.bundle != mine.bundle:
                    raise Conflict(reason="another ring was adopted first: plan again", version=chosen.version)
                return mine
            await self._pause(_PAUSE_S * self._rng.random() * (attempt + 1))
            ballot = Ballot(max(ballot.round, seen_round) + 1, ballot.proposer)
        raise QuorumNotMet(needed=self._needed, answers={}, reason="other proposers were in the way")

    async def _catch_up(self, predecessor: StoredRing | None) -> StoredRing | None:
        """Bring nodes that missed the predecessor up to it; answers a newer ring if some node has adopted one."""
        answers = await self._ask([node.get_current() for node in self._nodes])
        newest = max((stored for stored in answers if stored is not None), key=lambda s: s.version, default=None)
        if newest is not None and newest.version > (predecessor.version if predecessor else 0):
            await self._ask([node.adopt(newest) for node in self._nodes])
            return newest
        if predecessor is not None:
            await self._ask([node.adopt(predecessor) for node in self._nodes])
        return None

    async def _decide(self, mine: StoredRing, ballot: Ballot) -> tuple[StoredRing | None, int]:
        """One round. The chosen ring, or None and the highest round that was in the way."""
        try:
            held = await self._ask([node.promise(mine.version, mine.predecessor_hash, ballot) for node in self._nodes])
        except QuorumNotMet as error:
            if error.fields.get("in_the_way") is None:
                raise
            return None, int(str(error.fields["in_the_way"]))
        candidates = [candidate for candidate in held if candidate is not None]
        ring = max(candidates, key=lambda c: c.ballot).ring if candidates else mine
        stored = await self._ask([node.store_candidate(Candidate(ballot=ballot, ring=ring)) for node in self._nodes])
        return (ring, ballot.round) if sum(stored) >= self._needed else (None, ballot.round)

    async def _ask(self, calls: Sequence[Awaitable[_T]]) -> list[_T]:
        """The answers of those nodes that gave one. Raises `QuorumNotMet` if they are no majority.

        Its `in_the_way` is the highest promised round if `Conflict` answers, not lost nodes, made the majority fail.
        """
        results = await asyncio.gather(*calls, return_exceptions=True)
        answers: list[_T] = []
        failed: dict[str, str] = {}
        rounds: list[int] = []
        for index, result in enumerate(results):
            if isinstance(result, StorageError):
                failed[str(index)] = result.code
                if isinstance(result, Conflict):
                    rounds.append(int(str(result.fields.get("round", 0))))
            elif isinstance(result, BaseException):
                raise result
            else:
                answers.append(result)
        if len(answers) < self._needed:
            is_race = len(answers) + len(rounds) >= self._needed
            raise QuorumNotMet(needed=self._needed, answers=failed, in_the_way=max(rounds) if is_race else None)
        return answers


# one node

class LocalNodeRings:
    """`NodeRings` in a directory of this machine. Several processes may use it: a file lock orders them."""

    def __init__(self, directory: Path, *, key: bytes | None = None) -> None:
        """Makes `directory`. With a key, only rings with its signature are stored or read."""
        self._directory, self._key = directory, key
        directory.mkdir(parents=True, exist_ok=True)

    async def get_current(self) -> StoredRing | None:
        return self._load_current()

    async def promise(self, version: int, predecessor_hash: str, ballot: Ballot) -> Candidate | None:
        with self._locked():
            self._check_predecessor(version, predecessor_hash)
            promised = self._load_promised(version)
            if promised is not None and ballot < promised:
                raise Conflict(reason="a higher ballot was promised", round=promised.round)
            self._save_promised(version, ballot)
            return self._load_candidate(version)

    async def store_candidate(self, candidate: Candidate) -> bool:
        stored, _ring = unpack_ring(candidate.ring.bundle, key=self._key)
        with self._locked():
            try:
                self._check_predecessor(stored.version, stored.predecessor_hash)
            except Conflict:
                return False
            promised = self._load_promised(stored.version)
            if promised is not None and candidate.ballot < promised:
                return False
            self._save_promised(stored.version, candidate.ballot)
            head = struct.pack(">QQ", *candidate.ballot)
            write_atomically(self._directory / "candidate.bundle", head + stored.bundle)
            return True

    async def adopt(self, ring: StoredRing) -> None:
        stored, _ring = unpack_ring(ring.bundle, key=self._key)
        with self._locked():
            current = self._load_current()
            if current is None or stored.version > current.version:
                write_atomically(self._directory / "current.bundle", stored.bundle)

    def _check_predecessor(self, version: int, predecessor_hash: str) -> None:
        current = self._load_current()
        mine = (current.version, current.hash) if current else (0, "")
        if mine != (version - 1, predecessor_hash):
            raise Conflict(reason="another ring is current here", version=mine[0])

    def _load_current(self) -> StoredRing | None:
        data = self._read("current.bundle")
        return None if data is None else unpack_ring(data, key=self._key)[0]

    def _load_candidate(self, version: int) -> Candidate | None:
        data = self._read("candidate.bundle")
        if data is None:
            return None
        if len(data) < 16:
            raise Corruption(what="ring candidate", reason="too short")
        ring = unpack_ring(data[16:], key=self._key)[0]
        return Candidate(ballot=Ballot(*struct.unpack(">QQ", data[:16])), ring=ring) if ring.version == version else None

    def _load_promised(self, version: int) -> Ballot | None:
        data = self._read("promised.json")
        if data is None:
            return None
        try:
            fields = json.loads(data)
            return Ballot(fields["round"], fields["proposer"]) if fields["version"] == version else None
        except (ValueError, KeyError, TypeError) as error:
            raise Corruption(what="ring promise", reason=str(error)) from error

    def _save_promised(self, version: int, ballot: Ballot) -> None:
        text = json.dumps({"version": version, "round": ballot.round, "proposer": ballot.proposer})
        write_atomically(self._directory / "promised.json", text.encode())

    def _read(self, name: str) -> bytes | None:
        try:
            return (self._directory / name).read_bytes()
        except FileNotFoundError:
            return None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self._directory / "lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
