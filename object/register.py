"""One replica's side of the register protocol: look, accept, learn, over a journal seam.

Every call is synchronous and answers at once with a `Reply` whose `wait_seq` names the journal sequence that has to
be durable before the reply may leave. Nothing here knows files, sockets or loops, so that the simulation in
`tests/sim` runs this very code under a million schedules. Source of the rules: docs/consistency.md.

Budget of a look: one index lookup. Of an accept: one index lookup, one appended record.
"""
from __future__ import annotations

from typing import Protocol

from common.errors import ClockRefused, Corruption, NoBody
from common.timestamp import ZERO, Stamp
from object.wire import NOTHING, BodyState, Kind, Mode, Reply, Version

CEILING_AHEAD_US = 2_000_000
PROMISES_MAX = 16_384                 # promises that no accept followed; about 5 MiB


class Held:
    """What a replica holds of one register, and where its record lies once it is written.

    sequence: of the journal record, for in-flight comparison; 0 when it came from the index.
    """

    __slots__ = ("ballot", "length", "offset", "segment", "sequence", "state", "trailer_crc", "version")

    def __init__(self, ballot: Stamp, version: Version, state: int, sequence: int, segment: int = 0, offset: int = 0,
                 length: int = 0, trailer_crc: int = 0) -> None:
        self.ballot, self.version, self.state, self.sequence = ballot, version, state, sequence
        self.segment, self.offset, self.length, self.trailer_crc = segment, offset, length, trailer_crc


NOT_HELD = Held(ZERO, NOTHING, BodyState.NONE, 0)


class RegisterLog(Protocol):
    """What a replica stands on: newest rows (in flight included), appended records, durable ceilings."""

    @property
    def synced_sequence(self) -> int:
        """Everything up to here is durable."""

    def get(self, key: bytes) -> Held | None:
        """The newest row, synced or not."""

    def put(self, key: bytes, before: Held | None, ballot: Stamp, version: Version, state: int, body: bytes | None, *,
            is_settling: bool = False) -> int:
        """Append the record that makes this the newest row after `before`; its sequence.

        is_settling: what others hold already, for a read, a repair or the end of a change. Raises `DeviceFull`, else.
        """

    def append_ceiling(self, ceiling: Stamp) -> int:
        """Append a ceiling: after a restart everything below it is refused."""

    def append_promise(self, key: bytes, ballot: Stamp) -> int:
        """Append a durable promise of one register."""

    def promise_of(self, key: bytes) -> Stamp | None:
        """The durable promise of a register, if one was appended."""

    def body_state(self, key: bytes, version: Version) -> int:
        """FILE if the body of `version` is staged here as a file, else LEARNED."""


