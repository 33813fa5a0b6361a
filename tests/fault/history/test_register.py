"""The checker itself: it takes what a register may do, however it is mixed, and finds what none may."""
from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.fault.history.register import (
    ABSENT,
    NEVER_S,
    Act,
    Needs,
    Op,
    State,
    Undecided,
    apply,
    find_violation,
    is_linearizable,
)


def put(tag, begin_s, end_s, *, needs=None, mark=None):
    return Op(Act.PUT, State(tag, mark), begin_s, end_s, needs)


def delete(begin_s, end_s, *, needs=None):
    return Op(Act.DELETE, ABSENT, begin_s, end_s, needs)


def post(mark, begin_s, end_s):
    return Op(Act.POST, State(None, mark), begin_s, end_s)


def see(tag, begin_s, end_s, *, mark=None):
    return Op(Act.SEE, State(tag, mark) if tag is not None else ABSENT, begin_s, end_s)


def see_live(begin_s, end_s):
    return Op(Act.SEE_LIVE, ABSENT, begin_s, end_s)


def see_other(tag, begin_s, end_s):
    return Op(Act.SEE_OTHER, State(tag), begin_s, end_s)


TWO = [put("1", 0, 1), put("2", 2, 3)]
LEGAL = {
    "nothing": [],
    "write, then read": [*TWO, see("2", 4, 5)],
    "a read beside a write sees either": [*TWO, see("1", 2, 3), see("2", 2, 3)],
    "old, then new beside one write": [*TWO, see("1", 2, 2.4), see("2", 2.5, 2.9)],
    "an unknown write that appears late": [put("1", 0, NEVER_S), see(None, 1, 2), see("1", 3, 4)],
    "an unknown write that never appears": [*TWO, put("3", 0, NEVER_S), see("2", 9, 10)],
    "an unknown delete that takes effect between two reads": [put("1", 0, 1), delete(2, NEVER_S), see("1", 3, 4), see(None, 5, 6)],
    "an unknown write explains a condition": [put("1", 0, 1), put("2", 2, NEVER_S), see_other("1", 3, 4), put("3", 5, 6),
                                              see("3", 7, 8)],
    "create once": [put("1", 0, 1, needs=Needs(None)), see_live(2, 3), see("1", 4, 5)],
    "create again after a delete": [put("1", 0, 1), delete(2, 3), put("2", 4, 5, needs=Needs(None)), see("2", 6, 7)],
    "replace what is there": [put("1", 0, 1), put("2", 2, 3, needs=Needs("1")), see_other("1", 4, 5), see("2", 4, 5)],
    "one of two that race wins": [put("0", 0, 1), put("1", 2, 5, needs=Needs("0")), see_other("0", 2, 5), see("1", 6, 7)],
    "metadata": [put("1", 0, 1, mark="a"), post("b", 2, 3), see("1", 4, 5, mark="b")],
    "a post beside a write": [put("1", 0, 1, mark="a"), put("2", 2, 5, mark="c"), post("b", 2, 5), see("2", 6, 7, mark="b")],
    "an unknown post appears": [put("1", 0, 1, mark="a"), post("b", 2, NEVER_S), see("1", 3, 4, mark="a"),
                                see("1", 5, 6, mark="b")],
    "a deletion beside a deletion": [put("1", 0, 1), delete(2, 4), delete(2, 4), see(None, 5, 6)],
    "what ends as another begins is concurrent": [put("1", 0, 1), see(None, 1, 2)],
}
ILLEGAL = {
    "a stale read": [*TWO, see("1", 4, 5)],
    "a lost write": [put("1", 0, 1), see(None, 2, 3)],
    "new, then old": [*TWO, see("2", 2, 2.4), see("1", 2.5, 2.9)],
    "a value nobody wrote": [put("1", 0, 1), see("9", 2, 3)],
    "a value before it was written": [see("1", 0, 1), put("1", 2, 3)],
    "a resurrected delete": [put("1", 0, 1), delete(2, 3), see("1", 4, 5)],
    "an unknown write that comes and goes": [put("1", 0, NEVER_S), see("1", 1, 2), see(None, 3, 4)],
    "an unknown delete that comes and goes": [put("1", 0, 1), delete(2, NEVER_S), see(None, 3, 4), see("1", 5, 6)],
    "an unknown delete takes effect once": [put("1", 0, 1), delete(2, NEVER_S), see(None, 3, 4), put("2", 5, 6), see(None, 7, 8)],
    "created twice": [put("1", 0, 1, needs=Needs(None)), put("2", 2, 3, needs=Needs(None))],
    "both of two that race win": [put("0", 0, 1), put("1", 2, 5, needs=Needs("0")), put("2", 2, 5, needs=Needs("0"))],
    "refused though nothing is there": [see_live(0, 1)],
    "refused though the tag is right": [put("1", 0, 1), see_other("1", 2, 3)],
    "a post of nothing": [post("a", 0, 1)],
    "a lost post": [put("1", 0, 1, mark="a"), post("b", 2, 3), see("1", 4, 5, mark="a")],
    "a post that a later write undoes, backwards": [put("1", 0, 1, mark="a"), post("b", 2, 3), put("2", 4, 5, mark="c"),
                                                    see("1", 6, 7, mark="b")],
    "a post brings the old body back": [put("1", 0, 1, mark="a"), put("2", 2, 5, mark="c"), post("b", 2, 5),
                                        see("1", 6, 7, mark="b")],
}


