"""The coordinator's side of the register protocol: write, settle, conditional change, read.

No sockets and no clocks: everything outside comes through `Ports`, so that the simulation in `tests/sim` drives this
very code. Round trips: write 2 (the first look is shared with the container's, proxy/gateway.py), change 2, read 1.
Source of the rules: docs/consistency.md. The numbers in comments are those of its list of mistakes.
"""
from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from common.errors import OutcomeUnknown
from common.timestamp import ZERO, Stamp, next_stamp
from object.wire import NOTHING, BodyState, Kind, Mode, Reply, Version, make_version, restamp


class Look(NamedTuple):
    """Ask for the state; with a ballot, prepare. read_body: a small body may come along."""

    ballot: Stamp | None
    seen_us: int = 0
    read_body: bool = False


class Accept(NamedTuple):
    """Ask to take `version` at `ballot`. body: the whole of a small body, if at hand."""

    ballot: Stamp
    version: Version
    mode: int
    seen_us: int
    body: bytes | None = None


Message = Look | Accept
Replies = Sequence[Reply]


class Ports(Protocol):
    """One register's replicas, a clock and patience, for one client operation."""

    quorum: int
    worker: int                          # number of this worker, unique in the cluster
    write_id: int                        # 64 random bits of this operation

    async def round(self, message: Message, is_enough: Callable[[Replies], bool]) -> list[Reply]:
        """Send to every replica; the counted replies, as soon as `is_enough` of them or all have answered.

        Errors of replicas are not replies. Raises `QuorumNotMet` only for a first look that reached too few.
        """

    def now_us(self) -> int:
        """This worker's clock."""

    async def pause(self, attempt: int) -> bool:
        """Back off with jitter before the next attempt; False when the operation's deadline has passed."""

    def explain(self, error: OutcomeUnknown) -> OutcomeUnknown:
        """The same error, with what is known about why."""


class Verdict(enum.Enum):
    """How an operation ended (when it ended)."""

    DONE = "done"
    REFUSED = "refused"                  # the condition does not hold; the state that says so is chosen
    READ = "read"


@dataclass(slots=True)
class Outcome:
    """verdict and the version it rests on; `ballot` is where that version was seen or chosen."""

    verdict: Verdict
    version: Version
    ballot: Stamp = ZERO
    replies: Replies = field(default_factory=list)


# the current state and the ballot that was promised -> the wanted state (stamps ignored), None: refused
Decide = Callable[[Version, Stamp], Version | Awaitable[Version | None] | None]


