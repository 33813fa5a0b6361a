"""The state directory of a node: made at the first start, completed if that start broke off, checked at every later one.

    secrets/        0700: cluster.key (signs rings, proves nodes), token.key, admin.key, demo.key
    devices/d1 ...  one directory per device, or a mount point, or a symbolic link to one
    cluster.json    0600: who this node is and what decides placement; written when the directories above are there
    rings/<name>/   account, container, object-<policy index>; version 1 follows from cluster.json alone
    run/            sockets and the lock of the supervisor; holdfast.log beside it, and endpoint.json while a node runs

So cluster.json is the turning point: before it everything may be made again, after it nothing that held data is ever made
anew. A device directory that is missing then is a disk that is missing.
"""
from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import random
import secrets
import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from common.clock import Clock
from common.cluster_config import Policy, placement_fingerprint
from common.errors import ConfigError, Corruption, RingError
from common.log import get_logger
from common.secrets import load_or_create_secret, load_secret
from node.config import HoldfastConfig
from node.files import write_private
from proxy.config import UserRow
from ring.device import RingDevice
from ring.membership import LocalNodeRings, RingStore, StoredRing, successor, unpack_ring
from ring.placement import Ring

FORMAT = 1
REPLICAS = 3                             # of accounts and containers, and of objects unless their policy says otherwise
CLUSTER_FILE, LOG_FILE = "cluster.json", "holdfast.log"
RING_KEY = "cluster.key"
SECRET_FILES = (RING_KEY, "token.key", "admin.key")
DEMO_USER = UserRow(account="demo", user="demo", groups=(".admin",), key_file="demo.key")
_RPC_PORT = 6200
_LOSSES = {"token.key": "tokens that clients have are no longer good: they log in again",
           "admin.key": "whoever has a copy of the old one needs the new one"}
_OWN_NAMES = frozenset({"secrets", "devices", "rings", "run", "endpoint.json", "demo.env", "demo.curl", "clouds.yaml",
                        "openrc", "control", "policy", "lost+found"})
_log = get_logger("node.state")
Say = Callable[[str], None]              # takes a line for whoever watches the start


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRow:
    """A device of this node. path: absolute, or below the state directory; ring_id: its number in every ring."""

    ring_id: int
    name: str
    uuid: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """Content of cluster.json, and where it lies. policies: [index, name, replicas, is_default] of each."""

    root: Path
    cluster_id: str
    node_id: str
    hash_prefix: str
    hash_suffix: str
    policies: tuple[tuple[int, str, int, bool], ...]
    devices: tuple[DeviceRow, ...]

    @property
    def fingerprint(self) -> str:
        """Of all that decides where a name lives."""
        rows = [Policy(index=index, name=name, replicas=count, is_default=is_default, sync="")
                for index, name, count, is_default in self.policies]
        return placement_fingerprint(cluster_id=self.cluster_id, hash_prefix=self.hash_prefix.encode(),
                                     hash_suffix=self.hash_suffix.encode(), policies=rows)

    @property
    def ring_names(self) -> list[str]:
        """account, container, then one per policy."""
        return ["account", "container", *(f"object-{row[0]}" for row in self.policies)]

    @property
    def run_dir(self) -> Path:
        """Sockets and locks."""
        return self.root / "run"

    @property
    def secret_dir(self) -> Path:
        """Keys."""
        return self.root / "secrets"

    def device_path(self, row: DeviceRow) -> Path:
        """Where a device is."""
        return self.root / row.path

    def replicas_of(self, ring_name: str) -> int:
        """Copies that a ring keeps: as many as asked for, or as there are devices."""
        wanted = {f"object-{index}": count for index, _, count, _ in self.policies}.get(ring_name, REPLICAS)
        return min(wanted, len(self.devices))


