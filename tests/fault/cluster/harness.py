"""A cluster in one loop, to be hurt: a worker per device and gateways without devices, over real directories.

A gateway reaches every device by a message, so that `harm(gateway, ...)` decides about each device on its own. Device `i`
belongs to worker `i` unless `owners` says otherwise; the gateways have the numbers after those of the owners.
"""
from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from common.clock import SystemClock
from common.errors import NotFound
from common.faultnet import Direction, FaultRules
from container.wire import OP_CONFIRM, OP_FIGURES, OP_LIVE_ROWS, OP_PAGE, OP_PUT_ROWS, OP_UNCONFIRMED
from node.config import load_config
from node.plan import DeviceSlot, WorkerPlan
from node.storage import Storage
from object.wire import OP_COMPARE, OP_MARKS, Descriptor
from proxy.model import MetaChange, Page
from ring.builder import RingBuilder
from ring.device import RingDevice

DEVICE_COUNT = 3
ROW_OPS = frozenset({OP_PUT_ROWS, OP_PAGE, OP_UNCONFIRMED, OP_LIVE_ROWS, OP_FIGURES, OP_CONFIRM})
PEER_OPS = frozenset({OP_COMPARE, OP_MARKS})
PATIENCE_S = 60.0                        # for what takes milliseconds on an idle machine


def make_ring():
    """Three devices, a zone each: all three hold everything."""
    builder = RingBuilder(4, DEVICE_COUNT, 0)
    for index in range(DEVICE_COUNT):
        builder.add_dev(RingDevice(id=index, region=1, zone=index + 1, ip="127.0.0.1", port=6200, device=f"d{index + 1}",
                                   weight=100.0, meta="", node="n1"))
    builder.rebalance(seed=1, now_s=0)
    return builder.ring()


class Body:
    """A body that is here already."""

    def __init__(self, data: bytes) -> None:
        self.length, self._data, self._at = len(data), data, 0

    def take_ready(self):
        return self._data if len(self._data) <= 65_536 else None

    async def read_chunk(self, admit=None):
        chunk = self._data[self._at:self._at + 300_000]
        self._at += len(chunk)
        if admit is not None:
            await admit(len(chunk))
        return chunk


