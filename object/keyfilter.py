"""Which keys a device may hold: a Bloom filter in memory, so that a write of a new name asks no index.

Two probes from the name's MD5; 16 bits per key give 1.4 % false positives, each of which costs an index lookup. A lookup
in LMDB hands the interpreter lock to another thread: 15 us, against 0.5 us here. Source: B. Bloom, 1970.
"""
from __future__ import annotations

from collections.abc import Iterable

BITS_PER_KEY = 16
BITS_MIN = 1 << 20


class KeyFilter:
    """Says "not here" for certain once it is complete, else "perhaps"."""

    def __init__(self, key_count: int) -> None:
        """key_count: how many keys are known now; room for as many again is made."""
        bits = BITS_MIN
        while bits < 2 * key_count * BITS_PER_KEY:
            bits *= 2
        self._mask = bits - 1
        self._bits = bytearray(bits // 8)
        self.is_complete = False

    def add(self, key: bytes) -> None:
        """From the owner's loop, or while filling from one other thread: setting bits twice does no harm."""
        word = int.from_bytes(key[5:13], "little")
        first, second = word & self._mask, (word >> 32) & self._mask
        self._bits[first >> 3] |= 1 << (first & 7)
        self._bits[second >> 3] |= 1 << (second & 7)

    def fill(self, keys: Iterable[bytes]) -> None:
        """Add what the index holds; from then on the filter is complete. Blocking."""
        for key in keys:
            self.add(key)
        self.is_complete = True

    def may_hold(self, key: bytes) -> bool:
        """False: the key was never added."""
        if not self.is_complete:
            return True
        word = int.from_bytes(key[5:13], "little")
        first, second = word & self._mask, (word >> 32) & self._mask
        return bool(self._bits[first >> 3] >> (first & 7) & self._bits[second >> 3] >> (second & 7) & 1)
