"""Agreement on the next ring: one winner, no split that stays, laggards caught up, transitions recorded."""
from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import Conflict, Corruption, DeviceUnavailable, QuorumNotMet, RingError
from ring.builder import RingBuilder
from ring.device import RingDevice
from ring.membership import (
    Ballot,
    Candidate,
    LocalNodeRings,
    RingStore,
    StoredRing,
    pack_ring,
    settled,
    successor,
    unpack_ring,
)
from ring.placement import Ring

KEY = b"cluster key"


def builder() -> RingBuilder:
    made = RingBuilder(6, 3, 0)
    for i in range(5):
        made.add_dev(RingDevice(id=0, region=1, zone=i, ip=f"10.0.0.{i}", port=6200, device="sda", weight=1.0))
    made.rebalance(seed=1, now_s=10)
    return made


def another(seed: int) -> Ring:
    made = builder()
    made.add_dev(RingDevice(id=0, region=1, zone=seed, ip=f"10.1.0.{seed}", port=6200, device="sdb", weight=1.0))
    made.rebalance(seed=seed, now_s=20)
    return made.ring()


class Node(LocalNodeRings):
    """A node that can be cut off, or only right after it promised; every call lets the others run first."""

    is_down = False
    is_down_for_stores = False

    async def get_current(self) -> StoredRing | None:
        await self._arrive()
        return await super().get_current()

    async def promise(self, version: int, predecessor_hash: str, ballot: Ballot) -> Candidate | None:
        await self._arrive()
        return await super().promise(version, predecessor_hash, ballot)

    async def store_candidate(self, candidate: Candidate) -> bool:
        if self.is_down_for_stores:
            raise DeviceUnavailable(device="node", reason="cut off")
        await self._arrive()
        return await super().store_candidate(candidate)

    async def adopt(self, ring: StoredRing) -> None:
        await self._arrive()
        await super().adopt(ring)

    async def _arrive(self) -> None:
        if self.is_down:
            raise DeviceUnavailable(device="node", reason="cut off")
        for _ in range(ORDER.randrange(4)):
            await asyncio.sleep(0)


ORDER = random.Random(0)


def store(nodes: list[Node], seed: int = 1) -> RingStore:
    async def no_pause(_seconds: float) -> None:
        await asyncio.sleep(0)

    return RingStore(nodes, key=KEY, rng=random.Random(seed), pause=no_pause)


def make_nodes(tmp_path: Path, count: int) -> list[Node]:
    return [Node(tmp_path / f"n{i}", key=KEY) for i in range(count)]


async def with_first(nodes: list[Node]) -> StoredRing:
    return await store(nodes).propose(successor(None, builder().ring()), predecessor=None)


def test_a_proposed_ring_is_current_on_all_nodes(tmp_path: Path) -> None:
    async def run() -> None:
        nodes = make_nodes(tmp_path, 3)
        assert await store(nodes).current() is None
        first = await with_first(nodes)
        found = await store(nodes).current()
        assert found is not None and found[0] == first and found[1].version == 1 and not found[1].former
        assert [await n.get_current() for n in nodes] == [first] * 3

    asyncio.run(run())


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("count", [2, 3, 4])
def test_of_two_that_race_one_wins_and_the_other_is_told_to_plan_again(tmp_path: Path, seed: int, count: int) -> None:
    async def run() -> None:
        ORDER.seed(seed)
        nodes = make_nodes(tmp_path, count)
        first = await with_first(nodes)
        current = unpack_ring(first.bundle, key=KEY)[1]
        rings = [successor(current, another(s)) for s in (7, 8)]
        results = await asyncio.gather(*(store(nodes, seed=s).propose(ring, predecessor=first)
                                         for s, ring in enumerate(rings)), return_exceptions=True)
        won = [r for r in results if isinstance(r, StoredRing)]
        assert len(won) <= 1 and all(isinstance(r, (StoredRing, Conflict, QuorumNotMet)) for r in results)
        try:                                                            # whatever happened, version 2 gets decided now
            third = await store(nodes, seed=9).propose(successor(current, another(9)), predecessor=first)
            assert not won, f"{third.version} was decided twice"
        except Conflict:
            pass
        assert len({s.bundle for s in [await n.get_current() for n in nodes] if s and s.version == 2}) == 1
        if won:
            assert (await nodes[0].get_current()) == won[0]

    asyncio.run(run())