class Coordinator:
    """One client operation on one register. Never used for a second one: a retry is a new operation."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._highest = ZERO

    async def look(self, *, read_body: bool = False) -> list[Reply]:
        """The first look at a quorum."""
        replies = await self._ports.round(Look(None, read_body=read_body), self._has_quorum)
        self.saw(replies)
        return replies

    def saw(self, replies: Replies) -> None:
        """Count what these replies show as seen: the next stamp is above it."""
        highest = self._highest
        for _, promised, ballot, version, *_ in replies:
            highest = max(highest, promised, ballot, version[0])
        self._highest = highest

    def next(self) -> Stamp:
        """A stamp above everything seen; it is itself counted as seen."""
        ports = self._ports
        self._highest = next_stamp(self._highest, clock_us=ports.now_us(), worker=ports.worker, write_id=ports.write_id)
        return self._highest

    # --- write ---------------------------------------------------------------------------------------------------

    async def write(self, make: Callable[[Stamp], Version], *, body: bytes | None = None,
                    mode: int = Mode.WRITE) -> Outcome:
        """Unconditional write, after a look at a quorum (2: a slow clock must not write into the past).

        make: the version for a stamp, its own root. Raises `OutcomeUnknown` at the deadline.
        """
        seen_us = self._highest.micros
        t = self.next()
        own = make(t)
        replies = await self._ports.round(Accept(t, own, mode, seen_us, body), lambda rs: self._is_written(rs, t))
        self.saw(replies)
        if self._is_written(replies, t):
            return Outcome(Verdict.DONE, own, t, replies)
        return await self._settle(own, t, body)

    def _is_written(self, replies: Replies, t: Stamp) -> bool:
        """Yes counts, and so does a refusal by a newer root (4); a refusal by a promise does not (3)."""
        return sum([r.ok or r.version.root > t for r in replies]) >= self._ports.quorum

    async def _settle(self, own: Version, t: Stamp, body: bytes | None) -> Outcome:
        """Find out what became of a write, or make it so; never under a second stamp while the first may live (1)."""
        attempt = 0
        while True:
            b, replies = await self._prepare()
            if replies is not None:
                m = _highest_ballot(replies)
                if own.stamp.write_id in (m.version.stamp.write_id, m.version.root.write_id) or m.version.root > t:
                    x = m.version
                else:
                    stamp = t if t > m.version.stamp else b
                    x = restamp(own, stamp=stamp, root=stamp)
                taken = await self._propose(b, x, body if x.body_id == own.body_id else m.body)
                if taken is not None:
                    return Outcome(Verdict.DONE, x, b, taken)
            attempt += 1
            if not await self._ports.pause(attempt):
                raise self._ports.explain(OutcomeUnknown(attempts=attempt))

    # --- conditional ---------------------------------------------------------------------------------------------

    async def change(self, decide: Decide, *, body: bytes | None = None, mode: int = Mode.KEEP,
                     is_idempotent: bool = False) -> Outcome:
        """Decide on the settled state: `decide` gives the wanted version or refuses. Raises `OutcomeUnknown`.

        is_idempotent: deciding again is harmless, although an earlier proposal may have been chosen and superseded since.
        """
        first_tried: Stamp | None = None
        attempt = 0
        while True:
            b, replies = await self._prepare()
            if replies is not None:
                m = _highest_ballot(replies)
                wanted: Version | None = None
                if m.version.stamp.write_id == self._ports.write_id:
                    x, verdict = m.version, Verdict.DONE
                elif first_tried is not None and m.ballot > first_tried and not is_idempotent:
                    raise self._ports.explain(OutcomeUnknown(attempts=attempt))
                else:
                    answer = decide(m.version, b)
                    wanted = await answer if isinstance(answer, Awaitable) else answer
                    if wanted is None:
                        x, verdict = m.version, Verdict.REFUSED      # proposed before the answer: it is a read (6)
                    else:
                        x, verdict = restamp(wanted, stamp=b, root=m.version.root), Verdict.DONE
                        first_tried = first_tried or b
                carried = body if verdict is Verdict.DONE and body is not None else m.body
                taken = await self._propose(b, x, carried, mode if wanted is not None else Mode.KEEP)
                if taken is not None:
                    return Outcome(verdict, x, b, taken)
            attempt += 1
            if not await self._ports.pause(attempt):
                raise self._ports.explain(OutcomeUnknown(attempts=attempt))

    # --- read ----------------------------------------------------------------------------------------------------

    async def read(self, *, read_body: bool = False, replies: Replies | None = None) -> Outcome:
        """The settled state. replies: of a first look that was already made."""
        if replies is None:
            replies = await self.look(read_body=read_body)
        agreed = self.agreed(replies)
        if agreed is not None:
            return Outcome(Verdict.READ, agreed.version, agreed.ballot, replies)
        m = _highest_ballot(replies)
        message = Accept(m.ballot, m.version, Mode.KEEP, self._highest.micros, m.body)
        answers = await self._ports.round(message, lambda rs: self._is_written_back(rs, m))      # (7)
        self.saw(answers)
        if self._is_written_back(answers, m):
            return Outcome(Verdict.READ, m.version, m.ballot, [*replies, *answers])
        outcome = await self.change(_keep)
        return Outcome(Verdict.READ, outcome.version, outcome.ballot, outcome.replies)

    def agreed(self, replies: Replies) -> Reply | None:
        """The reply of the highest ballot, if a quorum shows it: then it is settled without another round."""
        m = _highest_ballot(replies)
        return m if sum([r.ballot == m.ballot for r in replies]) >= self._ports.quorum else None

    def _is_written_back(self, replies: Replies, m: Reply) -> bool:
        """A refusal by a newer root counts only if m is unconditional: else neither may ever be chosen (4)."""
        is_root = m.version.root.write_id == m.version.stamp.write_id
        return sum(r.ok or (is_root and r.version.root > m.version.stamp) for r in replies) >= self._ports.quorum

    # --- the two phases ------------------------------------------------------------------------------------------

    async def _prepare(self) -> tuple[Stamp, list[Reply] | None]:
        """A ballot above everything seen, and the promises of a quorum, or None."""
        seen_us = self._highest.micros
        b = self.next()
        replies = await self._ports.round(Look(b, seen_us, read_body=True), self._has_promises)
        self.saw(replies)
        promises = [r for r in replies if r.ok]
        return b, promises if len(promises) >= self._ports.quorum else None

    async def _propose(self, b: Stamp, x: Version, body: bytes | None, mode: int = Mode.KEEP) -> list[Reply] | None:
        replies = await self._ports.round(Accept(b, x, mode, self._highest.micros, body), self._has_promises)
        self.saw(replies)
        taken = [r for r in replies if r.ok]
        return taken if len(taken) >= self._ports.quorum else None

    def _has_quorum(self, replies: Replies) -> bool:
        return len(replies) >= self._ports.quorum

    def _has_promises(self, replies: Replies) -> bool:
        return sum([r.ok for r in replies]) >= self._ports.quorum


def _highest_ballot(replies: Replies) -> Reply:
    """The reply of the highest ballot; among equals one that has its body."""
    return max(replies, key=lambda r: (r.ballot, r.body is not None, r.state in (BodyState.INLINE, BodyState.FILE)))


def _keep(version: Version, ballot: Stamp) -> Version | None:
    return None


def tombstone(stamp: Stamp, *, path: str, descriptor: bytes = b"") -> Version:
    """The version of a delete."""
    return make_version(stamp=stamp, root=stamp, kind=Kind.TOMBSTONE, path=path, descriptor=descriptor)


def is_live(version: Version) -> bool:
    """True when there is an object, a container or an account."""
    return version.kind == Kind.LIVE and version is not NOTHING
