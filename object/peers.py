"""Who counts: what devices remember of each other, and what a start has to show before its looks count.

A mark is (incarnation, epoch, synced data sequence). Peers journal the marks of each other at every new epoch and at
most a second after they grew. At start a device counts when enough of its peers have compared; one that shows less than
they remember has been rolled back or emptied. Source: docs/ARCHITECTURE.md, "Who counts".
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgpack


class PeerMark(NamedTuple):
    """incarnation: 16 bytes; sequence: of the last synced record that is data (not a mark, not a ceiling)."""

    incarnation: bytes
    epoch: int
    sequence: int


class PeerMarks:
    """What one device durably remembers of its peers."""

    def __init__(self) -> None:
        self.marks: dict[str, PeerMark] = {}

    def load(self, meta: bytes) -> None:
        """A journaled mark, at replay; later ones win."""
        device_id, incarnation, epoch, sequence = msgpack.unpackb(meta)
        self.marks[device_id] = PeerMark(incarnation, epoch, sequence)

    def is_current(self, meta: bytes) -> bool:
        """True when this journaled mark is the newest of its device."""
        device_id, *mark = msgpack.unpackb(meta)
        return self.marks.get(device_id) == PeerMark(*mark)

    def is_news(self, device_id: str, mark: PeerMark) -> bool:
        """True when `mark` has to be journaled."""
        return self.marks.get(device_id) != mark

    def remember(self, device_id: str, mark: PeerMark) -> bytes:
        """Take a mark; the bytes to journal."""
        self.marks[device_id] = mark
        packed: bytes = msgpack.packb((device_id, *mark))
        return packed


class Standing:
    """Whether this device counts. amnesia: why it cannot trust its own memory, "" if it can."""

    def __init__(self, *, is_new: bool, amnesia: str, ends: Sequence[tuple[int, int]] = ()) -> None:
        """ends: see `object.recovery.Recovery`."""
        self.is_new = is_new
        self._ends = ends
        self.amnesia = amnesia
        self.compared: set[str] = set()
        self.peers_needed = 0
        self.is_counted = False

    def compare(self, peer_id: str, remembered: PeerMark | None, shown: PeerMark) -> str | None:
        """Note a peer's memory of us; the reason when it remembers more than we show.

        shown: what replay found (the incarnation, the last epoch before this start, the last data sequence).
        """
        if remembered is not None:
            if remembered.incarnation != shown.incarnation:
                return f"{peer_id} remembers another incarnation of this device"
            if (remembered.epoch, remembered.sequence) > (shown.epoch, shown.sequence):
                return (f"{peer_id} remembers epoch {remembered.epoch} up to sequence {remembered.sequence}, "
                        f"this device shows {shown.epoch} and {shown.sequence}")
            # a start since the roll-back has begun a later epoch: what counts is where the remembered one ended here
            end = next((last for epoch, last in self._ends if epoch > remembered.epoch), remembered.sequence)
            if remembered.sequence > end:
                return (f"{peer_id} remembers epoch {remembered.epoch} up to sequence {remembered.sequence}, "
                        f"in this device's journal it ends at {end}")
        self.compared.add(peer_id)
        return None

    def decide(self, peers: int, *, is_patient: bool) -> bool:
        """Counted once all `peers` agree, or, when the rest does not answer, a majority of the group, itself included.

        is_patient: everybody may still answer. With a majority alone a device that forgot and one that lags would outvote
        the third before it is heard.
        """
        self.peers_needed = peers if is_patient else (peers + 1) // 2
        if not self.amnesia and len(self.compared) >= self.peers_needed:
            self.is_counted = True
        return self.is_counted

    def describe(self) -> str:
        """For status and refusals."""
        if self.is_counted:
            return "counted"
        if self.amnesia:
            return f"not counted, waits for copy: {self.amnesia}"
        return f"not counted yet: {len(self.compared)} of {self.peers_needed} peers compared"


def encode_marks(marks: Mapping[str, PeerMark]) -> list[tuple[str, bytes, int, int]]:
    """For the wire."""
    return [(device_id, *mark) for device_id, mark in marks.items()]


def decode_marks(fields: list[list[object]]) -> dict[str, PeerMark]:
    """Inverse of `encode_marks`."""
    return {str(device_id): PeerMark(incarnation, epoch, sequence)  # type: ignore[arg-type]
            for device_id, incarnation, epoch, sequence in fields}
