"""Network faults on purpose: messages to or from a peer are dropped, delayed or held back.

A `FaultRules` is given to an `RpcServer` or `RpcClient`; tests do, and a node does when HOLDFAST_FAULTS=1, so that the admin
API can switch rules on. Without one the data path pays a single comparison. Rules see messages (requests, answers, and the
frames of streams), not bytes: what is let through arrives whole.
"""
from __future__ import annotations

import asyncio
import enum
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

Match = Callable[[int, Sequence[object]], bool]


class Direction(enum.Enum):
    """As seen by the end that has the rules."""

    TO = "to"
    FROM = "from"


@dataclass(slots=True, kw_only=True, eq=False)
class Rule:
    """One fault. An answer is matched by the op of its request and by its own fields."""

    peer: str | None = None              # None: every peer
    about: object = None                 # first field of the request, which names a device; None: whatever it is about
    direction: Direction | None = None   # None: both
    match: Match | None = None           # of (op, fields); None: every message
    chance: float = 1.0                  # with which a message that it covers is harmed
    delay_s: float | None = None         # None: dropped, or held
    delay_s_max: float | None = None     # a delay is drawn for each message, from delay_s up to this
    is_holding: bool = False             # kept until `FaultRules.release`
    count_max: int | None = None         # so many messages, then the rule has no effect
    seen_count: int = 0
    held: list[Callable[[], None]] = field(default_factory=list)

    def covers(self, direction: Direction, peer: str, op: int, fields: Sequence[object], about: object) -> bool:
        """True if this message may be harmed."""
        if self.about is not None and self.about != about:
            return False
        if self.count_max is not None and self.seen_count >= self.count_max:
            return False
        return ((self.peer is None or self.peer == peer) and (self.direction is None or self.direction is direction)
                and (self.match is None or self.match(op, fields)))


class FaultRules:
    """The faults in force; the first rule that covers a message decides. Of the event loop it was made for."""

    def __init__(self, rng: random.Random | None = None) -> None:
        """rng: for chances and delays."""
        self.rules: list[Rule] = []
        self.rng = rng or random.Random()
        self.harmed_count = 0            # since the start, by all rules

    def drop(self, peer: str | None = None, *, direction: Direction | None = None, match: Match | None = None,
             count_max: int | None = None) -> Rule:
        """Messages vanish."""
        return self._add(Rule(peer=peer, direction=direction, match=match, count_max=count_max))

    def delay(self, delay_s: float, peer: str | None = None, *, direction: Direction | None = None, match: Match | None = None,
              count_max: int | None = None) -> Rule:
        """Messages arrive later; equal delays keep the order."""
        return self._add(Rule(peer=peer, direction=direction, match=match, count_max=count_max, delay_s=delay_s))

    def hold(self, peer: str | None = None, *, direction: Direction | None = None, match: Match | None = None,
             count_max: int | None = None) -> Rule:
        """Messages wait for `release`."""
        return self._add(Rule(peer=peer, direction=direction, match=match, count_max=count_max, is_holding=True))

    def release(self, rule: Rule) -> None:
        """Take the rule away and let go what it held, in order."""
        self.remove(rule)
        held, rule.held = rule.held, []
        for go in held:
            go()

    def remove(self, rule: Rule) -> None:
        """Take the rule away; what it held is lost."""
        if rule in self.rules:
            self.rules.remove(rule)

    def clear(self) -> None:
        """No faults any more; what was held is lost."""
        self.rules.clear()

    def add(self, rule: Rule) -> None:
        """One that was made elsewhere, behind those that are there."""
        self.rules.append(rule)

    def pass_on(self, direction: Direction, peer: str, op: int, fields: Sequence[object], go: Callable[[], None], *,
                about: object = None) -> None:
        """Run `go` now, later or never. about: the first field of the request, also for its answer."""
        for rule in self.rules:
            if rule.covers(direction, peer, op, fields, about) and (rule.chance >= 1.0 or self.rng.random() < rule.chance):
                rule.seen_count += 1
                self.harmed_count += 1
                if rule.delay_s is not None:
                    late_s = rule.delay_s if rule.delay_s_max is None else self.rng.uniform(rule.delay_s, rule.delay_s_max)
                    asyncio.get_running_loop().call_later(late_s, go)
                elif rule.is_holding:
                    rule.held.append(go)
                return
        go()

    def _add(self, rule: Rule) -> Rule:
        self.rules.append(rule)
        return rule


def rules_from_environment(environ: Mapping[str, str] = os.environ) -> FaultRules | None:
    """Rules that can be filled later, if HOLDFAST_FAULTS=1; else None, and no fault is possible."""
    return FaultRules() if environ.get("HOLDFAST_FAULTS") == "1" else None
