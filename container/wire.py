"""Records that cross the network to and from row databases: rows, pages, states of containers.

    | row: msgpack [name, version, stamp 24B, is live, instance, size, count, etag, content type, created us, stat us] |
    | state of a container: msgpack [instance, created us, put us, policy, meta, headers, shards] |

A container's rows are objects; an account's rows are containers (with bytes used and object count). The state travels as
`Version.descriptor` of a register in its space (object/wire.py).
"""
from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgpack

from common.errors import Corruption
from common.packing import pack
from common.timestamp import Stamp, unpack_stamp

UNCONFIRMED_ROWS = 1000                  # or the page's limit, if that is more: how many one answer brings
OP_PUT_ROWS, OP_PAGE, OP_UNCONFIRMED, OP_LIVE_ROWS, OP_FIGURES, OP_CONFIRM, OP_ROWS_OF = range(32, 39)


class Row(NamedTuple):
    """One name in a listing. Rows of a name merge: the higher stamp wins, figures by `stat_us` within one instance."""

    name: str
    version: str                         # "" is the current one
    stamp: Stamp                         # of the register state that it shows, write id included
    is_live: bool
    instance: int                        # of the container it belongs to; of a container itself in an account
    size_bytes: int = 0
    object_count: int = 0
    etag: str = ""
    content_type: str = ""
    created_us: int = 0
    stat_us: int = 0                     # when size and count of a container were taken; 0: not known here


def pack_row(row: Row) -> tuple[object, ...]:
    return (row[0], row[1], row[2].pack(), *row[3:])


def unpack_row(fields: Sequence[object]) -> Row:
    """Raises `Corruption`."""
    try:
        name, version, stamp, *rest = fields
        return Row(name, version, unpack_stamp(stamp), *rest)  # type: ignore[arg-type]
    except (ValueError, TypeError, struct.error) as error:
        raise Corruption(what="row", reason=str(error)) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerState:
    """What the register of a container says. instance: microseconds << 12 | random: later ones are higher."""

    instance: int
    created_us: int
    put_us: int
    policy: int
    meta: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    shards: list[object] = field(default_factory=list)           # name ranges, once a container splits

    def pack(self) -> bytes:
        return pack((self.instance, self.created_us, self.put_us, self.policy, dict(self.meta),
                     dict(self.headers), self.shards))


def unpack_container_state(packed: bytes) -> ContainerState:
    """Raises `Corruption`."""
    try:
        instance, created_us, put_us, policy, meta, headers, shards = msgpack.unpackb(packed)
    except (ValueError, TypeError) as error:
        raise Corruption(what="container state", reason=str(error)) from error
    return ContainerState(instance=instance, created_us=created_us, put_us=put_us, policy=policy, meta=meta,
                          headers=headers, shards=shards)


class PageRequest(NamedTuple):
    """Which names; bounds are exclusive, "" for none. Order: bytes of UTF-8."""

    limit: int
    marker: str = ""
    end_marker: str = ""
    prefix: str = ""
    delimiter: str = ""
    reverse: bool = False
    is_flat: bool = False                # Swift's path=: entries below the prefix, no rolled-up names


class Figures(NamedTuple):
    """Of the rows that are live in one instance."""

    row_count: int
    size_bytes: int                      # sum
    object_count: int                    # sum, in accounts


# What a listing shows of a row: name, size in bytes, object count, etag, content type, created us. Plain tuples, as SQLite and
# msgpack make them: a page has a thousand, and gives none of them a name of its own.
ListEntry = tuple[str, int, int, str, str, int]


class PageAnswer(NamedTuple):
    """One replica's page. entries: what it shows of rows, or a rolled-up name as str; unconfirmed: rows of the range that the
    asked-for peer is not known to hold (tombstones too)."""

    entries: list[ListEntry | str]
    unconfirmed: list[Row]
    figures: Figures


def pack_rows(rows: Sequence[Row]) -> bytes:
    """Body of a frame: rows do not fit in a header."""
    return pack([pack_row(row) for row in rows])


def unpack_rows(packed: bytes) -> list[Row]:
    """Raises `Corruption`."""
    return [unpack_row(row) for row in msgpack.unpackb(packed)]


def pack_page(answer: PageAnswer) -> bytes:
    """Body of a frame."""
    return pack((answer.entries, [pack_row(row) for row in answer.unconfirmed], answer.figures))


def unpack_page(packed: bytes) -> PageAnswer:
    """Inverse of `pack_page`."""
    entries, unconfirmed, figures = msgpack.unpackb(packed, use_list=False)
    return PageAnswer(list(entries), [unpack_row(row) for row in unconfirmed], Figures(*figures))
