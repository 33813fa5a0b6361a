"""Percentiles and spreads."""
from __future__ import annotations

import pytest

from bench.ratios import find_percentile, find_ratios, find_spread


@pytest.mark.parametrize(("share", "wanted"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1), (0.505, 51)])
def test_a_percentile_is_a_value_that_occurred(share, wanted):
    assert find_percentile(list(range(1, 101)), share) == wanted


def test_of_nothing_there_is_no_percentile_and_no_spread():
    assert find_percentile([], 0.99) == 0
    assert find_spread([]) is None


def test_a_spread_is_the_median_and_the_quartiles_whatever_the_order():
    spread = find_spread([7, 1, 3, 5, 2, 6, 4])
    assert (spread.low, spread.median, spread.high, spread.count) == (2.5, 4, 5.5, 7)
    assert find_spread([1.0, 2.0]).median == 1.5


def test_one_outlier_moves_neither_median_nor_quartiles():
    assert find_spread([1, 2, 3, 4, 5, 6, 700]) == find_spread([1, 2, 3, 4, 5, 6, 7])


@pytest.mark.parametrize(("values", "is_clear"), [((0.8, 0.85, 0.9), True), ((1.1, 1.2, 1.3), True), ((0.9, 1.0, 1.2), False)])
def test_a_difference_is_clear_when_1_lies_outside_the_quartiles(values, is_clear):
    assert find_spread(values).is_clear is is_clear


def test_ratios_are_of_pairs_and_a_pair_without_a_figure_has_none():
    assert find_ratios([2.0, 4.0, None, 5.0, 0.0], [1.0, 8.0, 3.0, None, 1.0]) == [0.5, 2.0]


def test_sides_of_different_length_are_a_mistake():
    with pytest.raises(ValueError, match="shorter"):
        find_ratios([1.0, 2.0], [1.0])