class Replica:
    """The registers of one device."""

    def __init__(self, log: RegisterLog, *, floor: Stamp, ceiling: Stamp, max_skew_us: int) -> None:
        """floor: of this incarnation; ceiling: the journaled one, found at the start of this epoch."""
        self._log = log
        self._base = max(floor, ceiling)
        self._ceiling = ceiling          # the highest journaled one, synced or not
        self._ceiling_seq = 0
        self._promised: dict[bytes, Stamp] = {}
        self._max_skew_us = max_skew_us

    def look(self, key: bytes, *, ballot: Stamp | None, now_us: int, seen_us: int = 0, is_durable: bool = False) -> Reply:
        """The state; with a ballot, a promise to take nothing below it, or a refusal.

        is_durable: promise by a record of its own (containers), instead of under the device's ceiling.
        """
        held = self._log.get(key) or NOT_HELD
        promised = self._promised_of(key, held, is_durable)
        if held.state == BodyState.LOST:
            raise Corruption(what="record", stamp=list(held.version.stamp))
        wait = self._in_flight(held.sequence)
        if ballot is None:
            return Reply(True, promised, held.ballot, held.version, held.state, wait)
        self._check_clock(ballot, now_us, seen_us)
        if ballot < promised or (ballot == promised and self._promised.get(key) != ballot):
            return Reply(False, promised, held.ballot, held.version, held.state, wait)
        self._remember(key, ballot)
        seq = self._log.append_promise(key, ballot) if is_durable else self._cover(ballot)
        return Reply(True, ballot, held.ballot, held.version, held.state, max(wait, self._in_flight(seq)))

    def accept(self, key: bytes, *, ballot: Stamp, version: Version, mode: int, now_us: int, seen_us: int = 0,
               body: bytes | None = None, is_durable: bool = False) -> Reply:
        """Take `version` at `ballot`, durably, if no promise and no newer ballot stands against it.

        body: the whole of a small body. Raises `NoBody` (mode write, body not here), `ClockRefused`, `DeviceFull`.
        """
        held = self._log.get(key) or NOT_HELD
        promised = self._promised_of(key, held, is_durable)
        if held.ballot == ballot and held.version.stamp == version.stamp and ballot > ZERO:
            return self._repeat(key, held, version, promised, body)
        self._check_clock(ballot, now_us, seen_us)
        if ballot < promised or ballot <= held.ballot:
            return Reply(False, promised, held.ballot, held.version, held.state, self._in_flight(held.sequence))
        state = self._state_for(key, held, version, body)
        if state == BodyState.LEARNED and mode == Mode.WRITE:
            raise NoBody(body_id=version.body_id)
        seq = self._log.put(key, _known(held), ballot, version, state, body, is_settling=mode == Mode.KEEP)
        self._promised.pop(key, None)    # the row's ballot stands for it now
        return Reply(True, ballot, ballot, version, state, self._in_flight(seq))

    def learn(self, key: bytes, *, ballot: Stamp, version: Version, body: bytes | None = None) -> Reply:
        """Take a version that is known to be chosen: promises and floors neither apply nor change."""
        held = self._log.get(key) or NOT_HELD
        promised = self._promised_of(key, held, False)
        if held.ballot == ballot and held.version.stamp == version.stamp:
            return self._repeat(key, held, version, promised, body)
        if ballot <= held.ballot:
            return Reply(False, promised, held.ballot, held.version, held.state, self._in_flight(held.sequence))
        state = self._state_for(key, held, version, body)
        seq = self._log.put(key, _known(held), ballot, version, state, body, is_settling=True)
        return Reply(True, promised, ballot, version, state, self._in_flight(seq))

    def _repeat(self, key: bytes, held: Held, version: Version, promised: Stamp, body: bytes | None) -> Reply:
        """A repetition is a yes; what comes along fills what is missing here, durably, before the yes."""
        state, seq = held.state, held.sequence
        if state in (BodyState.LEARNED, BodyState.DAMAGED, BodyState.LOST):
            filled = self._state_for(key, NOT_HELD, version, body)
            if filled != BodyState.LEARNED or state == BodyState.LOST:
                state, seq = filled, self._log.put(key, _known(held), held.ballot, version, filled, body,
                                                       is_settling=True)
        return Reply(True, promised, held.ballot, version, state, self._in_flight(seq))

    def _state_for(self, key: bytes, held: Held, version: Version, body: bytes | None) -> int:
        if version.kind != Kind.LIVE or version.size_bytes == 0:
            return BodyState.NONE
        if body is not None:
            return BodyState.INLINE
        if held.version.body_id == version.body_id and held.state in (BodyState.INLINE, BodyState.FILE):
            return held.state            # a metadata post keeps the body it has
        return self._log.body_state(key, version)

    def _promised_of(self, key: bytes, held: Held, is_durable: bool) -> Stamp:
        promised = max(self._base, held.ballot)
        mine = self._promised.get(key)
        if mine is None and is_durable:
            mine = self._log.promise_of(key)
            if mine is not None:
                self._promised[key] = mine
        return promised if mine is None else max(promised, mine)

    def _remember(self, key: bytes, ballot: Stamp) -> None:
        if len(self._promised) >= PROMISES_MAX:      # forgetting them is allowed once everything below is refused
            self._base = max(self._base, *self._promised.values())
            self._promised.clear()
        self._promised[key] = ballot

    def _in_flight(self, sequence: int) -> int:
        """A row that is appended but not synced counts as held; an answer that names it leaves after its sync."""
        return sequence if sequence > self._log.synced_sequence else 0

    def _cover(self, ballot: Stamp) -> int:
        """Sequence of a journaled ceiling at or above `ballot`."""
        if ballot > self._ceiling:
            self._ceiling = Stamp(ballot.micros + CEILING_AHEAD_US, 0, 0, 0)
            self._ceiling_seq = self._log.append_ceiling(self._ceiling)
        return self._ceiling_seq

    def _check_clock(self, ballot: Stamp, now_us: int, seen_us: int) -> None:
        if ballot.micros > now_us + self._max_skew_us and ballot.micros > seen_us:
            raise ClockRefused(ahead_us=ballot.micros - now_us)


def _known(held: Held) -> Held | None:
    return held if held is not NOT_HELD else None
