"""What one worker is to do: the configuration, the rings, all devices of the node, and which of them are its own."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.cluster_config import Policy
from common.secrets import load_secret
from node.config import HoldfastConfig
from node.state import RING_KEY, NodeState, with_demo_user
from ring.placement import Ring


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSlot:
    """A device of the cluster. path: None if it is on another node; worker: its owner, by number."""

    ring_id: int
    uuid: str
    name: str
    path: Path | None
    worker: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """Everything a worker needs to know. rings: by name: account, container, object-<policy index>."""

    state: Path
    config: HoldfastConfig
    worker: int
    worker_count: int
    cluster_id: str
    node_id: str
    fingerprint: str
    hash_prefix: bytes
    hash_suffix: bytes
    rings: Mapping[str, Ring]
    devices: tuple[DeviceSlot, ...]
    policies: tuple[Policy, ...]
    secrets: Mapping[str, str]                   # by file name: cluster.key, token.key

    def socket_path(self, worker: int) -> Path:
        """Where a worker of this node answers the others."""
        return self.state / "run" / f"worker-{worker}.sock"

    @property
    def own_devices(self) -> tuple[DeviceSlot, ...]:
        """Those that this worker owns."""
        return tuple(slot for slot in self.devices if slot.worker == self.worker)


def make_plan(state: NodeState, config: HoldfastConfig, rings: Mapping[str, Ring], *, worker: int, worker_count: int) -> WorkerPlan:
    """The plan of worker number `worker`. Raises `ConfigError` for a secret that cannot be read."""
    return WorkerPlan(
        state=state.root, config=with_demo_user(config), worker=worker, worker_count=worker_count, cluster_id=state.cluster_id,
        node_id=state.node_id, fingerprint=state.fingerprint, hash_prefix=state.hash_prefix.encode(),
        hash_suffix=state.hash_suffix.encode(), rings=rings, devices=tuple(deal_devices(state, worker_count)),
        policies=config.policies, secrets={name: load_secret(state.secret_dir / name) for name in (RING_KEY, "token.key")})


def deal_devices(state: NodeState, worker_count: int) -> Iterable[DeviceSlot]:
    """Round-robin, so that the replicas of an object are with as many workers as can be."""
    for position, row in enumerate(state.devices):
        yield DeviceSlot(ring_id=row.ring_id, uuid=row.uuid, name=row.name, path=state.device_path(row),
                         worker=position % worker_count)
