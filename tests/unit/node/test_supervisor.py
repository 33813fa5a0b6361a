"""When a worker that died starts again, and what a reload may change."""
from __future__ import annotations

from dataclasses import replace

import pytest

from node.config import HoldfastConfig
from node.supervisor import merge_reload, restart_delay_s
from proxy.config import TlsConfig, UserRow

OLD = HoldfastConfig()


def test_the_first_three_restarts_in_a_minute_are_immediate():
    assert [restart_delay_s([100.0] * n, 130.0) for n in range(3)] == [0, 0, 0]


def test_a_crash_loop_slows_down_and_never_stops_trying():
    delays = [restart_delay_s([0.0] * n, 1.0) for n in range(3, 60)]
    assert delays[:6] == [1, 2, 4, 8, 16, 30] and set(delays[6:]) == {30}


def test_restarts_of_long_ago_are_forgiven():
    assert restart_delay_s([0.0] * 10, 61.0) == 0
    assert restart_delay_s([0.0] * 10 + [60.0] * 3, 61.0) == 1


def test_users_limits_and_log_follow_a_reload():
    user = UserRow(account="a", user="b", key="k")
    new = replace(OLD, auth=replace(OLD.auth, user=(user,)), log=replace(OLD.log, level="debug"),
                  limits=replace(OLD.limits, max_meta_count=7))
    assert merge_reload(OLD, new) == (new, [])


@pytest.mark.parametrize(("change", "table"), [
    ({"node": replace(OLD.node, listen="127.0.0.1:1")}, "node"),
    ({"cluster": replace(OLD.cluster, id="x")}, "cluster"),
    ({"object": replace(OLD.object, disk_fill_max=0.5)}, "object"),
    ({"policy": ()}, "policy"),
    ({"tls": TlsConfig(cert="c", key="k")}, "tls"),
])
def test_what_was_bound_at_the_start_waits_for_the_next_one(change, table):
    merged, waiting = merge_reload(OLD, replace(OLD, **change))
    assert merged == OLD and waiting == [table]


def test_another_certificate_is_taken_by_a_reload():
    old = replace(OLD, tls=TlsConfig(cert="a", key="a"))
    new = replace(OLD, tls=TlsConfig(cert="b", key="b"))
    assert merge_reload(old, new) == (new, [])
