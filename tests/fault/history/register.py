"""Is the history of one name linearizable? A register with metadata; some operations have no known outcome.

An operation takes effect at one moment between its beginning and its answer; one without an answer at any moment after its
beginning, or never. The search goes through the answers in the order of time and keeps every configuration (state, operations
that already took effect) that explains all answers so far. An operation takes effect only just before an answer that needs it,
for a moment chosen early can be chosen late; what only looks is done as soon as the state fits, for looking changes nothing.

Unknown outcomes pile up, so they are put together where they cannot be told apart: a value that nobody ever saw is as good as
any other, and a configuration that has used up more of them than another one with the same state explains nothing more.
With values that are written once, the cost is linear in the history and exponential only in what is under way at one moment.

Source: Wing and Gong, 1993; Lowe, "Testing for linearizability", 2017 (just in time; memory of configurations).
"""
from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

NEVER_S = float("inf")
CONFIGURATIONS_MAX = 200_000             # of one answer: more are a fault of the load, not of what is checked


class State(NamedTuple):
    """What a name holds. tag: of the body; mark: of the metadata."""

    tag: Hashable
    mark: Hashable = None


ABSENT: State | None = None
UNSEEN = "a value that nobody saw"


class Act(enum.Enum):
    """What an operation does or has seen, as its answer says."""

    PUT = "put"                          # state becomes `state`, if `needs` allows
    DELETE = "delete"                    # state becomes ABSENT, if `needs` allows
    POST = "post"                        # the mark becomes that of `state`, if there is an object
    SEE = "see"                          # the state is `state`
    SEE_LIVE = "see live"                # there is an object: If-None-Match: * was refused
    SEE_OTHER = "see other"              # the tag is not that of `state`, or there is none: If-Match was refused


class Needs(NamedTuple):
    """Condition of a PUT or DELETE. tag: that it must have; None: that nothing is there."""

    tag: Hashable | None


@dataclass(frozen=True, slots=True)
class Op:
    """end_s: NEVER_S without an answer. note: for whoever reads a violation."""

    act: Act
    state: State | None
    begin_s: float
    end_s: float
    needs: Needs | None = None
    note: object = None

    @property
    def is_look(self) -> bool:
        """True if it changes nothing."""
        return self.act in (Act.SEE, Act.SEE_LIVE, Act.SEE_OTHER)


class Undecided(Exception):
    """Too much was under way at one moment."""


class _Config(NamedTuple):
    state: State | None
    done: frozenset[int]                 # of the known operations under way, those that took effect
    used: frozenset[tuple[Hashable, int]]        # kind of unknown operation -> how many took effect


def find_violation(ops: Iterable[Op], first: State | None = ABSENT) -> Op | None:
    """The earliest answer that no order of operations explains, or None. first: the state before. Raises `Undecided`."""
    return _Search(list(ops), first).run()


def is_linearizable(ops: Iterable[Op], first: State | None = ABSENT) -> bool:
    """True when some order explains every answer. Raises `Undecided`."""
    return find_violation(ops, first) is None


def apply(op: Op, state: State | None) -> tuple[bool, State | None]:
    """(whether `op` may take effect on `state`, the state after it)."""
    if op.act is Act.SEE:
        return state == op.state, state
    if op.act is Act.SEE_LIVE:
        return state is not None, state
    if op.act is Act.SEE_OTHER:
        assert op.state is not None
        return state is None or state.tag != op.state.tag, state
    if op.act is Act.POST:
        assert op.state is not None
        return state is not None, None if state is None else State(state.tag, op.state.mark)
    if op.needs is not None and (state.tag if state is not None else None) != op.needs.tag:
        return False, state
    return True, op.state if op.act is Act.PUT else ABSENT


