"""A device that forgot does not count, however often it starts afterwards and wherever it is killed."""
from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest

from common.errors import DeviceRefused
from common.faultfs import FaultFs, PowerLoss
from common.timestamp import ZERO, Stamp
from object.format import SEGMENT_DROPPED
from object.identity import load_identity, save_identity
from object.index import MemoryIndex
from object.peers import PeerMark
from object.replay import read_segment_header, segment_path
from tests.fault.object.device_client import IDENTITY, NOW, Client, key_of

JOURNAL = "/d1/journal"
HOUR_US = 3_600_000_000


def started(fs=None, index=None):
    client = Client(fs or FaultFs(seed=1), index or MemoryIndex())
    client.start()
    return client


def lose_power(client):
    """The same disk at its next start: only what was synced is there."""
    return started(client.fs.after_power_loss(), client.index)


def compare(device, remembered):
    """As `Owner.compared_with` and `decide` do it, with two peers of one memory."""
    found = device.recovery
    for peer in ("p1", "p2"):
        if not device.standing.amnesia:
            reason = device.standing.compare(peer, remembered, PeerMark(found.incarnation, found.epoch, found.sequence))
            if reason is not None:
                device.restart_memory(NOW, reason)
    return device.standing.decide(2, is_patient=True)


@pytest.fixture
def rolled_back():
    """A disk as it was before its last write, at its first start since, and what the peers remember."""
    client = started()
    client.put("a", 100)
    client.flush()
    fs, index = client.fs.copy(), deepcopy(client.index)
    client.put("x", 3000)
    return started(fs.after_power_loss(), index), client.device.mark()


def damage():
    """A device with damage that no footer names, before its next start."""
    client = started()
    for name in "xyz":
        client.put(name, 3000)
    held = client.device.get(key_of("x"))
    client.fs.flip_bit(segment_path(JOURNAL, held.segment), held.offset + 60)
    return client


@pytest.fixture
def damaged():
    """The same after it."""
    return lose_power(damage())


def test_damage_that_the_next_start_does_not_read_again_is_not_forgotten(damaged):
    reason = damaged.device.standing.amnesia
    damaged.flush()
    again = lose_power(damaged)
    assert "damaged" in reason and again.device.standing.amnesia == reason
    assert not compare(again.device, damaged.device.mark())


def test_a_known_reason_keeps_incarnation_and_floor(damaged):
    damaged.flush()
    known = damaged.device
    for _ in range(2):
        damaged = lose_power(damaged)
        damaged.device.commit_inline()
        assert damaged.device.standing.amnesia == known.standing.amnesia
        assert damaged.device.identity == known.identity and damaged.device.floor == known.floor > Stamp(NOW, 0, 0, 0)


def test_the_reason_is_durable_before_the_journal_goes_on(monkeypatch):
    found = []

    def lose_power_instead(fs, root, **_):
        found.append(load_identity(fs.after_power_loss(), root))
        raise PowerLoss

    client = damage()
    monkeypatch.setattr("object.device.Journal", lose_power_instead)
    with pytest.raises(PowerLoss):
        lose_power(client)
    assert "damaged" in found[0].amnesia and found[0].incarnation != IDENTITY.incarnation


def test_a_rolled_back_device_is_found_out_at_its_second_start(rolled_back):
    client, remembered = rolled_back
    second = lose_power(client)                                  # killed before a peer had answered
    assert second.device.recovery.epoch > remembered.epoch
    assert not compare(second.device, remembered)
    assert "remembers epoch" in second.device.standing.amnesia


def test_a_rolled_back_device_is_found_out_when_it_has_written_since(rolled_back):
    client, remembered = rolled_back
    for name in "bcd":
        client.put(name, 100)
    third = lose_power(lose_power(client))
    assert third.device.recovery.sequence > remembered.sequence
    assert not compare(third.device, remembered)


def test_a_rolled_back_device_is_found_out_by_the_header_of_a_dropped_segment(rolled_back):
    client, remembered = rolled_back
    while client.device.journal.segment < 5:
        client.put("a", 3000)
    client.flush()
    while client.compact():
        pass
    assert read_segment_header(client.fs, JOURNAL, 2).flags == SEGMENT_DROPPED
    assert not compare(lose_power(client).device, remembered)


def test_a_device_that_shows_all_counts_whatever_epoch_its_peers_remember():
    client, marks = started(), []
    for number in range(4):
        client.put(f"o{number}", 3000)
        client.delete(f"o{number}")
        marks.append(client.device.mark())
        client = lose_power(client)
        for mark in marks:
            assert compare(started(client.fs.copy().after_power_loss(), deepcopy(client.index)).device, mark)


def test_a_comparison_outlives_power_loss_before_the_floor_is_synced(rolled_back):
    client, remembered = rolled_back
    assert not compare(client.device, remembered)
    second = lose_power(client).device
    assert second.standing.amnesia == client.device.standing.amnesia
    assert not compare(second, remembered)
    assert second.identity.incarnation == client.device.identity.incarnation
    assert second.floor == client.device.floor > Stamp(NOW, 0, 0, 0)
    second.commit_inline()
    assert second.floor == second._beside.floor and second.journal.synced_sequence > second.recovery.sequence


def test_the_floor_of_an_older_forgetting_does_not_stand_for_a_newer_one(damaged):
    damaged.device.commit_inline()
    damaged.flush()
    save_identity(damaged.fs, "/d1", replace(damaged.device.identity, amnesia=""))     # as 0.3 left it: it counts again
    client = lose_power(damaged)
    assert client.device.standing.amnesia == "" and client.device.floor != ZERO
    client.device.restart_memory(NOW + HOUR_US, "a peer remembers more")
    assert lose_power(client).device.floor > Stamp(NOW + HOUR_US, 0, 0, 0)


def test_a_reason_without_a_floor_gets_one():
    client = started()
    path = "/d1/device.toml"
    handle = client.fs.open(path)
    client.fs.pwritev(handle, [b'amnesia = "by hand"\n'], client.fs.size(handle))
    client.fs.fsync(handle)
    client.fs.close(handle)
    device = lose_power(client).device
    assert device.standing.amnesia == "by hand" and device.floor > Stamp(NOW, 0, 0, 0)


@pytest.mark.parametrize("reason", ['"quoted" \\ and\nmore', "\x7f \udcff \U0001f4be ü", "plain"])
def test_whatever_a_reason_quotes_the_device_opens_again(reason):
    client = started()
    client.device.restart_memory(NOW, reason)
    found = lose_power(client).device
    assert len(found.standing.amnesia) == len(reason) and not found.standing.is_counted


def test_a_device_that_forgot_nothing_has_the_file_of_older_versions():
    fs = started().fs
    handle = fs.open("/d1/device.toml", read_only=True)
    text = fs.pread(handle, fs.size(handle), 0).decode()
    assert [line.split(" = ")[0] for line in text.splitlines()] == ["format", "id", "name", "cluster", "fingerprint", "incarnation"]
    assert load_identity(fs, "/d1") == IDENTITY


@pytest.mark.parametrize("line", [b"amnesia = 1\n", b'amnesia = "x"\nfloor_us = "soon"\n'])
def test_a_reason_that_cannot_be_read_is_no_reason_to_count(line):
    client = started()
    handle = client.fs.open("/d1/device.toml")
    client.fs.pwritev(handle, [line], client.fs.size(handle))
    client.fs.fsync(handle)
    client.fs.close(handle)
    with pytest.raises(DeviceRefused, match="cannot be read"):
        lose_power(client)
