"""The table of `holdfast usage`: every figure under its title, readable sizes, sums."""
import pytest

from cli.usage import format_bytes, format_usage
from node.usage import Usage


def answer(*rows):
    return {"from": "2026-11-20", "to": "2026-11-20", "usage": [row.as_fields() for row in rows]}


def test_every_figure_stands_under_its_title():
    row = Usage(day="2026-11-20", account="AUTH_a", reads=1, writes=2, lists=3, deletes=4, received_bytes=5_000,
                sent_bytes=6_000_000, stored_bytes=7_000_000_000, objects=8, containers=9, seen_us=1)
    title, line = format_usage(answer(row)).splitlines()
    cells = dict(zip(title.split(), line.replace(" kB", "kB").replace(" MB", "MB").replace(" GB", "GB").split(), strict=True))
    assert cells == {"day": "2026-11-20", "account": "AUTH_a", "stored": "7GB", "objects": "8", "containers": "9", "reads": "1",
                     "writes": "2", "lists": "3", "deletes": "4", "received": "5kB", "sent": "6MB"}


def test_several_rows_have_a_sum_of_what_adds_up():
    text = format_usage(answer(Usage(day="2026-11-20", account="a", reads=1), Usage(day="2026-11-20", account="b", reads=2)))
    assert text.splitlines()[-1].split()[:2] == ["all", "3"]


def test_what_is_not_known_is_no_zero():
    assert "?" in format_usage(answer(Usage(day="2026-11-20", account="a", reads=1)))


def test_a_name_cannot_move_the_cursor_of_a_terminal():
    assert "\x1b" not in format_usage(answer(Usage(day="2026-11-20", account="a\x1b[2J")))


def test_a_day_without_requests_is_said_to_be_one():
    assert format_usage(answer()) == "nothing was asked for, 2026-11-20\n"


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_234_567, "1.23 MB"), (999_900, "1 MB"),
                                             (5 * 10**12, "5 TB"), (10**22, "10000 EB")])
def test_sizes_have_three_digits_and_a_unit(count, text):
    assert format_bytes(count) == text
