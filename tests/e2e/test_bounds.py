"""Memory under clients that do not get on, of a real node: the bounds of docs/performance.md that are cheap to measure."""
import os
import re

import pytest

from bench.procfs import ProcessTree
from tools.bounds_figures import (
    CONTAINERS_BYTES_MAX,
    make_containers,
    measure_idle,
    measure_stuck_uploads,
    running_node,
    settled_pss,
)

MIB = 1 << 20


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    with running_node(tmp_path_factory.mktemp("node") / "state") as made:
        assert made.request("PUT", "/c").status == 201
        yield made


def test_a_thousand_idle_connections_take_less_than_50_mib(target):
    found = measure_idle(target)
    assert found.is_kept, str(found)
    assert found.bytes_found > MIB, f"a thousand connections cannot take nothing: {found}"


def test_a_thousand_stuck_uploads_take_at_most_256_mib_and_those_beyond_are_told_when_to_come_again(target):
    found = measure_stuck_uploads(target, "c", 250_000)
    assert found.is_kept, str(found)
    refused = re.search(r"(\d+) x 503 with Retry-After", found.note)
    assert refused and int(refused[1]) > 100, str(found)
    assert found.bytes_found > (1000 - int(refused[1])) * 250_000, f"what is kept has to be somewhere: {found}"
    body = os.urandom(3_000_000)
    assert target.request("PUT", "/c/after", body).status == 201, "the stuck ones are gone, others are served"
    assert target.request("GET", "/c/after").body == body


@pytest.fixture(scope="module")
def containers_pss(tmp_path_factory):
    """PSS of a node with 100 000 containers: while they were made last, and after a restart."""
    root, found = tmp_path_factory.mktemp("containers") / "state", []
    for is_first in (True, False):
        with running_node(root) as target:
            if is_first:
                make_containers(target, 100_000, lambda line: None)
            found.append(settled_pss(ProcessTree(target.root_pid)))
            assert target.request("HEAD", "/box099999").status == 204
    return found


@pytest.mark.all_only
def test_a_node_with_100_000_containers_stays_within_400_mib_after_a_restart(containers_pss):
    assert containers_pss[1] <= CONTAINERS_BYTES_MAX, f"{containers_pss[1] / MIB:.0f} MiB"


@pytest.mark.all_only
def test_a_node_stays_within_400_mib_while_100_000_containers_are_made(containers_pss):
    assert containers_pss[0] <= CONTAINERS_BYTES_MAX, f"{containers_pss[0] / MIB:.0f} MiB"
