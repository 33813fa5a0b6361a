"""Random schedules over the real coordinator and replica: 3 replicas, one register, exact linearizability check.

    python tests/sim/register_sim.py --first-seed 0 --runs 1000 [--stop-at-first]

One seed is one schedule: messages are lost, reordered and delayed, replicas lose power (with rows and promises that
were not synced), clocks are skewed, coordinators give up. What the simulation stands on is `object.register.Replica`
and `proxy.coordinator.Coordinator` as shipped; journal, network and clock are the seams.
"""
from __future__ import annotations

import argparse
import random
import sys
from dataclasses import dataclass, field
from types import coroutine
from typing import NamedTuple

from common.errors import ClockRefused, OutcomeUnknown, QuorumNotMet
from common.timestamp import ZERO, Stamp
from object.register import Held, Replica
from object.wire import Kind, Reply, Version, make_version
from proxy.coordinator import Accept, Coordinator, Look, Verdict

REPLICAS, QUORUM = 3, 2
KEY = b"k"
SKEW_MAX_US = 60
STEPS_MAX = 900


class Learn(NamedTuple):
    """What a repair sends: a version that was seen at one ballot on a quorum."""

    ballot: Stamp
    version: Version


class SimLog:
    """The journal seam of one replica: what is appended becomes durable when the schedule says so."""

    def __init__(self) -> None:
        self.synced_sequence = 0
        self.records: list[tuple[str, Held | Stamp]] = []        # sequence n is records[n - 1]
        self._row: Held | None = None

    def get(self, key: bytes) -> Held | None:
        return self._row

    def put(self, key: bytes, before: Held | None, ballot: Stamp, version: Version, state: int, body: bytes | None, *,
            is_settling: bool = False) -> int:
        self._row = Held(ballot, version, state, len(self.records) + 1)
        self.records.append(("row", self._row))
        return len(self.records)

    def append_ceiling(self, ceiling: Stamp) -> int:
        self.records.append(("ceiling", ceiling))
        return len(self.records)

    def append_promise(self, key: bytes, ballot: Stamp) -> int:
        self.records.append(("promise", ballot))
        return len(self.records)

    def promise_of(self, key: bytes) -> Stamp | None:
        found = [value for kind, value in self.records if kind == "promise"]
        return found[-1] if found else None      # type: ignore[return-value]

    def body_state(self, key: bytes, version: Version) -> int:
        raise AssertionError("no bodies in this simulation")

    def lose_power(self, survivors: int) -> None:
        """Keep what was synced and `survivors` of the records behind it: replay cuts at the first torn batch."""
        del self.records[self.synced_sequence + survivors:]
        self.synced_sequence = len(self.records)
        rows = [value for kind, value in self.records if kind == "row"]
        self._row = max(rows, key=lambda held: held.ballot) if rows else None    # type: ignore[union-attr,assignment]

    def ceiling(self) -> Stamp:
        return max((value for kind, value in self.records if kind == "ceiling"), default=ZERO)   # type: ignore[type-var,return-value]


class SimDevice:
    """A replica, its journal, and the answers that wait for a sync."""

    def __init__(self, *, is_durable: bool) -> None:
        self.log = SimLog()
        self.is_durable = is_durable
        self.waiting: list[tuple[int, object]] = []
        self.promise_answered = ZERO         # kept outside the replica: the highest promise that left the device
        self.ballot_answered = ZERO
        self.restart()

    def restart(self) -> None:
        self.replica = Replica(self.log, floor=ZERO, ceiling=self.log.ceiling(), max_skew_us=SKEW_MAX_US)

    def handle(self, message: Look | Accept | Learn, now_us: int) -> Reply | None:
        """The reply, or None for an error answer."""
        try:
            if isinstance(message, Look):
                return self.replica.look(KEY, ballot=message.ballot, now_us=now_us, seen_us=message.seen_us,
                                         is_durable=self.is_durable)
            if isinstance(message, Learn):
                return self.replica.learn(KEY, ballot=message.ballot, version=message.version)
            before = self.log.get(KEY)
            reply = self.replica.accept(KEY, ballot=message.ballot, version=message.version, mode=message.mode,
                                        now_us=now_us, seen_us=message.seen_us, is_durable=self.is_durable)
            if reply.ok and self.log.get(KEY) is not before:
                assert message.ballot >= self.promise_answered, "accepted below a promise that was given"
            return reply
        except ClockRefused:
            return None

    def answered(self, message: Look | Accept | Learn, reply: Reply) -> None:
        """The reply leaves the device: from here on what it says must not be forgotten."""
        if reply.ok and isinstance(message, Look) and message.ballot is not None:
            self.promise_answered = max(self.promise_answered, message.ballot)
        assert reply.ballot >= self.ballot_answered or reply.ballot <= self.log.get(KEY).ballot  # type: ignore[union-attr]
        self.ballot_answered = max(self.ballot_answered, reply.ballot)

    def lose_power(self, survivors: int) -> None:
        self.waiting.clear()
        self.log.lose_power(survivors)
        held = self.log.get(KEY)
        assert self.ballot_answered == ZERO or (held is not None and held.ballot >= self.ballot_answered), \
            "a power loss took back a row that an answer had named"
        self.restart()


