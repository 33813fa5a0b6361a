"""What `status` says in plain words, and what makes a node unhealthy."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from node.plan import DeviceSlot
from node.report import find_problems, gather_devices, is_healthy, read_disks

SLOTS = [DeviceSlot(ring_id=n, uuid=f"u{n}", name=f"d{n + 1}", path=Path(f"/x/d{n + 1}"), worker=n % 2) for n in range(3)]
THREE_DISKS = {"d1": 1, "d2": 2, "d3": 3}
WELL = {"state": "ok", "reason": "", "is_counted": True, "free_bytes": 60, "size_bytes": 100, "pending_updates": 0}


def answers(**changes):
    """What the two workers say; changes: by device name, None for nothing at all."""
    rows = {slot.name: {"name": slot.name, "path": str(slot.path), **WELL, **changes.get(slot.name, {})} for slot in SLOTS}
    return [{"devices": [rows["d1"], rows["d3"]]}, {"devices": [rows["d2"]]}]


def workers(**changes):
    return [{"worker": n, "is_ready": True, "restarts": 0, **changes.get(f"w{n}", {})} for n in range(2)]


def judge(told=None, *, who=None, replicas=3, disks=None, refused=False, control=None):
    devices = gather_devices(SLOTS, answers() if told is None else told)
    return find_problems(who or workers(), devices, replicas=replicas, disk_of=disks or THREE_DISKS, fill_max=0.95,
                         is_login_refused=refused, control=control)


def one(findings):
    (finding,) = findings
    assert finding["advice"]
    return finding["level"], finding["text"]


def test_a_node_that_is_well_has_nothing_to_say():
    assert judge() == [] and is_healthy(judge())


def test_replicas_that_share_one_disk_are_named_and_are_no_illness():
    findings = judge(disks=dict.fromkeys(THREE_DISKS, 7))
    assert one(findings) == ("note", "all replicas share one disk: if it fails, everything on it is lost")
    assert is_healthy(findings)


def test_devices_that_share_a_disk_among_others_are_named():
    level, text = one(judge(disks={"d1": 1, "d2": 1, "d3": 3}))
    assert level == "note" and "(d1, d2)" in text


@pytest.mark.parametrize(("change", "level", "words"), [
    ({"state": "not counted", "is_counted": False, "reason": "empty"}, "warning", "d2 is not counted, waits for copy (empty)"),
    ({"state": "retired", "reason": "sync failed"}, "error", "d2 is retired: sync failed"),
    ({"state": "full", "free_bytes": 1}, "error", "d2 is full (99%)"),
    ({"free_bytes": 12}, "warning", "d2 is 88% full"),
    ({"pending_updates": 10_001}, "warning", "d2 has 10001 listing updates waiting"),
])
def test_a_device_that_is_not_well_is_said_with_what_to_do(change, level, words):
    findings = judge(answers(d2=change))
    assert one(findings)[0] == level and words in one(findings)[1] and not is_healthy(findings)


def test_a_device_that_could_not_be_opened_says_why():
    told = answers()
    told[1]["devices"] = [{"name": "d2", "path": "/x/d2", "worker": 1, "state": "unusable", "reason": "foreign: cluster c1"}]
    assert one(judge(told)) == ("error", "device d2 cannot be used: foreign: cluster c1")


def test_a_missing_directory_is_a_missing_device_whatever_its_worker_says():
    assert one(judge(disks={**THREE_DISKS, "d2": None})) == ("error", "device d2 is missing: there is no /x/d2")


def test_a_worker_that_is_down_is_said_once_and_its_devices_are_unknown():
    told = [None, answers()[1]]
    assert one(judge(told, who=workers(w0={"is_ready": False})))[1] == "worker 0 does not serve"
    assert {row["name"]: row["state"] for row in gather_devices(SLOTS, told)} == {"d1": "unknown", "d2": "ok", "d3": "unknown"}


def test_a_restarted_worker_is_worth_a_note():
    findings = judge(who=workers(w1={"restarts": 1}))
    assert one(findings) == ("note", "worker 1 was started again, once") and is_healthy(findings)


def test_fewer_replicas_than_three_are_a_warning():
    assert one(judge(replicas=2))[0] == "warning" and "can lose data" in judge(replicas=1)[0]["advice"]


def test_refused_logins_are_explained():
    assert "logins are refused" in one(judge(refused=True))[1]


def test_the_worst_comes_first():
    findings = judge(answers(d1={"pending_updates": 20_000}, d2={"state": "retired"}), disks=dict.fromkeys(THREE_DISKS, 1))
    assert [finding["level"] for finding in findings] == ["error", "warning", "note"]


def test_fill_is_what_is_not_free_and_unknown_without_a_size():
    rows = gather_devices(SLOTS, answers(d1={"free_bytes": 25}, d2={"size_bytes": 0}))
    assert [row["fill"] for row in rows] == [0.75, None, 0.4]


def test_a_path_that_is_not_there_has_no_disk(tmp_path):
    (tmp_path / "d1").mkdir()
    slots = [DeviceSlot(ring_id=n, uuid="", name=f"d{n}", path=tmp_path / f"d{n}", worker=0) for n in (1, 2)]
    assert read_disks(slots, os.stat) == {"d1": tmp_path.stat().st_dev, "d2": None}


def test_a_worker_that_hangs_is_an_error_said_once():
    told = answers()
    level, text = one(judge([told[0], None], who=workers(w1={"is_hung": True, "pid": 77})))
    assert level == "error" and "worker 1 (process 77) does not answer" in text


@pytest.mark.parametrize("is_hung", [True, False])
def test_an_identity_api_that_hangs_is_an_error(is_hung):
    control = {"pid": 78, "is_ready": True, "is_hung": is_hung, "failure": "", "restarts": 0}
    found = judge(control=control)
    assert [finding["level"] for finding in found if "process 78" in finding["text"]] == ["error"] * is_hung


def test_a_device_nothing_is_known_of_is_never_healthy():
    level, text = one(judge([answers()[0], None]))
    assert level == "error" and "d2" in text


@pytest.mark.parametrize(("is_connected", "silent_s", "is_told"), [(True, 2.0, False), (False, 5.0, False), (False, 120.0, True)])
def test_a_worker_that_does_not_hear_identity_is_said(is_connected, silent_s, is_told):
    deaf = [{**worker, "identity": {"is_connected": is_connected, "silent_s": silent_s, "generation": 1}} for worker in workers()]
    found = judge(who=deaf)
    assert [("has not heard of identity for 120 s" in finding["text"], finding["level"]) for finding in found] == (
        [(True, "warning")] * len(deaf) if is_told else [])


SERVING = {"pid": 78, "is_ready": True, "is_hung": False, "failure": "", "restarts": 0, "stale": ""}
WELL_FED = {"failure": "", "left_out_count": 0, "left_out": []}


@pytest.mark.parametrize(("changes", "feed", "level", "words"), [
    ({}, {"failure": "OSError: the tables cannot be read"}, "error", "not told of changes of identity: OSError"),
    ({}, {"left_out_count": 1, "left_out": ["s3_key k1"]}, "warning", "cannot be told to gateways: s3_key k1"),
    ({"stale": "duplicate"}, {}, "error", "older configuration: duplicate"),
])
def test_what_identity_cannot_tell_or_take_is_said(changes, feed, level, words):
    assert judge(control={**SERVING, "standing": {"feed": WELL_FED, "collisions": []}}) == []
    found = judge(control={**SERVING, **changes, "standing": {"feed": {**WELL_FED, **feed}, "collisions": []}})
    assert one(found)[0] == level and words in one(found)[1] and not is_healthy(found)


def test_what_is_in_the_way_of_the_configuration_is_said_with_what_to_do():
    collision = {"text": "user bob:bob is not in the Identity API", "advice": "rename the other"}
    found = judge(control={**SERVING, "standing": {"feed": WELL_FED, "collisions": [collision]}})
    assert found == [{"level": "warning", **collision}] and not is_healthy(found)


def test_an_identity_api_that_does_not_answer_in_time_has_no_standing_and_is_judged_by_its_pulse():
    assert judge(control={**SERVING, "standing": None}) == []
