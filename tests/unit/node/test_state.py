"""The state directory: made whole however often a first start breaks off, and never made anew once it held data."""
from __future__ import annotations

import json
import os
import shutil
import stat
from dataclasses import replace

import pytest

from common.clock import ManualClock
from common.cluster_config import PolicyRow
from common.errors import ConfigError
from node.config import HoldfastConfig
from node.plan import make_plan
from node.state import DEMO_USER, load_rings, load_state, open_state, prepare_directory, with_demo_user
from proxy.config import UserRow

CONFIG = HoldfastConfig()
ALICE = UserRow(account="a", user="alice", key_file="alice.key")


def start(root, config=CONFIG, devices=None, lines=None):
    prepare_directory(root)
    say = (lambda line: None) if lines is None else lines.append
    return open_state(root, config, device_count=devices, clock=ManualClock(), say=say)


def refusal(*args, **given) -> str:
    with pytest.raises(ConfigError) as caught:
        start(*args, **given)
    return f"{caught.value.fields['where']}: {caught.value.fields['reason']}"


def with_policies(*rows):
    return replace(CONFIG, policy=rows)


def test_a_first_start_makes_everything_and_says_so(tmp_path):
    lines = []
    state = start(tmp_path / "new/s", lines=lines)
    assert [row.name for row in state.devices] == ["d1", "d2", "d3"]
    assert all(state.device_path(row).is_dir() for row in state.devices)
    assert sorted(load_rings(state)) == ["account", "container", "object-0"]
    assert lines[0].startswith("first start: ") and sum("ring" in line for line in lines) == 3


def test_a_later_start_finds_what_the_first_one_made_and_is_silent(tmp_path):
    first = start(tmp_path)
    rings = load_rings(first)
    lines = []
    assert start(tmp_path, lines=lines) == first and lines == []
    assert {name: ring.rows for name, ring in load_rings(first).items()} == {name: ring.rows for name, ring in rings.items()}


def test_every_partition_has_its_replicas_on_different_devices(tmp_path):
    for name, ring in load_rings(start(tmp_path, with_policies(PolicyRow(name="two", replicas=2)), devices=4)).items():
        wanted = 2 if name == "object-0" else 3
        assert all(len({d.id for d in ring.primaries(p)}) == wanted for p in range(ring.partition_count))
        assert ring.version == 1 and not ring.former


@pytest.mark.parametrize(("devices", "replicas"), [(1, 1), (2, 2), (3, 3), (5, 3), (17, 3)])
def test_replicas_are_as_many_as_devices_allow(tmp_path, devices, replicas):
    state = start(tmp_path, devices=devices)
    assert {ring.replica_count for ring in load_rings(state).values()} == {replicas}
    assert state.replicas_of("object-0") == replicas


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_a_state_directory_that_is_made_is_for_its_owner_only(tmp_path, mask):
    old_mask = os.umask(mask)
    try:
        prepare_directory(tmp_path / "new" / "state")
    finally:
        os.umask(old_mask)
    assert stat.S_IMODE((tmp_path / "new" / "state").stat().st_mode) == 0o700


def test_a_state_directory_that_is_there_keeps_its_mode(tmp_path):
    tmp_path.chmod(0o750)
    prepare_directory(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o750


class Crash(BaseException):
    """Power is gone: no handler may tidy up. (The code under test catches OSError only.)"""


@pytest.mark.parametrize("call", ["fsync", "mkdir"])
def test_a_first_start_that_breaks_off_anywhere_is_completed_by_the_next(tmp_path, monkeypatch, call):
    real, broken_off = getattr(os, call), 0
    for crash_at in range(1, 200):
        root, counted = tmp_path / str(crash_at), 0

        def fail(*args, crash_at=crash_at, **given):
            nonlocal counted
            counted += 1
            if counted == crash_at:
                raise Crash
            return real(*args, **given)

        monkeypatch.setattr(os, call, fail)
        try:
            start(root)
            break
        except Crash:
            broken_off += 1
        monkeypatch.setattr(os, call, real)
        before = load_state(root)
        state = start(root)
        assert before is None or before == state, "an identity that was written stays"
        assert load_rings(state)["object-0"].replica_count == 3 and all(state.device_path(row).is_dir() for row in state.devices)
        assert make_plan(state, with_demo_user(CONFIG), load_rings(state), worker=0, worker_count=1).secrets["cluster.key"]
        shutil.rmtree(root)
    assert broken_off >= 3


def test_a_device_directory_that_is_gone_is_not_made_again(tmp_path):
    state = start(tmp_path)
    gone = state.device_path(state.devices[1])
    gone.rmdir()
    assert start(tmp_path) == state and not gone.exists()


@pytest.mark.parametrize("relic", ["devices/d1/device.toml", "rings/account/current.bundle"])
def test_a_lost_identity_is_not_replaced_while_data_is_there(tmp_path, relic):
    start(tmp_path)
    (tmp_path / "cluster.json").unlink()
    shutil.rmtree(tmp_path / "rings")
    (tmp_path / relic).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / relic).touch()
    text = refusal(tmp_path)
    assert relic in text and "backup" in text and not (tmp_path / "cluster.json").exists()


