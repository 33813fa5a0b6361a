"""Figures from figures: percentiles by nearest rank, and the ratios of pairs with their spread."""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A median and the quartiles around it."""

    low: float                               # a quarter of the values is not above it
    median: float
    high: float
    count: int

    @property
    def is_clear(self) -> bool:
        """True for ratios of which even the middle half lies on one side of 1; else the difference is noise."""
        return not self.low <= 1.0 <= self.high


def find_percentile(ordered: Sequence[float], share: float) -> float:
    """Nearest rank of sorted values: the smallest one that `share` of them do not exceed; 0 of none."""
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1] if ordered else 0.0


def find_spread(values: Sequence[float]) -> Spread | None:
    """None of none. Between two values the quartiles are interpolated."""
    if not values:
        return None
    ordered = sorted(values)
    low, median, high = (_interpolate(ordered, share) for share in (0.25, 0.5, 0.75))
    return Spread(low=low, median=median, high=high, count=len(values))


def find_ratios(before: Sequence[float | None], after: Sequence[float | None]) -> list[float]:
    """after / before, pair by pair; a pair without both figures has none."""
    return [b / a for a, b in zip(before, after, strict=True) if a and b is not None]


def _interpolate(ordered: Sequence[float], share: float) -> float:
    at = share * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)
