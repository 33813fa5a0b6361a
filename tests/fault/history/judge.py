"""Does a history keep what docs/consistency.md promises? Objects and names in listings, each a register of its own.

* An object is linearizable, conditional requests and metadata included: all answers about one key, by `register.find_violation`.
* A listing shows what was answered before it began, or something later, and none takes back what an earlier one showed: every key
  of all listings is a register that the answered writes have set. A write that was answered as `X-Listing: pending`, or not at
  all, sets it at any later moment.
* A row tells the truth: its ETag was written under this name, its size is that of the body with this ETag.
* Damage is never served: clients compare each body with its ETag, and each size is compared with that of the body written.

What nobody answered is unknown, never failed: it may take effect at any later moment, or never.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.fault.history.record import DELETE, LIST, POST, PUT, READS, Event
from tests.fault.history.register import ABSENT, NEVER_S, Act, Needs, Op, State, find_violation

NEAR_COUNT = 40                          # events that a violation shows beside its own
GOOD = {PUT: (201, 412), POST: (202, 404), DELETE: (204, 404, 412), "get": (200, 304, 404, 412), "head": (200, 304, 404, 412),
        LIST: (200,)}


@dataclass(frozen=True, slots=True)
class Violation:
    """what: "object", "listing", "size" or "answer"."""

    what: str
    key: str
    event: Event
    text: str


def judge(events: Sequence[Event]) -> list[Violation]:
    """Everything that is wrong, the earliest of each register. Raises `register.Undecided`."""
    found = [*_wrong_answers(events), *_wrong_sizes(events)]
    for key in sorted({event.key for event in events if event.key}):
        bad = find_violation(object_ops(events, key))
        if bad is not None:
            found.append(_violation("object", key, bad, events))
        bad = find_violation(listing_ops(events, key))
        if bad is not None:
            found.append(_violation("listing", key, bad, events))
    return found


def is_unknown(event: Event) -> bool:
    """Nobody answered, or with a 5xx; a client that was cut short knows nothing either."""
    return event.end_s is None or event.status is None or event.status >= 500 or event.status in (408, 499)


def object_ops(events: Iterable[Event], key: str) -> list[Op]:
    """The register of one object."""
    ops = [_object_op(event) for event in events if event.key == key]
    return [op for op in ops if op is not None]


def listing_ops(events: Iterable[Event], key: str) -> list[Op]:
    """The register of one name in the listings; a metadata post changes nothing that a row shows here."""
    ops = []
    for event in events:
        if event.verb == LIST and not is_unknown(event):
            row = event.rows.get(key)
            ops.append(_op(event, Act.SEE, State(row[0]) if row is not None else ABSENT))
        elif event.key == key and event.verb in (PUT, DELETE) and (is_unknown(event) or event.status in (201, 204)):
            act, state = (Act.PUT, State(event.tag)) if event.verb == PUT else (Act.DELETE, ABSENT)
            ops.append(_op(event, act, state, is_known=not is_unknown(event) and not event.is_pending))
    return ops


def _object_op(event: Event) -> Op | None:
    if is_unknown(event):
        return None if event.verb in READS else _op(event, *_change(event), needs=_needs(event), is_known=False)
    if event.status == 404:
        return _op(event, Act.SEE, ABSENT)
    if event.verb in READS:
        if event.seen is None:
            return None                  # told of by `_wrong_answers`
        return _op(event, Act.SEE, State(*event.seen))
    if event.status == 412:
        if event.if_none_match is not None:
            return _op(event, Act.SEE_LIVE, ABSENT)
        return _op(event, Act.SEE_OTHER, State(event.if_match))
    return _op(event, *_change(event), needs=_needs(event))


def _change(event: Event) -> tuple[Act, State | None]:
    if event.verb == PUT:
        return Act.PUT, State(event.tag, event.mark)
    return (Act.POST, State(None, event.mark)) if event.verb == POST else (Act.DELETE, ABSENT)


def _needs(event: Event) -> Needs | None:
    if event.if_none_match is not None:
        return Needs(None)
    return Needs(event.if_match) if event.if_match is not None else None


def _op(event: Event, act: Act, state: State | None, *, needs: Needs | None = None, is_known: bool = True) -> Op:
    end_s = event.end_s if is_known and event.end_s is not None else NEVER_S
    return Op(act, state, event.begin_s, end_s, needs, event)


def _wrong_answers(events: Iterable[Event]) -> Iterable[Violation]:
    """A status that no client of ours may see, and a conditional read that was answered against its condition."""
    for event in events:
        if event.wrong is not None:
            yield Violation("answer", event.key, event, event.wrong)
            continue
        if is_unknown(event):
            continue
        is_conditional = event.if_match is not None or event.if_none_match is not None
        if event.status not in GOOD[event.verb] or (event.status in (304, 412) and not is_conditional):
            yield Violation("answer", event.key, event, f"{event.verb} was answered with {event.status}")
        elif event.verb in READS and event.status != 404:
            wanted = 200
            if event.seen is None:
                yield Violation("answer", event.key, event, f"{event.status} without ETag or metadata")
                continue
            if event.if_match is not None and event.if_match != event.seen[0]:
                wanted = 412
            elif event.if_none_match == event.seen[0]:
                wanted = 304
            if event.status != wanted:
                yield Violation("answer", event.key, event, f"{event.status} for the state {event.seen}, not {wanted}")


def _wrong_sizes(events: Sequence[Event]) -> Iterable[Violation]:
    sizes = {event.tag: event.size for event in events if event.verb == PUT}
    for event in events:
        if event.verb in READS and event.status == 200 and event.seen is not None and event.size != sizes.get(event.seen[0]):
            yield Violation("size", event.key, event, f"{event.size} bytes, not {sizes.get(event.seen[0])}")
        for key, (tag, size) in event.rows.items():
            if size != sizes.get(tag):
                yield Violation("size", key, event, f"its row says {size} bytes, not {sizes.get(tag)}")


def _violation(what: str, key: str, op: Op, events: Sequence[Event]) -> Violation:
    event = op.note
    assert isinstance(event, Event)
    near = [other for other in events if (other.key == key or (other.verb == LIST and what == "listing"))
            and other.begin_s <= (event.end_s or event.begin_s)]
    lines = [describe(other, key) for other in sorted(near, key=lambda other: other.begin_s)[-NEAR_COUNT:]]
    return Violation(what, key, event, f"nothing explains {describe(event, key)}\nbefore and beside it:\n  " + "\n  ".join(lines))


def describe(event: Event, key: str = "") -> str:
    """One line for a person."""
    end = "?" if event.end_s is None else f"{event.end_s:.4f}"
    facts: dict[str, object] = {"tag": event.tag, "mark": event.mark, "if_match": event.if_match,
                                "if_none_match": event.if_none_match, "seen": event.seen}
    if event.verb == LIST and key:
        facts["row"] = event.rows.get(key, "none")
    text = " ".join(f"{name}={value}" for name, value in facts.items() if value is not None)
    return (f"#{event.number} {event.begin_s:.4f}..{end} client={event.client} gateway={event.gateway} {event.verb} "
            f"{event.key} {text} -> {event.status}{' pending' if event.is_pending else ''}")
