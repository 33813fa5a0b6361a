"""The fault switch of a real node: hidden by default; with it a device can be cut off in every worker, and comes back."""
from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from common.admin import AdminClient
from common.errors import NotFound

FAULTS = {"HOLDFAST_FAULTS": "1", "HOLDFAST_OBJECT_REQUEST_TIMEOUT_S": "6", "HOLDFAST_OBJECT_PEER_TIMEOUT_S": "6"}


# of conftest.py, which importlib mode does not let us import by name
@pytest.fixture
def tools(request):
    return request.config.pluginmanager.getplugin(str(request.path.parent / "conftest.py"))


def test_a_plain_node_has_no_fault_switch(cluster):
    admin = AdminClient.from_state(cluster.root)
    for method in ("GET", "POST", "DELETE"):
        with pytest.raises(NotFound):
            admin.call(method, "/faults", {"rules": []} if method == "POST" else None)


def test_two_devices_cut_off_stop_every_worker_and_a_new_one_and_nothing_is_lost(make_node, tools):
    node = make_node("--workers", "2", environ=FAULTS)
    node.up()
    admin, client = AdminClient.from_state(node.root), node.login()
    assert client.call("PUT", "/c")[0] in (201, 202)
    assert client.call("PUT", "/c/o", b"1")[0] == 201
    admin.post("/faults", {"rules": [{"device": "d1", "drop": 1, "ops": ["look"]}, {"device": "d2", "drop": 1, "ops": ["look"]}]})
    victim = node.pids["workers"][1]
    os.kill(victim, signal.SIGKILL)
    tools.wait_until(lambda: node.pids["workers"][1] not in (victim, None), "a new worker")
    tools.wait_until(lambda: None not in admin.get("/faults")["harmed"], "both answer")
    with ThreadPoolExecutor(8) as pool:      # connections reach either worker; both have devices of their own
        assert {status for status, _ in pool.map(lambda _: client.call("GET", "/c/o"), range(8))} == {503}
    assert sum(admin.get("/faults")["harmed"]) >= 8
    assert admin.call("DELETE", "/faults")["rules"] == []
    assert client.call("GET", "/c/o") == (200, b"1")
    node.down()