@pytest.mark.parametrize("junk", [b"", b"junk", b"HFRG" + bytes(100)])
def test_a_damaged_ring_is_refused_with_its_file_and_what_to_do(tmp_path, junk):
    state = start(tmp_path)
    (tmp_path / "rings/container/current.bundle").write_bytes(junk)
    text = refusal(tmp_path)
    assert text.startswith(f"{tmp_path}/rings/container/current.bundle: ") and "backup" in text
    with pytest.raises(ConfigError):
        load_rings(state)


def test_a_directory_that_holds_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").touch()
    assert "'thesis.txt'" in refusal(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_disks_mounted_before_the_first_start_and_a_configuration_are_no_foreign_files(tmp_path):
    for path in (tmp_path / "devices/d1/lost+found", tmp_path / "lost+found"):
        path.mkdir(parents=True)
    (tmp_path / "holdfast.toml").touch()
    assert start(tmp_path)


def test_a_lost_key_of_tokens_is_told_of_when_it_is_made_again(tmp_path, capfd):
    start(tmp_path)
    assert "secret" not in capfd.readouterr().err
    (tmp_path / "secrets/token.key").unlink()
    start(tmp_path)
    told = capfd.readouterr().err
    assert "warning" in told and "token.key" in told and "log in again" in told
    assert (tmp_path / "secrets/token.key").exists()


def test_a_lost_ring_key_is_not_replaced(tmp_path):
    start(tmp_path)
    (tmp_path / "secrets/cluster.key").unlink()
    assert "cluster.key" in refusal(tmp_path) and not (tmp_path / "secrets/cluster.key").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 99}'])
def test_a_damaged_or_newer_identity_is_refused_with_its_place(tmp_path, text):
    start(tmp_path)
    (tmp_path / "cluster.json").write_text(text)
    assert refusal(tmp_path).startswith(f"{tmp_path}/cluster.json: ")


@pytest.mark.parametrize(("devices", "words"), [(5, "copy the objects"), (2, "cannot be taken away")])
def test_another_number_of_devices_is_refused_with_what_to_do(tmp_path, devices, words):
    start(tmp_path)
    assert f"not {devices}" in refusal(tmp_path, devices=devices) and words in refusal(tmp_path, devices=devices)
    assert start(tmp_path, devices=3)


@pytest.mark.parametrize(("config", "words"), [
    (replace(CONFIG, cluster=replace(CONFIG.cluster, id="other")), "cluster.id"),
    (replace(CONFIG, cluster=replace(CONFIG.cluster, hash_prefix="x", hash_suffix="y")), "cluster.hash_prefix"),
    (with_policies(PolicyRow(name="gold")), "standard (index 0, 3 replicas)"),
    (with_policies(*CONFIG.policy, PolicyRow(name="gold")), "policies"),
])
def test_what_decides_placement_cannot_be_changed_by_a_setting(tmp_path, config, words):
    start(tmp_path)
    assert words in refusal(tmp_path, config)


def test_identity_and_hash_of_names_come_from_the_configuration_if_it_has_them(tmp_path):
    given = replace(CONFIG.cluster, id="c0ffee", hash_prefix="", hash_suffix="s")
    config = replace(CONFIG, cluster=given)
    state = start(tmp_path, config)
    assert (state.cluster_id, state.hash_prefix, state.hash_suffix) == ("c0ffee", "", "s")
    assert start(tmp_path, config) == start(tmp_path) == state


def test_two_stores_have_nothing_in_common(tmp_path):
    one, two = start(tmp_path / "1"), start(tmp_path / "2")
    for name in ("cluster_id", "node_id", "hash_prefix", "hash_suffix", "fingerprint"):
        assert getattr(one, name) != getattr(two, name)
    assert not {row.uuid for row in one.devices} & {row.uuid for row in two.devices}


def test_a_store_without_users_gets_a_demo_user_and_one_with_users_does_not(tmp_path):
    assert with_demo_user(CONFIG).auth.user == (DEMO_USER,)
    start(tmp_path / "1")
    assert len((tmp_path / "1/secrets/demo.key").read_text().strip()) == 64
    config = replace(CONFIG, auth=replace(CONFIG.auth, user=(ALICE,)))
    start(tmp_path / "2", config)
    assert with_demo_user(config) is config and not (tmp_path / "2/secrets/demo.key").exists()


def test_others_cannot_read_what_is_secret(tmp_path):
    start(tmp_path)
    for path in (tmp_path / "cluster.json", *(tmp_path / "secrets").iterdir()):
        assert path.stat().st_mode & 0o077 == 0, path
    assert json.loads((tmp_path / "cluster.json").read_text())["hash_prefix"]


def test_a_state_directory_that_cannot_be_one_is_named(tmp_path):
    (tmp_path / "file").touch()
    text = refusal(tmp_path / "file/state")
    assert str(tmp_path / "file/state") in text and "--data" in text