@dataclass
class Op:
    """One client operation in the history. end None: outcome unknown."""

    kind: str                            # w write, r read, c conditional, l repair (not in the history)
    value: int
    start: int
    expected: int | None = None
    end: int | None = None
    outcome: str | None = None           # done, refused, read
    found: int | None = None
    has_no_effect: bool = False


@coroutine
def _yield(value):
    return (yield value)


class SimPorts:
    """Ports of one operation: rounds and pauses become events of the schedule."""

    quorum = QUORUM

    def __init__(self, sim: Sim, number: int, skew: int) -> None:
        self._sim, self.worker, self.write_id, self._skew = sim, number, number, skew
        self._rounds = 0

    async def round(self, message, is_enough):
        self._rounds += 1
        replies = await _yield((message, is_enough))
        if self._rounds == 1 and isinstance(message, Look) and message.ballot is None and len(replies) < QUORUM:
            raise QuorumNotMet(needed=QUORUM, answers={})
        return replies

    def now_us(self) -> int:
        return self._sim.now() + self._skew

    async def pause(self, attempt: int) -> bool:
        return attempt < 4

    def explain(self, error):
        return error


def encode(value: int | None) -> bytes:
    return b"" if value is None else b"%d" % value


def decode(version: Version) -> int | None:
    return int(version.descriptor) if version.descriptor else None


async def run_op(op: Op, ports: SimPorts) -> None:
    """Drive one operation and note its outcome; the caller stamps `end`."""
    coordinator = Coordinator(ports)

    def make(stamp: Stamp) -> Version:
        return make_version(stamp=stamp, root=stamp, kind=Kind.LIVE, path="/a/c/o", descriptor=encode(op.value))

    def decide(version: Version, ballot: Stamp) -> Version | None:
        return make(ZERO) if decode(version) == op.expected else None

    if op.kind == "w":
        await coordinator.look()
        await coordinator.write(make)
        op.outcome = "done"
    elif op.kind == "c":
        outcome = await coordinator.change(decide)
        op.outcome = "done" if outcome.verdict is Verdict.DONE else "refused"
        op.found = None if op.outcome == "done" else decode(outcome.version)
    elif op.kind == "r":
        op.found = decode((await coordinator.read()).version)
        op.outcome = "read"
    else:
        await repair(coordinator, ports)


async def repair(coordinator: Coordinator, ports: SimPorts) -> None:
    """As the replicator does: what a quorum holds at one ballot is chosen, the others may learn it."""
    replies = await coordinator.look()
    newest = max(replies, key=lambda r: r.ballot)
    if newest.ballot > ZERO and sum(r.ballot == newest.ballot for r in replies) >= QUORUM:
        await ports.round(Learn(newest.ballot, newest.version), lambda rs: False)


@dataclass
class Round:
    """One round of an operation under way."""

    number: int
    is_enough: object
    message: object
    replies: list[Reply] = field(default_factory=list)
    answered: int = 0