@pytest.mark.parametrize("name", LEGAL)
def test_what_a_register_may_do_is_taken(name):
    assert find_violation(LEGAL[name]) is None


@pytest.mark.parametrize("name", ILLEGAL)
def test_what_no_register_does_is_found(name):
    assert find_violation(ILLEGAL[name]) is not None


def test_the_answer_that_cannot_be_is_named():
    bad = see("1", 4, 5)
    assert find_violation([*TWO, see("2", 3.5, 3.9), bad, see("2", 6, 7)]) is bad


def test_the_state_before_counts():
    assert is_linearizable([see("0", 0, 1)], first=State("0"))
    assert not is_linearizable([see(None, 0, 1)], first=State("0"))


# --- histories of a register that is one --------------------------------------------------------------------------


def simulate(rng, *, clients=10, steps=40, unknown=0.1, marks=True):
    """What clients of a correct register see: each operation takes effect at one moment drawn between its two ends."""
    planned = []                         # (moment, begin, end, client, step)
    for client in range(clients):
        now_s = rng.random()
        for step in range(steps):
            begin_s = now_s + rng.random() * 0.5
            end_s = begin_s + rng.random() * rng.choice([0.1, 1.0, 4.0])
            planned.append((rng.uniform(begin_s, end_s), begin_s, end_s, client, step))
            now_s = end_s
    state, ops, tags = ABSENT, [], ["t"]
    for _, begin_s, end_s, client, step in sorted(planned):
        name = f"{client}.{step}"
        roll = rng.random()
        needs = None
        if roll < 0.45:
            wanted = Op(Act.SEE, state, begin_s, end_s)
        elif roll < 0.6 and marks:
            wanted = post(name, begin_s, end_s)
        elif roll < 0.7:
            wanted = delete(begin_s, end_s)
        else:
            if roll > 0.85:
                needs = rng.choice([Needs(None), Needs(rng.choice(tags[-2:]))])
            wanted = put(name, begin_s, end_s, needs=needs, mark=name if marks else None)
            tags.append(name)
        is_unknown = rng.random() < unknown
        may, after = apply(wanted, state)
        if is_unknown:                   # it took effect, or never will
            if wanted.act is not Act.SEE:
                ops.append(replace(wanted, end_s=NEVER_S))
            if may and rng.random() < 0.5:
                state = after
            continue
        if may:
            ops.append(wanted)
            state = after
        elif wanted.act is Act.POST:
            ops.append(see(None, begin_s, end_s))
        elif needs == Needs(None):
            ops.append(see_live(begin_s, end_s))
        else:
            ops.append(see_other(needs.tag, begin_s, end_s))
    rng.shuffle(ops)
    return ops


@pytest.mark.parametrize("seed", range(60))
def test_histories_of_a_true_register_are_taken(seed):
    rng = random.Random(seed)
    ops = simulate(rng, clients=rng.choice([1, 2, 4, 10]), unknown=rng.choice([0, 0.1, 0.4]), marks=rng.random() < 0.7)
    assert find_violation(ops) is None