class _Search:
    def __init__(self, ops: Sequence[Op], first: State | None) -> None:
        known = [op for op in ops if op.end_s != NEVER_S]
        self._seen_tags = {op.state.tag for op in known if op.is_look and op.state is not None}
        self._seen_tags |= {op.needs.tag for op in ops if op.needs is not None}
        self._seen_marks = {op.state.mark for op in known if op.act is Act.SEE and op.state is not None}
        unknown = [op for op in ops if op.end_s == NEVER_S and not op.is_look and not self._is_pointless(op)]
        self._ops = [*known, *(self._blurred(op) for op in unknown)]
        self._configs = {_Config(first, frozenset(), frozenset())}
        self._under_way: set[int] = set()                # known operations
        self._kinds: dict[Hashable, Op] = {}             # unknown ones that have begun, by kind
        self._begun: Counter[Hashable] = Counter()

    def _is_pointless(self, op: Op) -> bool:
        """A metadata post that nobody saw explains nothing: tags and conditions stay what they were."""
        return op.act is Act.POST and op.state is not None and op.state.mark not in self._seen_marks

    def _blurred(self, op: Op) -> Op:
        """Unknown writes of values that nobody saw are alike."""
        if op.act is Act.PUT and op.state is not None and op.state.tag not in self._seen_tags:
            return Op(op.act, State(UNSEEN), op.begin_s, op.end_s, op.needs)
        return op

    def run(self) -> Op | None:
        for _, is_end, index in self._events():
            op = self._ops[index]
            if not is_end:
                self._begin(index, op)
                continue
            self._configs = self._answer(index)
            self._under_way.discard(index)
            if not self._configs:
                return op
            self._forget_used_up()
        return None

    def _events(self) -> Iterator[tuple[float, bool, int]]:
        """Beginnings and answers in order; what begins as another ends is concurrent with it."""
        events = [(op.begin_s, False, index) for index, op in enumerate(self._ops)]
        events += [(op.end_s, True, index) for index, op in enumerate(self._ops) if op.end_s != NEVER_S]
        return iter(sorted(events))

    def _begin(self, index: int, op: Op) -> None:
        if op.end_s == NEVER_S:
            kind = (op.act, op.state, op.needs)
            self._kinds[kind] = op
            self._begun[kind] += 1
            return
        self._under_way.add(index)
        if op.is_look:
            self._configs = {self._looked(config, (index,)) for config in self._configs}

    def _looked(self, config: _Config, looks: Iterable[int]) -> _Config:
        """With every look that the state allows."""
        done = [index for index in looks if index not in config.done and apply(self._ops[index], config.state)[0]]
        return config._replace(done=config.done.union(done)) if done else config

    def _answer(self, index: int) -> set[_Config]:
        """The configurations in which `index` has taken effect, without it: it is no longer under way."""
        found = _Front()
        tried = _Front()
        todo = []
        for config in self._configs:
            if index in config.done:
                found.add(config._replace(done=config.done - {index}))
            elif tried.add(config):
                todo.append(config)
        looks = [other for other in self._under_way if self._ops[other].is_look]
        while todo:
            following = []
            for config in todo:
                for after in self._steps(config, looks):
                    if index in after.done:
                        found.add(after._replace(done=after.done - {index}))
                    elif tried.add(after):
                        following.append(after)
            if tried.count > CONFIGURATIONS_MAX:
                raise Undecided(f"more than {CONFIGURATIONS_MAX} ways to explain {self._ops[index]}")
            todo = following
        return found.configs

    def _steps(self, config: _Config, looks: Sequence[int]) -> Iterator[_Config]:
        """One more operation takes effect, and whatever looks at what it leaves."""
        for index in self._under_way:
            op = self._ops[index]
            if op.is_look or index in config.done:
                continue
            may, state = apply(op, config.state)
            if may:
                yield self._looked(_Config(state, config.done | {index}, config.used), looks)
        used = dict(config.used)
        for kind, op in self._kinds.items():
            count = used.get(kind, 0)
            if count >= self._begun[kind]:
                continue
            may, state = apply(op, config.state)
            if may and state != config.state:
                yield self._looked(_Config(state, config.done, frozenset({**used, kind: count + 1}.items())), looks)

    def _forget_used_up(self) -> None:
        """A kind of which every configuration has used all there are plays no part any more."""
        if not self._kinds:
            return
        common = frozenset.intersection(*(config.used for config in self._configs))
        gone = {(kind, count) for kind, count in common if count == self._begun[kind]}
        if gone:
            self._configs = {config._replace(used=config.used - gone) for config in self._configs}
            for kind, _ in gone:
                del self._kinds[kind], self._begun[kind]


class _Front:
    """Configurations without those that have used up more than another one that is otherwise the same."""

    def __init__(self) -> None:
        self._groups: dict[tuple[State | None, frozenset[int]], list[_Config]] = {}
        self.count = 0

    def add(self, config: _Config) -> bool:
        """False if it brings nothing new."""
        group = self._groups.setdefault((config.state, config.done), [])
        if any(_spares(other, config) for other in group):
            return False
        group[:] = [other for other in group if not _spares(config, other)]
        group.append(config)
        self.count += 1
        return True

    @property
    def configs(self) -> set[_Config]:
        return {config for group in self._groups.values() for config in group}


def _spares(left: _Config, right: _Config) -> bool:
    """True when `left` has used at most what `right` has."""
    if left.used <= right.used:
        return True
    counts = dict(right.used)
    return all(count <= counts.get(kind, 0) for kind, count in left.used)
