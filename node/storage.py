"""The storage of one worker, wired together: its devices, their rows, the transport, the store over all of it."""
from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import lmdb

from common.clock import Clock
from common.errors import Corruption, DeviceUnavailable, StorageError
from common.faultnet import FaultRules
from common.handshake import Credentials, cluster_keys
from common.log import get_logger
from common.rpc_client import RpcClient
from common.rpc_server import RpcServer
from common.sockets import unix_connector
from common.timestamp import Stamp
from common.vfs import RealFs
from container.client import LocalRowClient, RemoteRowClient, RowClient
from container.server import RowServer
from container.store import RowStore
from node.local_faults import FaultyObjectClient, FaultyRowClient
from node.peering import Peering
from node.plan import DeviceSlot, WorkerPlan
from node.stats import StatsReporter
from object.client import LocalObjectClient, ObjectClient, RemoteObjectClient
from object.device import REBUILD, Device, DeviceLimits
from object.format import RecordType
from object.identity import Identity
from object.index import LmdbIndex
from object.owner import Owner
from object.returner import Returner
from object.server import ObjectServer
from object.sweeper import Sweeper
from object.updater import Updater
from object.wire import SPACE_ACCOUNT, SPACE_CONTAINER, SPACE_OBJECT, Kind, split_key
from proxy.cluster import Cluster, Peers
from proxy.store import ObjectStore
from ring.placement import Ring

log = get_logger("node.storage")
_RECORD_TYPES = {SPACE_CONTAINER: RecordType.CONTAINER_ROW, SPACE_ACCOUNT: RecordType.ACCOUNT_ROW}
STARTS, STARTS_MAX, HELD_S = "index.starts", 3, 20.0
OPEN_DATABASES_MAX = 500                 # per worker; each holds three files open
_DIRECTORIES = {SPACE_CONTAINER: "containers", SPACE_ACCOUNT: "accounts"}


class DeviceRows:
    """`container.store.RowJournal` and `RegisterView` over a device's owner."""

    def __init__(self, owner: Owner) -> None:
        self._owner, self._device = owner, owner.device
        self._covered: dict[int, int] = {SPACE_CONTAINER: -1, SPACE_ACCOUNT: -1}
        self._newest: dict[int, int] = {SPACE_CONTAINER: -1, SPACE_ACCOUNT: -1}

    def append_row(self, space: int, meta: bytes) -> int:
        sequence = self._device.append_row(_RECORD_TYPES[space], meta)
        self.note_row(space, sequence)
        return sequence

    def note_row(self, space: int, sequence: int) -> None:
        """The journal has a row of this space, appended now or found at the start."""
        self._newest[space] = max(self._newest[space], sequence)

    def synced(self, sequence: int) -> asyncio.Future[None] | None:
        return self._owner.synced(sequence)

    def last_sequence(self) -> int:
        return self._device.journal.next_sequence - 1

    def rows_covered(self, space: int, sequence: int) -> None:
        self._covered[space] = sequence
        # a space without rows that wait makes no checkpoints, and holds up nobody else's
        self._device.rows_covered(min(covered if self._newest[other] > covered else sequence
                                      for other, covered in self._covered.items()))

    def outstanding_promise(self, key: bytes) -> bool:
        promised = self._device.promise_of(key)
        if promised is None:
            return False
        held = self._device.get(key)
        return held is None or held.ballot < promised

    def promised(self, key: bytes) -> Stamp | None:
        return self._device.promise_of(key)

    def container_state(self, key: bytes) -> tuple[bool, bytes] | None:
        held = self._device.get(key)
        if held is None or held.version.kind == Kind.NOTHING or not held.version.descriptor:
            return None
        return held.version.kind == Kind.LIVE, held.version.descriptor


