"""The filter never denies a key that was added, and denies most that were not."""
from __future__ import annotations

import hashlib

from object.keyfilter import KeyFilter
from object.wire import make_key


def keys(start, count):
    return [make_key(16, 5, hashlib.md5(b"%d" % n).digest()) for n in range(start, start + count)]


def test_no_key_that_was_added_is_denied():
    known = KeyFilter(0)
    known.fill(keys(0, 5000))
    for key in keys(5000, 5000):
        known.add(key)
    assert all(known.may_hold(key) for key in keys(0, 10_000))


def test_most_strangers_are_denied():
    known = KeyFilter(20_000)
    known.fill(keys(0, 20_000))
    assert sum(known.may_hold(key) for key in keys(100_000, 20_000)) < 20_000 * 0.03


def test_a_filter_that_is_being_filled_denies_nothing():
    known = KeyFilter(10)
    assert known.may_hold(keys(1, 1)[0])
