"""The Range field: parsing, what it means for a length, and the multipart/byteranges form. Pure.

Source: RFC 9110, 14; the limits against egregious requests are Swift's.
"""
from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

RANGE_COUNT_MAX = 50
OVERLAP_COUNT_MAX = 2
DESCENT_COUNT_MAX = 8
REPEAT_MAX = 2                           # an answer of several ranges has at most this often the bytes of the object
_DIGITS_MAX = 19                         # 2**63 has as many; more is no position in a file


class Span(NamedTuple):
    """Bytes start .. stop-1."""

    start: int
    stop: int


RangeSpec = tuple[int | None, int | None]        # first and last as written; (None, n): the last n bytes


def parse_range(text: str) -> list[RangeSpec] | None:
    """Ranges as written; None for a field that means nothing and is ignored."""
    unit, equals, rest = text.replace(" ", "").partition("=")
    if not equals or unit.lower() != "bytes":
        return None
    specs: list[RangeSpec] = []
    for part in rest.split(","):
        first_text, dash, last_text = part.partition("-")
        if not dash or not (first_text or last_text) or not _is_number(first_text) or not _is_number(last_text):
            return None
        first = int(first_text) if first_text else None
        last = int(last_text) if last_text else None
        if first is not None and last is not None and last < first:
            return None
        specs.append((first, last))
    return specs


def _is_number(text: str) -> bool:
    return text == "" or (text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX)


def spans_for(specs: Sequence[RangeSpec], length: int) -> list[Span]:
    """What the ranges cover of `length` bytes, in the order asked for; empty: not satisfiable, or egregious (416)."""
    spans = []
    for first, last in specs:
        if first is None:
            assert last is not None
            if last > 0:
                spans.append(Span(max(0, length - last), length))
        elif first < length:
            spans.append(Span(first, length if last is None else min(last + 1, length)))
    return [] if _is_egregious(spans, length) else spans


def _is_egregious(spans: Sequence[Span], length: int) -> bool:
    """More work than any reader has a use for."""
    if len(spans) > RANGE_COUNT_MAX or sum(span.stop - span.start for span in spans) > REPEAT_MAX * length:
        return True
    overlaps = descents = 0
    for one, two in pairwise(spans):
        overlaps += one.start < two.stop and two.start < one.stop         # the same range twice is an overlap
        descents += one.start > two.start
    return overlaps > OVERLAP_COUNT_MAX or descents > DESCENT_COUNT_MAX


def content_range(span: Span, length: int) -> str:
    """The value of Content-Range."""
    return f"bytes {span.start}-{span.stop - 1}/{length}"


def part_head(boundary: str, content_type: str, span: Span, length: int) -> bytes:
    """What stands before the bytes of one part."""
    text = f"--{boundary}\r\nContent-Type: {content_type}\r\nContent-Range: {content_range(span, length)}\r\n\r\n"
    return text.encode("utf-8", "surrogateescape")


PART_END = b"\r\n"


def multipart_end(boundary: str) -> bytes:
    """What stands after the last part."""
    return f"--{boundary}--".encode()


def multipart_bytes(boundary: str, content_type: str, spans: Sequence[Span], length: int) -> int:
    """Content-Length of the whole multipart body."""
    parts = sum(len(part_head(boundary, content_type, span, length)) + span.stop - span.start + len(PART_END) for span in spans)
    return parts + len(multipart_end(boundary))