def prepare_directory(root: Path) -> None:
    """Make the directory and what is needed to lock it. Raises `ConfigError` if it cannot be written, or is for something else.

    One that is made is for its owner only: names of objects and their bodies are in it. One that is there keeps its mode.
    """
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_foreign(root)
        (root / "run").mkdir(mode=0o700, exist_ok=True)
        if not os.access(root, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ConfigError(where=str(root), reason=f"the state directory cannot be written: {error.strerror}; "
                                                  "choose another with --data DIR, or give it to this user") from error


def _refuse_foreign(root: Path) -> None:
    """A store is begun in a directory of its own: a mistyped --data must not mix it with somebody's files."""
    if (root / CLUSTER_FILE).exists():
        return
    foreign = sorted(name for name in os.listdir(root) if name not in _OWN_NAMES and not name.startswith((".", "holdfast.")))
    if foreign:
        raise ConfigError(where=str(root), reason=f"is no state directory of Holdfast, and not empty (it holds {foreign[0]!r}): "
                                                  "choose an empty or new one with --data DIR")


def open_state(root: Path, config: HoldfastConfig, *, device_count: int | None, clock: Clock, say: Say) -> NodeState:
    """Load what is there and make what is missing; the caller holds the lock of `root`.

    device_count: what the operator asked for, None if nothing. Raises `ConfigError` for a directory that does not fit to
    what was asked, or that lost its cluster.json.
    """
    state = load_state(root)
    is_first = state is None
    try:
        if state is None:
            load_or_create_secret(root / "secrets", RING_KEY)
            state = _make_state(root, config, device_count or config.node.devices, say)
        _check_state(state, config, device_count)
        _make_secrets(state, config, is_first=is_first)
        asyncio.run(_make_rings(state, clock, say))
    except OSError as error:
        raise ConfigError(where=str(error.filename or root), reason=f"{error.strerror}") from error
    return state


def load_state(root: Path) -> NodeState | None:
    """None before the first start. Raises `ConfigError`."""
    path = root / CLUSTER_FILE
    try:
        fields = json.loads(path.read_bytes())
        if fields["format"] != FORMAT:
            raise ConfigError(where=str(path), reason=f"format {fields['format']} is newer than this Holdfast's, {FORMAT}")
        return NodeState(
            root=root, cluster_id=fields["cluster_id"], node_id=fields["node_id"], hash_prefix=fields["hash_prefix"],
            hash_suffix=fields["hash_suffix"], policies=tuple((i, name, n, default) for i, name, n, default in fields["policies"]),
            devices=tuple(DeviceRow(**row) for row in fields["devices"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(where=str(path), reason=f"cannot be used, restore it from a backup: {error!r}") from error


def with_demo_user(config: HoldfastConfig) -> HoldfastConfig:
    """The configuration as it is, or with the demo user if nobody could log in."""
    if config.auth.user:
        return config
    return replace(config, auth=replace(config.auth, user=(DEMO_USER,)))


def load_rings(state: NodeState) -> dict[str, Ring]:
    """The adopted version of each ring. Raises `ConfigError` if one is missing, `RingError`, `Corruption`."""
    return asyncio.run(fetch_rings(state))


async def fetch_rings(state: NodeState) -> dict[str, Ring]:
    """As `load_rings`, for a running loop."""
    key, rings = _ring_key(state), {}
    for name in state.ring_names:
        stored = await _load_ring(state, name, key)
        if stored is None:
            raise ConfigError(where=str(state.root / "rings" / name), reason="this ring is missing; start with `holdfast up`")
        rings[name] = unpack_ring(stored.bundle, key=key)[1]
    return rings


async def _load_ring(state: NodeState, name: str, key: bytes) -> StoredRing | None:
    """The adopted version, None before the first. Raises `ConfigError` that names the file."""
    directory = state.root / "rings" / name
    try:
        return await LocalNodeRings(directory, key=key).get_current()
    except (Corruption, RingError) as error:
        raise ConfigError(where=str(directory / "current.bundle"), reason=(
            f"this ring is damaged or was not made by this cluster ({error.fields.get('reason', error)}): restore the file from a "
            "backup of the state directory; the objects on the devices are not touched")) from error


# the first start

def _make_state(root: Path, config: HoldfastConfig, device_count: int, say: Say) -> NodeState:
    relics = [*root.glob("devices/*/device.toml"), *root.glob("rings/*/current.bundle")]
    if relics:                               # a new identity would make every device foreign: not something to do by accident
        raise ConfigError(where=str(root / CLUSTER_FILE), reason=f"is missing, but {relics[0].relative_to(root)} is there: "
                          "restore it from a backup, or move the directory away to begin with an empty store")
    say(f"first start: making a cluster of one node with {device_count} device{'s' * (device_count > 1)} in {root}")
    rows = tuple(DeviceRow(ring_id=n, name=f"d{n + 1}", uuid=str(uuid.uuid4()), path=f"devices/d{n + 1}")
                 for n in range(device_count))
    state = NodeState(
        root=root, cluster_id=config.cluster.id or secrets.token_hex(8), node_id=secrets.token_hex(8),
        hash_prefix=_or_random(config.cluster.hash_prefix), hash_suffix=_or_random(config.cluster.hash_suffix),
        policies=_policy_facts(config.policies), devices=rows)
    for row in rows:
        state.device_path(row).mkdir(mode=0o750, parents=True, exist_ok=True)
    _save_state(state)
    return state


def _make_secrets(state: NodeState, config: HoldfastConfig, *, is_first: bool) -> None:
    load_secret(state.secret_dir / RING_KEY)     # made before cluster.json: a new one would disown every ring, so it must be there
    for name, loss in _LOSSES.items():
        if not is_first and not (state.secret_dir / name).exists():
            _log.warning("secret is missing, a new one is made", file=state.secret_dir / name, loss=loss)
    for secret in SECRET_FILES if config.auth.user else (*SECRET_FILES, DEMO_USER.key_file):
        load_or_create_secret(state.secret_dir, str(secret))


def _save_state(state: NodeState) -> None:
    fields = {"format": FORMAT, **asdict(replace(state, root=Path())), "devices": [asdict(row) for row in state.devices]}
    del fields["root"]
    write_private(state.root / CLUSTER_FILE, json.dumps(fields, indent=2).encode() + b"\n")


def _or_random(given: str | None) -> str:
    return secrets.token_hex(16) if given is None else given


def _policy_facts(policies: Iterable[Policy]) -> tuple[tuple[int, str, int, bool], ...]:
    return tuple((p.index, p.name, p.replicas, p.is_default) for p in policies)


async def _make_rings(state: NodeState, clock: Clock, say: Say) -> None:
    """Version 1 of each ring that has none: the same ring however often a start breaks off."""
    key = _ring_key(state)
    for name in state.ring_names:
        if await _load_ring(state, name, key) is not None:
            continue
        node = LocalNodeRings(state.root / "rings" / name, key=key)
        replicas = state.replicas_of(name)
        say(f"making ring {name}: {replicas} replica{'s' * (replicas > 1)} on {len(state.devices)} devices")
        ring = successor(None, _first_ring(state, name, now_s=clock.now_us() // 1_000_000))
        await RingStore([node], key=key, rng=random.Random(secrets.randbits(64))).propose(ring, predecessor=None)


def _first_ring(state: NodeState, name: str, *, now_s: int) -> Ring:
    from ring.builder import RingBuilder  # brings numpy, which no later start needs

    power = 10 if len(state.devices) <= 16 else 12
    builder = RingBuilder(power, state.replicas_of(name), min_part_hours=1)
    for row in state.devices:                    # a zone of its own for each, so that replicas never share a device's fate twice
        builder.add_dev(RingDevice(id=row.ring_id, region=1, zone=row.ring_id + 1, ip="127.0.0.1", port=_RPC_PORT, device=row.name,
                                   weight=100.0, node=state.node_id))
    seed = int.from_bytes(hashlib.sha256(f"{state.cluster_id}/{name}".encode()).digest()[:4], "big")
    builder.rebalance(seed=seed, now_s=now_s)
    return builder.ring()


def _ring_key(state: NodeState) -> bytes:
    return load_secret(state.secret_dir / RING_KEY).encode()


# every later start

def _check_state(state: NodeState, config: HoldfastConfig, device_count: int | None) -> None:
    """What was decided at the first start cannot be changed by a setting. Raises `ConfigError`."""
    where = str(state.root / CLUSTER_FILE)
    have = len(state.devices)
    if device_count is not None and device_count != have:
        hint = ("this version cannot add devices to a store; make a larger one with `--data` elsewhere and copy the objects"
                if device_count > have else "devices that hold data cannot be taken away by a number")
        raise ConfigError(where=where, reason=f"this store was made with {have} devices, not {device_count}; {hint}")
    for name, given, mine in (("cluster.id", config.cluster.id, state.cluster_id),
                              ("cluster.hash_prefix", config.cluster.hash_prefix, state.hash_prefix),
                              ("cluster.hash_suffix", config.cluster.hash_suffix, state.hash_suffix)):
        if given is not None and given != mine:
            raise ConfigError(where=where, reason=f"{name} is not what this store was made with: no object could be found any more")
    if _policy_facts(config.policies) != state.policies:
        made = ", ".join(f"{name} (index {i}, {count} replicas)" for i, name, count, _ in state.policies)
        raise ConfigError(where=where, reason=f"the policies are not those this store was made with: {made}")
