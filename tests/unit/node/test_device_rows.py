"""What the journal may forget: rows that a checkpoint of their space covers, whatever the other space does."""
import pytest

from node.storage import DeviceRows
from object.wire import SPACE_ACCOUNT, SPACE_CONTAINER


class Device:
    def __init__(self):
        self.sequence, self.covered = 0, []

    def append_row(self, kind, meta):
        self.sequence += 1
        return self.sequence

    def rows_covered(self, sequence):
        self.covered.append(sequence)


class Owner:
    def __init__(self):
        self.device = Device()


@pytest.fixture
def rows():
    return DeviceRows(Owner())


def covered(rows):
    return rows._device.covered[-1]


def append(rows, *spaces):
    return [rows.append_row(space, b"") for space in spaces]


def test_a_space_without_rows_holds_up_no_other(rows):
    append(rows, SPACE_ACCOUNT, SPACE_ACCOUNT)
    rows.rows_covered(SPACE_ACCOUNT, 2)
    assert covered(rows) == 2


def test_rows_of_the_other_space_that_no_checkpoint_covers_stay(rows):
    append(rows, SPACE_CONTAINER, SPACE_ACCOUNT, SPACE_ACCOUNT)
    rows.rows_covered(SPACE_ACCOUNT, 3)
    assert covered(rows) < 1
    rows.rows_covered(SPACE_CONTAINER, 3)
    assert covered(rows) == 3


def test_a_space_that_goes_on_after_its_checkpoint_counts_again(rows):
    append(rows, SPACE_CONTAINER)
    rows.rows_covered(SPACE_CONTAINER, 1)
    append(rows, SPACE_ACCOUNT, SPACE_CONTAINER, SPACE_ACCOUNT)
    rows.rows_covered(SPACE_ACCOUNT, 4)
    assert covered(rows) == 1
    rows.rows_covered(SPACE_CONTAINER, 4)
    assert covered(rows) == 4


def test_rows_found_at_the_start_stay_until_a_checkpoint_covers_them(rows):
    rows.note_row(SPACE_CONTAINER, 7)
    rows._device.sequence = 7
    append(rows, SPACE_ACCOUNT)
    rows.rows_covered(SPACE_ACCOUNT, 8)
    assert covered(rows) < 7
