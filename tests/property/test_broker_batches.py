"""A batch of rows merges as the same rows would one after the other."""
from __future__ import annotations

import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st

from common.timestamp import ZERO, Stamp
from container.broker import Broker
from container.wire import PageRequest, Row

NAMES = ["a", "b", "c", "d"]
STAMPS = st.one_of(st.just(ZERO), st.builds(Stamp, st.integers(1, 6), st.just(0), st.just(1), st.integers(1, 2)))
ROWS = st.builds(Row, st.sampled_from(NAMES), st.just(""), STAMPS, st.booleans(), st.integers(1, 3), st.integers(0, 9),
                 st.integers(0, 3), st.just("e"), st.just("t"), st.integers(1, 9), st.integers(0, 4))
BATCHES = st.lists(st.lists(st.tuples(ROWS, st.sampled_from([None, "p", "q"])), max_size=12), min_size=1, max_size=4)


def state_of(broker):
    page = PageRequest(100)
    return ({name: broker.versions(name) for name in NAMES}, broker.figures, broker.instance, broker.newest_us,
            {peer: sorted(broker.unconfirmed(peer, page, limit=100)) for peer in "pq"}, dict(broker._confirmed), broker._change)


@settings(deadline=None, max_examples=150)
@given(name=st.sampled_from(["/a/c", "/a"]), batches=BATCHES)
def test_a_batch_is_its_rows_one_after_the_other(name, batches):
    with tempfile.TemporaryDirectory() as root:
        together, alone = Broker(f"{root}/together.db", name, ["p", "q"]), Broker(f"{root}/alone.db", name, ["p", "q"])
        for sequence, batch in enumerate(batches, 1):
            together.apply(batch, sequence=sequence)
            for pair in batch:
                alone.apply([pair], sequence=sequence)
            assert state_of(together) == state_of(alone)
        together.close()
        again = Broker(f"{root}/together.db", name, ["p", "q"])          # what is in memory is in the file
        assert state_of(again)[:4] == state_of(alone)[:4]
        again.close()
        alone.close()