class Sim:
    """One schedule."""

    def __init__(self, seed: int) -> None:
        self.random = r = random.Random(seed)
        is_durable = r.random() < 0.2                    # containers promise by records of their own
        self.devices = [SimDevice(is_durable=is_durable) for _ in range(REPLICAS)]
        self.step = 0
        self.history: list[Op] = []
        self._coroutines: dict[int, object] = {}
        self._rounds: dict[int, Round] = {}
        self._net: list[tuple[str, int, int, int, object, object]] = []
        self._skews = [r.choice((0, 0, 5, 20, 40)) for _ in range(8)]
        self._drop = r.choice((0, 0.03, 0.12))
        self._crash = r.choice((0, 0.02, 0.05))
        self._cut = r.randrange(REPLICAS) if r.random() < 0.3 else -1
        self._pace = r.choice((0.1, 0.2, 0.3))
        self._sync = r.choice((0.05, 0.2, 0.6))
        self._op_count = r.randint(3, 8)
        self._mix = r.choice(("wwwrrrrcccl", "wwrrcccccl", "wcrrrccllll"))

    def now(self) -> int:
        return self.step // 4 + 1

    def run(self) -> list[Op]:
        r = self.random
        while self.step < STEPS_MAX:
            self.step += 1
            if len(self.history) < self._op_count and (not self._busy() or r.random() < self._pace):
                self._start_op()
                continue
            if not self._busy() and len(self.history) >= self._op_count and not self._rounds:
                break
            if r.random() < self._crash:
                device = r.choice(self.devices)
                device.lose_power(r.randint(0, len(device.log.records) - device.log.synced_sequence))
            if r.random() < self._sync or not self._net:
                self._sync_some()
            if self._rounds and (r.random() < 0.03 or not self._busy()):
                number = r.choice(list(self._rounds))    # a deadline passes
                self._advance(number, self._rounds[number].replies)
            elif self._net:
                self._deliver()
        return self.history

    def _busy(self) -> bool:
        return bool(self._net) or any(device.waiting for device in self.devices)

    def _start_op(self) -> None:
        r, number = self.random, len(self.history)
        op = Op(r.choice(self._mix), number + 1, self.step)
        if op.kind == "c":
            op.expected = r.choice([None, *range(1, number + 1)])
        self.history.append(op)
        self._coroutines[number] = run_op(op, SimPorts(self, number + 1, self._skews[number]))
        self._advance(number, None)

    def _advance(self, number: int, replies: object) -> None:
        op = self.history[number]
        try:
            message, is_enough = self._coroutines[number].send(replies)  # type: ignore[attr-defined]
        except StopIteration:
            op.end = self.step
            self._rounds.pop(number, None)
        except QuorumNotMet:
            op.has_no_effect = True
            self._rounds.pop(number, None)
        except OutcomeUnknown:
            self._rounds.pop(number, None)
        else:
            count = self._rounds[number].number + 1 if number in self._rounds else 1
            self._rounds[number] = Round(count, is_enough, message)
            for replica in range(REPLICAS):
                self._net.append(("request", number, count, replica, message, None))

    def _sync_some(self) -> None:
        device = self.random.choice(self.devices)
        log = device.log
        log.synced_sequence = self.random.randint(log.synced_sequence, len(log.records)) \
            if self.random.random() < 0.3 else len(log.records)
        ready = [item for item in device.waiting if item[0] <= log.synced_sequence]
        device.waiting = [item for item in device.waiting if item[0] > log.synced_sequence]
        for _, (number, count, replica, message, reply) in ready:        # type: ignore[misc]
            self._leave(number, count, replica, message, reply)

    def _leave(self, number: int, count: int, replica: int, message, reply) -> None:
        if reply is not None:
            self.devices[replica].answered(message, reply)
        self._net.append(("reply", number, count, replica, message, reply))

    def _deliver(self) -> None:
        r = self.random
        kind, number, count, replica, message, reply = self._net.pop(r.randrange(len(self._net)))
        if r.random() < self._drop or (replica == self._cut and r.random() < 0.5):
            return
        if kind == "request":
            device = self.devices[replica]
            answer = device.handle(message, self.now())  # type: ignore[arg-type]
            if answer is not None and answer.wait_seq > device.log.synced_sequence:
                device.waiting.append((answer.wait_seq, (number, count, replica, message, answer)))
            else:
                self._leave(number, count, replica, message, answer)
            return
        under_way = self._rounds.get(number)
        if under_way is None or under_way.number != count:
            return
        under_way.answered += 1
        if reply is not None:
            under_way.replies.append(reply)              # type: ignore[arg-type]
        if under_way.answered == REPLICAS or (under_way.is_enough(under_way.replies) and r.random() < 0.8):  # type: ignore[operator]
            self._advance(number, under_way.replies)


def is_linearizable(history: list[Op]) -> bool:
    """Exact search: is there an order of the operations, within their intervals, that a single register explains?"""
    ops = [op for op in history if op.kind != "l" and not (op.end is None and (op.has_no_effect or op.kind == "r"))]
    required = sum(1 << i for i, op in enumerate(ops) if op.end is not None)
    seen: set[tuple[int, int | None]] = set()

    def explain(done: int, state: int | None) -> bool:
        if done & required == required:
            return True
        if (done, state) in seen:
            return False
        seen.add((done, state))
        first_end = min(op.end for i, op in enumerate(ops) if not done >> i & 1 and op.end is not None)
        for i, op in enumerate(ops):
            if done >> i & 1 or op.start > first_end:
                continue
            fits, after = apply(op, state)
            if fits and explain(done | 1 << i, after):
                return True
        return False

    return explain(0, None)


def apply(op: Op, state: int | None) -> tuple[bool, int | None]:
    """Whether `op`, with the outcome it had, can happen in `state`, and the state after it."""
    if op.kind == "w":
        return True, op.value
    if op.kind == "r":
        return op.found == state, state
    if op.end is None or op.outcome == "done":
        return state == op.expected, op.value
    return state != op.expected and op.found == state, state


def check(seed: int) -> str | None:
    """None, or what was violated under this seed."""
    try:
        history = Sim(seed).run()
    except AssertionError as error:
        return str(error)
    if is_linearizable(history):
        return None
    return "not linearizable: " + "; ".join(
        f"{op.kind}{op.value} expected={op.expected} [{op.start},{op.end}] {op.outcome} found={op.found}" for op in history)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--stop-at-first", action="store_true", help="exit 1 at the first violation, naming its seed")
    args = parser.parse_args()
    violations = 0
    for seed in range(args.first_seed, args.first_seed + args.runs):
        problem = check(seed)
        if problem is not None:
            violations += 1
            print(f"seed {seed}: {problem}")
            if args.stop_at_first:
                break
    print(f"{args.runs} schedules from seed {args.first_seed}: {violations} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
