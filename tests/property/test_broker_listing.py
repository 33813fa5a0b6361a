"""Pages of a row database against a dictionary, for every bound, prefix, delimiter and direction."""
from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from common.timestamp import Stamp
from container.broker import Broker
from container.listing import successor
from container.wire import PageRequest, Row

NAMES = st.text(alphabet="ab/\u00e9\U0010ffff", min_size=1, max_size=6)
BOUNDS = st.one_of(st.just(""), NAMES)


def expected_page(names, page):
    """The rule, slowly: Swift's listing over a sorted list."""
    entries = []
    for name in sorted(names, reverse=page.reverse):
        if not name.startswith(page.prefix) or (page.is_flat and name == page.prefix):
            continue
        after, before = (page.end_marker, page.marker) if page.reverse else (page.marker, page.end_marker)
        if (after and name <= after) or (before and name >= before):
            continue
        at = name.find(page.delimiter, len(page.prefix)) if page.delimiter else -1
        end = at + len(page.delimiter)
        if at < 0 or (page.is_flat and end == len(name)):
            entries.append(("row", name))
        elif not page.is_flat and name[:end] != page.marker and ("dir", name[:end]) not in entries:
            entries.append(("dir", name[:end]))
    return entries[:page.limit]


@settings(max_examples=300)
@given(names=st.sets(NAMES, max_size=25), limit=st.integers(1, 8), marker=BOUNDS, end_marker=BOUNDS, prefix=BOUNDS,
       delimiter=st.sampled_from(["", "/", "a", "//", "b/"]), reverse=st.booleans(), is_flat=st.booleans())
def test_page_is_what_a_sorted_list_says(tmp_path_factory, names, limit, marker, end_marker, prefix, delimiter, reverse, is_flat):
    page = PageRequest(limit, marker, end_marker, prefix, delimiter, reverse, is_flat and bool(delimiter))
    broker = Broker(str(tmp_path_factory.mktemp("broker") / "x.db"), "/a/c", ["p"])
    broker.apply([(Row(name, "", Stamp(1, 0, 0, n + 1), True, 5), None) for n, name in enumerate(names)], sequence=1)
    answer = broker.page(page, instance=5, peer="p")
    found = [("dir", e) if isinstance(e, str) else ("row", e[0]) for e in answer.entries]
    assert found == expected_page(names, page)
    assert {row.name for row in answer.unconfirmed} >= {name for kind, name in found if kind == "row"} or len(names) > limit
    broker.close()


def test_a_reverse_flat_page_shows_the_markers_of_its_folders(tmp_path):
    broker = Broker(str(tmp_path / "x.db"), "/a/c", [])
    broker.apply([(Row(name, "", Stamp(1, 0, 0, n + 1), True, 5), None) for n, name in enumerate(["p/x/", "p/x/y", "p/z"])],
                 sequence=1)
    page = PageRequest(10, prefix="p/", delimiter="/", reverse=True, is_flat=True)
    assert [row[0] for row in broker.page(page, instance=5, peer=None).entries] == ["p/z", "p/x/"]
    broker.close()


@given(prefix=st.text(max_size=5), rest=st.text(max_size=5))
def test_successor_is_above_every_name_with_the_prefix(prefix, rest):
    after = successor(prefix)
    assert after is None or (after > prefix + rest and not after.startswith(prefix or "\x00never"))
