"""The store as a node runs it: two workers in one loop, three devices in a directory, the transport between them."""
from __future__ import annotations

import tempfile
import uuid
from contextlib import asynccontextmanager
from pathlib import Path

from common.cluster_config import Policy
from node.config import load_config
from node.plan import DeviceSlot, WorkerPlan
from node.storage import Storage
from ring.builder import RingBuilder
from ring.device import RingDevice

DEVICE_COUNT, WORKER_COUNT = 3, 2
STANDARD = (Policy(index=0, name="standard", replicas=3, is_default=True, sync="batch"),)


def make_ring(replicas):
    """Three devices, a zone each."""
    builder = RingBuilder(4, replicas, 0)
    for index in range(DEVICE_COUNT):
        builder.add_dev(RingDevice(id=index, region=1, zone=index + 1, ip="127.0.0.1", port=6200, device=f"d{index + 1}",
                                   weight=100.0, meta="", node="n1"))
    builder.rebalance(seed=1, now_s=0)
    return builder.ring()


def make_plan(root, worker, policies, uuids):
    """What node/plan.py makes from a state directory."""
    rings = {"account": make_ring(3), "container": make_ring(3)}
    rings |= {f"object-{policy.index}": make_ring(policy.replicas) for policy in policies}
    slots = tuple(DeviceSlot(ring_id=index, uuid=uuids[index], name=f"d{index + 1}", path=root / "devices" / f"d{index + 1}",
                             worker=index % WORKER_COUNT) for index in range(DEVICE_COUNT))
    return WorkerPlan(state=root, config=load_config(None, {}, overrides={"object.segment_bytes": 4 << 20,
                                                                          "object.reserve_bytes": 1 << 20}).value,
                      worker=worker, worker_count=WORKER_COUNT, cluster_id="contract", node_id="n1", fingerprint="f",
                      hash_prefix=b"p", hash_suffix=b"s", rings=rings, devices=slots, policies=policies,
                      secrets={"cluster.key": "k", "token.key": "t"})


@asynccontextmanager
async def run_storages(clock, *, policies=STANDARD):
    """The storages of both workers, started."""
    with tempfile.TemporaryDirectory(prefix="hf-") as name:
        root = Path(name)
        for index in range(DEVICE_COUNT):
            (root / "devices" / f"d{index + 1}").mkdir(parents=True)
        (root / "run").mkdir()
        uuids = [str(uuid.UUID(int=index + 1)) for index in range(DEVICE_COUNT)]
        storages = [Storage(make_plan(root, worker, policies, uuids), clock) for worker in range(WORKER_COUNT)]
        started = []
        try:
            for storage in storages:
                await storage.start()
                started.append(storage)
            yield storages
        finally:
            for storage in started:
                await storage.close()