class Harness:
    """See the module. `storages[w]` is None while worker w is away."""

    def __init__(self, root: Path, *, owners: Sequence[int] = (0, 1, 2), gateways: int = 1, request_timeout_s: float = 6.0,
                 clock=None) -> None:
        self.root, self.owners, self.clock = root, tuple(owners), clock or SystemClock()
        self.owner_count = max(owners) + 1
        self.worker_count = self.owner_count + gateways
        self.request_timeout_s = request_timeout_s
        self.uuids = [str(uuid.UUID(int=index + 1)) for index in range(DEVICE_COUNT)]
        self.storages: list[Storage | None] = [None] * self.worker_count
        self.rules = [FaultRules() for _ in range(self.worker_count)]
        ring = make_ring()
        self._rings = {"account": ring, "container": ring, "object-0": ring}
        for index in range(DEVICE_COUNT):
            self.device(index).mkdir(parents=True, exist_ok=True)
        (root / "run").mkdir(exist_ok=True)

    # --- parts ---------------------------------------------------------------------------------------------------

    def device(self, index: int) -> Path:
        return self.root / "devices" / f"d{index + 1}"

    def plan(self, worker: int) -> WorkerPlan:
        config = load_config(None, {}, overrides={"object.segment_bytes": 4 << 20, "object.reserve_bytes": 1 << 20}).value
        config = replace(config, object=replace(config.object, request_timeout_s=self.request_timeout_s))
        slots = tuple(DeviceSlot(ring_id=i, uuid=self.uuids[i], name=f"d{i + 1}", path=self.device(i), worker=self.owners[i])
                      for i in range(DEVICE_COUNT))
        return WorkerPlan(state=self.root, config=config, worker=worker, worker_count=self.worker_count, cluster_id="c",
                          node_id="n1", fingerprint="f", hash_prefix=b"p", hash_suffix=b"s", rings=self._rings,
                          devices=slots, policies=config.policies, secrets={"cluster.key": "k", "token.key": "t"})

    def store(self, worker: int | None = None):
        """The store of a worker; by default that of the first gateway, else of worker 0."""
        if worker is None:
            worker = self.owner_count if self.worker_count > self.owner_count else 0
        storage = self.storages[worker]
        assert storage is not None
        return storage.store

    @property
    def stores(self):
        return [storage.store for storage in self.storages if storage is not None]

    def owner_of(self, index: int):
        """The `Owner` of a device."""
        storage = self.storages[self.owners[index]]
        assert storage is not None
        return storage._owners[index]

    def status(self, index: int) -> dict:
        """What a device's worker says about it."""
        storage = self.storages[self.owners[index]]
        assert storage is not None
        return next(d for d in storage.status()["devices"] if d["name"] == f"d{index + 1}")

    # --- start and stop ------------------------------------------------------------------------------------------

    async def start(self, *workers: int) -> None:
        """These, or all that are away."""
        for worker in workers or range(self.worker_count):
            if self.storages[worker] is None:
                storage = Storage(self.plan(worker), self.clock, faults=self.rules[worker])
                await storage.start()
                self.storages[worker] = storage

    async def stop(self, *workers: int) -> None:
        """These, or all, in good order."""
        for worker in workers or range(self.worker_count):
            storage, self.storages[worker] = self.storages[worker], None
            if storage is not None:
                await storage.close()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def save(self, index: int, name: str = "copy") -> None:
        """Copy the directory of a device, as a backup tool would; the cluster is down or idle."""
        target = self.root / name / f"d{index + 1}"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.device(index), target)

    def restore(self, index: int, name: str = "copy") -> None:
        """Put the copy where the device was."""
        self.empty(index)
        shutil.copytree(self.root / name / f"d{index + 1}", self.device(index), dirs_exist_ok=True)

    def empty(self, index: int) -> None:
        """As if a new disk was mounted."""
        shutil.rmtree(self.device(index))
        self.device(index).mkdir()

    # --- faults --------------------------------------------------------------------------------------------------

    def harm(self, worker: int, *devices: int, ops: frozenset[int] | None = None, delay_s: float | None = None,
             count_max: int | None = None):
        """Messages of `worker` that name one of `devices` (by number) are lost, or late; a function that ends it."""
        def match(op, fields):
            return (op in ops if ops is not None else op not in PEER_OPS) and bool(fields) and fields[0] in devices
        return self.harm_if(worker, match, delay_s=delay_s, count_max=count_max)

    def harm_if(self, worker: int, match, *, delay_s: float | None = None, count_max: int | None = None):
        rules = self.rules[worker]
        if delay_s is not None:
            rule = rules.delay(delay_s, direction=Direction.TO, match=match, count_max=count_max)
        else:
            rule = rules.drop(direction=Direction.TO, match=match, count_max=count_max)
        return lambda: rules.remove(rule)


@asynccontextmanager
async def running(root: Path, **options):
    """A started cluster with account "a" and container "a/c"."""
    harness = Harness(root, **options)
    try:
        await harness.start()
        await harness.store().create_account("a", MetaChange())
        await harness.store().put_container("a", "c", MetaChange(), policy=None)
        yield harness
    finally:
        for rules in harness.rules:
            rules.clear()
        await harness.stop()


# --- what clients do ---------------------------------------------------------------------------------------------


async def put(store, name: str, data: bytes, *, container: str = "c", condition=None, **fields):
    target = await store.look("a", container, name)
    return await store.put_object(target, Descriptor(created_us=0, content_type="text/plain", **fields), Body(data),
                                  condition=condition, expected_etag=None, size_max=1 << 30)


async def post(store, name: str, meta: dict[str, str], *, container: str = "c") -> None:
    target = await store.look("a", container, name)
    await store.post_object(target, lambda d: replace(d, meta=meta))


async def delete(store, name: str, *, container: str = "c"):
    return await store.delete_object(await store.look("a", container, name), None)


async def get(store, name: str, *, container: str = "c") -> bytes | None:
    """None: there is none."""
    try:
        _, info = await store.get_object("a", container, name, want_body=True)
    except NotFound:
        return None
    return b"".join([bytes(piece) async for piece in store.read_body(info, 0, info.size_bytes)])


async def meta_of(store, name: str, *, container: str = "c") -> dict[str, str]:
    _, info = await store.get_object("a", container, name, want_body=False)
    return dict(info.descriptor.meta)


async def listing(store, *, container: str = "c", **fields) -> list[str]:
    _, entries = await store.list_container("a", container, Page(limit=fields.pop("limit", 10_000), **fields))
    return [entry.name for entry in entries]


async def until(is_so, what: str) -> None:
    """Returns once `is_so` (plain or async) gives something true."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + PATIENCE_S
    while loop.time() < deadline_s:
        found = is_so()
        if await found if asyncio.iscoroutine(found) else found:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"never: {what}")