class Storage:
    """See the module. Create, `start`, use `store`, `close`."""

    def __init__(self, plan: WorkerPlan, clock: Clock, *, faults: FaultRules | None = None) -> None:
        """faults: of the messages that this worker's gateway sends to devices, and of their answers."""
        self._plan, self._clock, self._faults = plan, clock, faults
        self._owners: dict[int, Owner] = {}              # by ring device id
        self._failed: dict[str, str] = {}                # device name -> why it could not be opened
        self._rows: dict[tuple[int, int], RowStore] = {}
        self._local_rows: dict[tuple[int, int], LocalRowClient] = {}
        self._remotes: dict[int, RpcClient] = {}         # by worker
        self._updaters: list[Updater] = []
        self._sweepers: list[Sweeper] = []
        self._returners: list[Returner] = []
        self.store: ObjectStore

    # --- start and stop ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Own the devices, answer peers, connect to them. A device that cannot be opened is reported, not fatal."""
        plan = self._plan
        for slot in plan.own_devices:
            self._open_device(slot)
        credentials = Credentials(name=f"{plan.node_id}/w{plan.worker}", role="worker", fingerprint=plan.fingerprint,
                                  keys=cluster_keys(plan.secrets["cluster.key"].encode()))
        for worker in sorted({slot.worker for slot in plan.devices} - {plan.worker}):
            self._remotes[worker] = RpcClient(unix_connector(plan.socket_path(worker)), credentials=credentials,
                                              faults=self._faults)
        self._peering = Peering({slot.uuid: self._owners[slot.ring_id] for slot in plan.own_devices
                                 if slot.ring_id in self._owners}, self._remotes, device_count=len(plan.devices))
        self._start_rows()
        version = max(ring.version for ring in plan.rings.values())
        handlers = {**ObjectServer(self._owners, ring_version=version).handlers, **RowServer(self._local_rows).handlers,
                    **self._peering.handlers}
        self._server = RpcServer(handlers, credentials=credentials)
        await self._server.listen_unix(plan.socket_path(plan.worker))
        self.store = self._make_store(version)
        self._stats = StatsReporter(self.store.cluster, self._clock)
        for (_, space), rows in self._rows.items():
            if space == SPACE_CONTAINER:
                rows.on_applied = self._stats.note
                rows.tell_replayed()
        self._stats.start()
        self._peering.start()
        self._held = asyncio.get_running_loop().call_later(HELD_S, self._note_held)
        for owner in self._owners.values():
            owner.start()
            updater = Updater(owner, lambda path, policy, is_owed: self.store.settle_listing(path, policy, is_owed=is_owed),
                              self._clock)
            updater.start()
            self._updaters.append(updater)
            sweeper = Sweeper(owner, self.store.names_body, self._clock)
            sweeper.start()
            self._sweepers.append(sweeper)
            returner = Returner(owner, partial(self._give_back, owner))
            returner.start()
            self._returners.append(returner)

    def expect_end(self) -> None:
        """The whole node stops: peers that go before us are no news."""
        for remote in self._remotes.values():
            remote.expect_end()

    def let_go(self) -> None:
        """Give mapped memory of the devices back to the system, soon."""
        for owner in self._owners.values():
            owner.let_go()

    async def close(self) -> None:
        """Stop background work, flush everything, give up the devices."""
        self._held.cancel()
        self._note_held()
        for updater in self._updaters:
            await updater.close()
        for sweeper in self._sweepers:
            await sweeper.close()
        for returner in self._returners:
            await returner.close()
        await self.store.handoffs.close()
        await self._stats.close()
        await self.store.repairer.close()
        await self._peering.close()
        await self._server.close(grace_s=1.0)
        for rows in self._rows.values():
            await rows.close()
        for owner in self._owners.values():
            await owner.close()
        for remote in self._remotes.values():
            await remote.close()

    def _note_held(self) -> None:
        """This start has held: indexes are not to blame for what comes."""
        for slot in self._plan.own_devices:
            if slot.path is not None and slot.ring_id in self._owners:
                (slot.path / STARTS).unlink(missing_ok=True)

    def _open_device(self, slot: DeviceSlot) -> None:
        plan = self._plan
        assert slot.path is not None
        expected = Identity(id=slot.uuid, name=slot.name, cluster=plan.cluster_id, fingerprint=plan.fingerprint,
                            incarnation=os.urandom(16))
        settings = plan.config.object
        limits = DeviceLimits(segment_bytes=settings.segment_bytes, reserve_bytes=settings.reserve_bytes,
                              fill_max=settings.disk_fill_max, max_skew_us=int(plan.config.cluster.max_skew_s * 1e6))
        began_s = time.perf_counter()
        try:
            if not slot.path.is_dir():
                raise DeviceUnavailable(device=slot.name, reason=f"{slot.path} is not there: not mounted?")
            (slot.path / "index").mkdir(mode=0o700, exist_ok=True)
            device = Device(RealFs(), str(slot.path), expected, _open_index(slot.path / "index"), limits=limits,
                            now_us=self._clock.now_us())
        except (StorageError, OSError, lmdb.Error, ValueError) as error:
            self._failed[slot.name] = str(error)
            log.error("device not used", device=slot.name, reason=str(error))
            return
        owner = self._owners[slot.ring_id] = Owner(device, self._clock)
        owner.is_primary = self._is_primary(slot.ring_id)
        log.info("device open", device=slot.name, epoch=device.epoch, records=device.recovery.records,
                 ms=round((time.perf_counter() - began_s) * 1000), name=owner.name)

    def _start_rows(self) -> None:
        for slot in self._plan.own_devices:
            owner = self._owners.get(slot.ring_id)
            if owner is None:
                continue
            rows = DeviceRows(owner)
            records = owner.device.take_row_records()
            for kind, _, sequence in records:
                rows.note_row(SPACE_CONTAINER if kind == RecordType.CONTAINER_ROW else SPACE_ACCOUNT, sequence)
            for space, ring_name in ((SPACE_CONTAINER, "container"), (SPACE_ACCOUNT, "account")):
                open_max = max(OPEN_DATABASES_MAX // (2 * max(len(self._owners), 1)), 8)
                store = RowStore(rows, rows, directory=f"{owner.device.root}/{_DIRECTORIES[space]}", space=space,
                                 is_container=space == SPACE_CONTAINER,
                                 peers_of=self._peers_of(self._plan.rings[ring_name], slot), open_max=open_max)
                store.replay([(meta, sequence) for kind, meta, sequence in records if kind == _RECORD_TYPES[space]])
                self._rows[slot.ring_id, space] = store
                self._local_rows[slot.ring_id, space] = LocalRowClient(slot.ring_id, slot.uuid, store, owner.device)
                if space == SPACE_CONTAINER:
                    owner.on_settled.append(store.settled)

    async def _give_back(self, owner: Owner, path: str, policy: int) -> bool:
        holder = next(ring_id for ring_id, other in self._owners.items() if other is owner)
        return await self.store.handoffs.give_back(path, policy, holder)

    def _is_primary(self, device_id: int) -> Callable[[bytes], bool]:
        rings = {SPACE_OBJECT + policy.index: self._plan.rings[f"object-{policy.index}"] for policy in self._plan.policies}

        def is_primary(key: bytes) -> bool:
            space, partition, _ = split_key(key)
            ring = rings.get(space)
            return ring is None or any(device.id == device_id for device in ring.primaries(partition))

        return is_primary

    def _peers_of(self, ring: Ring, own: DeviceSlot) -> Callable[[bytes], Iterable[str]]:
        uuids = {slot.ring_id: slot.uuid for slot in self._plan.devices}

        def peers_of(key: bytes) -> Iterable[str]:
            return [uuids[device.id] for device in ring.primaries(split_key(key)[1]) if device.id != own.ring_id]

        return peers_of

    def _make_store(self, version: int) -> ObjectStore:
        plan = self._plan
        objects: dict[int, ObjectClient] = {}
        containers: dict[int, RowClient] = {}
        accounts: dict[int, RowClient] = {}
        for slot in plan.devices:
            owner = self._owners.get(slot.ring_id)
            if owner is not None:
                objects[slot.ring_id] = LocalObjectClient(slot.ring_id, owner)
                containers[slot.ring_id] = self._local_rows[slot.ring_id, SPACE_CONTAINER]
                accounts[slot.ring_id] = self._local_rows[slot.ring_id, SPACE_ACCOUNT]
                if self._faults is not None:
                    objects[slot.ring_id] = FaultyObjectClient(objects[slot.ring_id], self._faults)
                    containers[slot.ring_id] = FaultyRowClient(containers[slot.ring_id], self._faults)
                    accounts[slot.ring_id] = FaultyRowClient(accounts[slot.ring_id], self._faults)
                continue
            remote = self._remotes.get(slot.worker) or self._loopback()
            objects[slot.ring_id] = RemoteObjectClient(slot.ring_id, remote, ring_version=lambda: version)
            containers[slot.ring_id] = RemoteRowClient(slot.ring_id, slot.uuid, SPACE_CONTAINER, remote)
            accounts[slot.ring_id] = RemoteRowClient(slot.ring_id, slot.uuid, SPACE_ACCOUNT, remote)
        cluster = Cluster(account_ring=plan.rings["account"], container_ring=plan.rings["container"],
                          object_rings={policy.index: plan.rings[f"object-{policy.index}"] for policy in plan.policies},
                          peers=Peers(objects=objects, containers=containers, accounts=accounts),
                          hash_prefix=plan.hash_prefix, hash_suffix=plan.hash_suffix, worker=plan.worker,
                          clock=self._clock, rng=random.Random(os.urandom(16)))
        default = next(policy.index for policy in plan.policies if policy.is_default)
        return ObjectStore(cluster, request_timeout_s=plan.config.object.request_timeout_s, default_policy=default,
                           inline_bytes_max=plan.config.object.inline_bytes_max)

    def _loopback(self) -> RpcClient:
        """To this process itself: a device of ours that could not be opened answers like any that is away."""
        remote = self._remotes.get(self._plan.worker)
        if remote is None:
            plan = self._plan
            credentials = Credentials(name=f"{plan.node_id}/w{plan.worker}", role="worker", fingerprint=plan.fingerprint,
                                      keys=cluster_keys(plan.secrets["cluster.key"].encode()))
            remote = self._remotes[plan.worker] = RpcClient(unix_connector(plan.socket_path(plan.worker)),
                                                            credentials=credentials)
        return remote

    # --- status --------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, object]:
        """For `holdfast status`: facts, no words."""
        devices = []
        for slot in self._plan.own_devices:
            owner = self._owners.get(slot.ring_id)
            facts: dict[str, object] = {"name": slot.name, "path": str(slot.path), "worker": slot.worker}
            if owner is None:
                facts |= {"state": "unusable", "reason": self._failed.get(slot.name, "")}
            else:
                facts |= _device_facts(owner.device)
                damaged = sum(rows.damaged_count for (device, _), rows in self._rows.items() if device == slot.ring_id)
                if damaged and facts["state"] == "ok":
                    reason = f"{damaged} databases of listings damaged: the others answer for them"
                    facts |= {"state": "not counted", "reason": reason}
            devices.append(facts)
        return {"worker": self._plan.worker, "devices": devices,
                "repaired": self.store.repairer.repaired_count,
                "delivered": sum(updater.delivered_count for updater in self._updaters)}


def _device_facts(device: Device) -> dict[str, object]:
    recovery = device.recovery
    standing = device.standing
    device.look_at_space()
    state = "retired" if device.fault else "full" if device.is_full else "ok" if standing.is_counted else "not counted"
    return {"state": state, "reason": device.fault or ("" if standing.is_counted else standing.describe()),
            "is_counted": standing.is_counted, "free_bytes": device.free_bytes, "size_bytes": device.size_bytes,
            "segments": device.journal.segment, "synced_sequence": device.synced_sequence, "epoch": device.epoch,
            "live_bytes": sum(max(live, 0) for live in device.usage.values()),
            "pending_updates": len(device.pending), "torn_bytes": recovery.torn_bytes,
            "damaged_rows": recovery.damaged_rows, "is_index_rebuilt": recovery.is_index_rebuilt}


def _open_index(path: Path) -> LmdbIndex:
    """A damaged index costs a rebuild, never data.

    LMDB may also take the process down with what it finds. So starts are counted until one has held: the third that did not
    begins with a new index.
    """
    rebuild, starts = path.parent / REBUILD, path.parent / STARTS
    count = len(starts.read_bytes()) if starts.exists() else 0
    if rebuild.exists() or count >= STARTS_MAX:
        log.warning("index is made anew", path=path, starts=count)
        _empty(path)
        rebuild.unlink(missing_ok=True)
        count = 0
    starts.write_bytes(b"." * (count + 1))
    try:
        return LmdbIndex(str(path))
    except (lmdb.Error, Corruption) as error:
        log.warning("index damaged, rebuilding", path=path, error=str(error))
        _empty(path)
        return LmdbIndex(str(path))


def _empty(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir(mode=0o700)