def test_a_long_history_with_many_unknown_outcomes_is_judged():
    ops = simulate(random.Random(1), clients=10, steps=250, unknown=0.05)
    assert len(ops) > 2_300 and find_violation(ops) is None


# --- the same, spoiled ------------------------------------------------------------------------------------------


def a_stale_read(ops, rng):
    """A read sees what was overwritten before it began, by a write that was answered before, too."""
    known = sorted((op for op in ops if op.end_s != NEVER_S), key=lambda op: op.begin_s)
    puts = [op for op in known if op.act is Act.PUT]
    for old in rng.sample(puts, len(puts)):
        later = next((op for op in puts if op.begin_s > old.end_s), None)
        if later is not None:
            after_s = max(op.end_s for op in known) + 1
            return [*ops, replace(later, begin_s=after_s, end_s=after_s + 1, needs=None),
                    Op(Act.SEE, old.state, after_s + 2, after_s + 3)]
    return None


def a_lost_write(ops, rng):
    """After all is done one write is answered, and another one, of which nothing is seen."""
    after_s = max(op.end_s for op in ops if op.end_s != NEVER_S) + 1
    return [*ops, put("kept", after_s, after_s + 1), put("lost", after_s + 2, after_s + 3), see("kept", after_s + 4, after_s + 5)]


def a_value_from_nowhere(ops, rng):
    """A value that was read was never written."""
    seen = {op.state.tag for op in ops if op.act is Act.SEE and op.state is not None}
    gone = rng.choice([op for op in ops if op.act is Act.PUT and op.state.tag in seen])
    return [op for op in ops if op is not gone]


def a_resurrected_delete(ops, rng):
    """After all is done the name is deleted, and comes back."""
    live = [op for op in ops if op.act is Act.SEE and op.state is not None]
    if not live:
        return None
    after_s = max(op.end_s for op in ops if op.end_s != NEVER_S) + 1
    return [*ops, delete(after_s, after_s + 1), Op(Act.SEE, rng.choice(live).state, after_s + 2, after_s + 3)]


@pytest.mark.parametrize("spoil", [a_stale_read, a_lost_write, a_value_from_nowhere, a_resurrected_delete])
@pytest.mark.parametrize("seed", range(25))
def test_spoiled_histories_are_refused(spoil, seed):
    rng = random.Random(seed)
    ops = spoil(simulate(rng, unknown=rng.choice([0, 0.1]), clients=4), rng)
    assert ops is not None and find_violation(ops) is not None


@pytest.mark.parametrize("seed", range(6))
def test_the_search_agrees_with_trying_every_order(seed):
    """Small histories, half of them spoiled by a read of something else, against a search without any cleverness."""
    rng = random.Random(1000 + seed)
    verdicts = set()
    for _ in range(150):
        ops = simulate(rng, clients=3, steps=2, unknown=0.25, marks=rng.random() < 0.5)
        if rng.random() < 0.7:
            ops = [replace(op, state=rng.choice([ABSENT, *(o.state for o in ops if o.act is Act.PUT)]))
                   if op.act is Act.SEE and rng.random() < 0.6 else op for op in ops]
        verdict = is_linearizable(ops)
        assert verdict == has_order(ops), ops
        verdicts.add(verdict)
    assert verdicts == {True, False}


def has_order(ops):
    """Wing and Gong without memory: any operation that no other one has to precede may come next."""
    def go(left, state):
        if all(op.end_s == NEVER_S for op in left):
            return True
        bound_s = min(op.end_s for op in left)
        for op in left:
            if op.begin_s <= bound_s:
                may, after = apply(op, state)
                if may and go([other for other in left if other is not op], after):
                    return True
        return False
    return go(ops, ABSENT)


def test_what_cannot_be_decided_is_said_and_not_taken(monkeypatch):
    monkeypatch.setattr("tests.fault.history.register.CONFIGURATIONS_MAX", 100)
    ops = [put(str(n), 0, 10) for n in range(12)]
    with pytest.raises(Undecided):
        find_violation([*ops, *(see_other(str(n), 0, 10) for n in range(12))])
