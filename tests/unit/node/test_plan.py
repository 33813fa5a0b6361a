"""What a worker is told: which devices there are, and which are its own."""
from __future__ import annotations

from common.clock import ManualClock
from node.config import HoldfastConfig
from node.plan import make_plan
from node.state import DEMO_USER, load_rings, open_state, prepare_directory


def plans(root, *, devices: int, workers: int):
    prepare_directory(root)
    state = open_state(root, HoldfastConfig(), device_count=devices, clock=ManualClock(), say=lambda line: None)
    rings = load_rings(state)
    return [make_plan(state, HoldfastConfig(), rings, worker=n, worker_count=workers) for n in range(workers)]


def test_every_device_has_one_owner_and_owners_share_alike(tmp_path):
    made = plans(tmp_path, devices=7, workers=3)
    owned = [slot.uuid for plan in made for slot in plan.own_devices]
    assert len(owned) == len(set(owned)) == 7
    assert [len(plan.own_devices) for plan in made] == [3, 2, 2]
    assert all(plan.devices == made[0].devices for plan in made)


def test_a_worker_may_have_no_device(tmp_path):
    assert [len(plan.own_devices) for plan in plans(tmp_path, devices=1, workers=3)] == [1, 0, 0]


def test_ids_in_the_plan_are_those_of_the_rings(tmp_path):
    (plan,) = plans(tmp_path, devices=4, workers=1)
    for ring in plan.rings.values():
        assert {(device.id, device.device) for device in ring.devices} == {(slot.ring_id, slot.name) for slot in plan.devices}


def test_the_plan_has_what_a_worker_needs_to_log_somebody_in(tmp_path):
    (plan,) = plans(tmp_path, devices=1, workers=1)
    assert plan.config.auth.user == (DEMO_USER,)
    assert set(plan.secrets) == {"cluster.key", "token.key"} and len(plan.fingerprint) == 32
    assert plan.socket_path(0) == tmp_path / "run/worker-0.sock"
