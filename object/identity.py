"""Who a device is: `device.toml`, the lock, and the reasons for which a directory is refused.

    format = 1, id (uuid), name, cluster, fingerprint, incarnation (32 hex digits)
    amnesia (why it does not count), floor_us: only of a device that forgot

An incarnation is one continuous memory. A device that shows less than its peers remember gets a new one.
"""
from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, replace

from common.errors import DeviceRefused
from common.vfs import Vfs

FORMAT = 1
DIRECTORIES = ("journal", "index", "bodies", "containers", "accounts", "quarantine", "tmp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Content of device.toml."""

    id: str
    name: str
    cluster: str
    fingerprint: str                     # of what decides placement: hash prefix, suffix, policies
    incarnation: bytes                   # 16 bytes
    format: int = FORMAT
    amnesia: str = ""                    # why this device cannot trust its own memory, "" if it can
    floor_us: int = 0                    # with amnesia: microseconds; it takes no ballot below


def save_identity(fs: Vfs, root: str, identity: Identity) -> None:
    """Durable when it returns; atomically replaces an older one."""
    text = (f"format = {identity.format}\nid = \"{identity.id}\"\nname = \"{identity.name}\"\n"
            f"cluster = \"{identity.cluster}\"\nfingerprint = \"{identity.fingerprint}\"\n"
            f"incarnation = \"{identity.incarnation.hex()}\"\n")
    if identity.amnesia:                 # may quote a peer or an error: whatever is no plain ASCII must not spoil the file
        plain = "".join(char if " " <= char <= "~" else "?" for char in identity.amnesia)
        text += f"amnesia = {json.dumps(plain)}\nfloor_us = {identity.floor_us}\n"
    path = f"{root}/device.toml"
    if fs.exists(path + ".new"):
        fs.unlink(path + ".new")
    handle = fs.open(path + ".new", create=True)
    try:
        fs.pwritev(handle, [text.encode()], 0)
        fs.fsync(handle)
    finally:
        fs.close(handle)
    fs.rename(path + ".new", path)
    fs.fsync_dir(root)


def load_identity(fs: Vfs, root: str) -> Identity | None:
    """None when the directory has no device.toml. Raises `DeviceRefused` for one that cannot be read."""
    path = f"{root}/device.toml"
    if not fs.exists(path):
        return None
    handle = fs.open(path, read_only=True)
    try:
        text = fs.pread(handle, fs.size(handle), 0)
    finally:
        fs.close(handle)
    try:
        table = tomllib.loads(text.decode())
        identity = Identity(id=table["id"], name=table["name"], cluster=table["cluster"],
                            fingerprint=table["fingerprint"], incarnation=bytes.fromhex(table["incarnation"]),
                            format=table["format"], amnesia=table.get("amnesia", ""), floor_us=table.get("floor_us", 0))
        if not isinstance(identity.amnesia, str) or not isinstance(identity.floor_us, int):
            raise TypeError("amnesia has to be a string, floor_us a number")
    except (ValueError, KeyError, TypeError) as error:
        raise DeviceRefused(device=root, reason=f"device.toml cannot be read: {error}") from error
    if identity.format > FORMAT:
        raise DeviceRefused(device=root, reason=f"written by a newer Holdfast: format {identity.format}, "
                                                f"this program knows {FORMAT}")
    return identity


def format_device(fs: Vfs, root: str, identity: Identity) -> Identity:
    """Make an empty directory a device."""
    for name in DIRECTORIES:
        fs.mkdir(f"{root}/{name}")
    fs.fsync_dir(root)
    save_identity(fs, root, identity)
    return identity


def check_identity(found: Identity, *, root: str, expected: Identity) -> Identity:
    """What was found, if this directory may be used as `expected`. Raises `DeviceRefused` with the reason."""
    if found.cluster != expected.cluster:
        raise DeviceRefused(device=root, reason=f"foreign: belongs to cluster {found.cluster}, this is {expected.cluster}")
    if found.id != expected.id:
        raise DeviceRefused(device=root, reason=f"is device {found.name} (id {found.id}), but {expected.name} "
                                                f"(id {expected.id}) belongs here: copied or mounted in the wrong place")
    if found.fingerprint != expected.fingerprint:
        raise DeviceRefused(device=root, reason="foreign: hash prefix, suffix or policies differ from this cluster's")
    return replace(found, name=expected.name)


def lock_device(fs: Vfs, root: str) -> int:
    """Handle of the lock, held for life. Raises `DeviceRefused` when another process owns the device."""
    handle = fs.open(f"{root}/lock", create=True)
    if not fs.try_lock(handle):
        fs.close(handle)
        raise DeviceRefused(device=root, reason="in use: another process holds its lock (mounted twice, or still stopping)")
    return handle