def test_a_ring_that_a_majority_may_have_chosen_is_finished_by_the_next_proposer(tmp_path: Path) -> None:
    async def run() -> None:
        nodes = make_nodes(tmp_path, 3)
        first = await with_first(nodes)
        current = unpack_ring(first.bundle, key=KEY)[1]
        lost = pack_ring(successor(current, another(7)), predecessor_hash=first.hash, key=KEY)
        for node in nodes[:2]:                                          # its proposer dies before it could say so
            assert await node.store_candidate(Candidate(ballot=Ballot(1, 5), ring=lost))
        with pytest.raises(Conflict):
            await store(nodes).propose(successor(current, another(8)), predecessor=first)
        assert [await n.get_current() for n in nodes] == [lost] * 3

    asyncio.run(run())


def test_a_minority_decides_nothing_and_the_same_proposal_succeeds_later(tmp_path: Path) -> None:
    async def run() -> None:
        nodes = make_nodes(tmp_path, 3)
        first = await with_first(nodes)
        ring = successor(unpack_ring(first.bundle, key=KEY)[1], another(7))
        nodes[1].is_down_for_stores = nodes[2].is_down_for_stores = True
        with pytest.raises(QuorumNotMet):
            await store(nodes).propose(ring, predecessor=first)
        assert [await n.get_current() for n in nodes] == [first] * 3
        nodes[1].is_down_for_stores = False
        nodes[2].is_down = True
        second = await store(nodes, seed=2).propose(ring, predecessor=first)
        assert await store(nodes).propose(ring, predecessor=first) == second
        nodes[2].is_down = False
        third = await store(nodes).propose(settled(ring, set(ring.former)), predecessor=second)
        assert await nodes[2].get_current() == third                    # it had missed the second

    asyncio.run(run())


def test_a_node_takes_nothing_below_its_promise_also_after_a_restart(tmp_path: Path) -> None:
    async def run() -> None:
        (node,) = make_nodes(tmp_path, 1)
        ring = pack_ring(successor(None, builder().ring()), predecessor_hash="", key=KEY)
        await node.promise(1, "", Ballot(5, 1))
        again = Node(tmp_path / "n0", key=KEY)
        assert not await again.store_candidate(Candidate(ballot=Ballot(4, 9), ring=ring))
        with pytest.raises(Conflict):
            await again.promise(1, "", Ballot(4, 9))
        with pytest.raises(Conflict):
            await again.promise(2, "abc", Ballot(9, 9))
        assert await again.store_candidate(Candidate(ballot=Ballot(5, 1), ring=ring))
        assert (await again.promise(1, "", Ballot(6, 1))) == Candidate(ballot=Ballot(5, 1), ring=ring)

    asyncio.run(run())


def test_a_ring_with_another_clusters_signature_is_not_stored(tmp_path: Path) -> None:
    async def run() -> None:
        (node,) = make_nodes(tmp_path, 1)
        foreign = pack_ring(successor(None, builder().ring()), predecessor_hash="", key=b"other")
        with pytest.raises(RingError, match="signature"):
            await node.adopt(foreign)
        with pytest.raises(Corruption):
            await node.adopt(replace(foreign, bundle=b"HFRG"))
        assert await node.get_current() is None

    asyncio.run(run())


def test_partitions_that_change_hands_are_in_transition_with_their_former_primaries() -> None:
    first = successor(None, builder().ring())
    second = successor(first, another(7))
    moved = {p for p in range(64) if set(first.primaries(p)) != set(second.primaries(p))}
    assert moved and set(second.former) == moved
    assert all(second.former[p] == first.primaries(p) for p in moved)
    third = settled(second, {min(moved)})
    assert (third.version, set(third.former)) == (3, moved - {min(moved)})


def test_a_partition_in_transition_does_not_move_again() -> None:
    first = successor(None, builder().ring())
    second = successor(first, another(7))
    with pytest.raises(RingError, match="still in transition"):
        successor(second, first)


def test_an_id_that_was_given_to_another_disk_counts_as_a_move() -> None:
    first = successor(None, builder().ring())
    devices = [replace(d, device="new") if d and d.id == 0 else d for d in first.devices]
    second = successor(first, Ring(part_power=6, version=1, devices=devices, rows=first.rows))
    assert set(second.former) == {p for p in range(64) if first.devices[0] in first.primaries(p)}


def test_an_id_does_not_stand_for_two_disks_that_data_is_still_copied_from() -> None:
    first = successor(None, builder().ring())
    second = successor(first, another(7))
    stays = [p for p in range(64) if p not in second.former and first.devices[0] in first.primaries(p)]
    assert stays and any(first.devices[0] in devices for devices in second.former.values())
    devices = [replace(d, device="new") if d and d.id == 0 else d for d in second.devices]
    rows = second.rows
    with pytest.raises(RingError, match="in transition"):
        successor(second, Ring(part_power=6, version=1, devices=devices, rows=rows))
