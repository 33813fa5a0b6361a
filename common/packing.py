"""msgpack with one packer for the loop's thread: `msgpack.packb` allocates and frees a buffer of 256 KiB at every call.

That was 17 % of a PUT. A `Packer` must not be used by two threads at once: other threads call `pack_elsewhere`.
Names that are no valid Unicode (never from a client, but from an old disk) survive by surrogatepass.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack

pack: Callable[[Any], bytes] = msgpack.Packer(unicode_errors="surrogatepass", autoreset=True).pack


def pack_elsewhere(value: Any) -> bytes:
    """The same in any thread."""
    packed: bytes = msgpack.packb(value, unicode_errors="surrogatepass")
    return packed
