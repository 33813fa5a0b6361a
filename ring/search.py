"""How operators name devices on a command line, in the words of swift-ring-builder.

To add:     r1z2-10.0.0.1:6200/sda_meta        region 1 if left out; [IPv6] in brackets; a replication address "R..." is read
                                               and not used: one transport serves both
To change:  10.0.0.2:6201/sdb_meta                             any part of it
To search:  d7  r1  z2  -10.0.0.1  :6200  /sda  _meta       any of them, in this order, together: r1z2-10.0.0.1:6200/sda
"""
from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from common.errors import RingError
from ring.device import RingDevice

_ADDRESS = r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]*?[A-Za-z0-9_])"
_ADD = re.compile(
    rf"^(?:r(?P<region>\d+))?z(?P<zone>\d+)-(?P<ip>{_ADDRESS}):(?P<port>\d+)"
    rf"(?:R(?:{_ADDRESS})?(?::\d+)?)?/(?P<device>[^_/\s]+)(?:_(?P<meta>.*))?$")
_SEARCH = re.compile(
    rf"^(?:d(?P<id>\d+))?(?:r(?P<region>\d+))?(?:z(?P<zone>\d+))?(?:-?(?P<ip>{_ADDRESS}))??(?::(?P<port>\d+))?"
    rf"(?:R(?:{_ADDRESS})?(?::\d+)?)?(?:/(?P<device>[^_/\s]+))?(?:_(?P<meta>.*))?$")

_PLACE = re.compile(r"^(?:r\d+)?z\d+-|^r\d+-")       # also a host name, but never meant as one
_CHANGE = re.compile(
    rf"^(?P<ip>{_ADDRESS})??(?::(?P<port>\d+))?(?:R(?:{_ADDRESS})?(?::\d+)?)?(?:/(?P<device>[^_/\s]+))?(?:_(?P<meta>.*))?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFilter:
    """Which devices are meant; None matches all. meta: any part of a device's meta."""

    id: int | None = None
    region: int | None = None
    zone: int | None = None
    ip: str | None = None
    port: int | None = None
    device: str | None = None
    weight: float | None = None
    meta: str | None = None

    def matches(self, device: RingDevice) -> bool:
        """Whether every given field fits."""
        for name in ("id", "region", "zone", "ip", "port", "device", "weight"):
            wanted = getattr(self, name)
            if wanted is not None and wanted != getattr(device, name):
                return False
        return self.meta is None or self.meta in device.meta

    @property
    def is_empty(self) -> bool:
        """Nothing given: it would match every device, which is never what a change means."""
        return self == DeviceFilter()


def parse_new_device(text: str, weight: float) -> RingDevice:
    """A device to add, its id still 0. Raises `RingError`."""
    found = _ADD.match(text)
    if found is None:
        raise RingError(reason=f"{text!r} is no device; write it as r1z2-10.0.0.1:6200/sda_meta")
    port = int(found["port"])
    if not 0 < port < 65536:
        raise RingError(reason=f"{text!r}: port {port} is out of range")
    return RingDevice(
        id=0, region=int(found["region"] or 1), zone=int(found["zone"]), ip=found["ip"].strip("[]"), port=port,
        device=found["device"], weight=weight, meta=_unquoted(found["meta"] or ""))


def parse_search(text: str) -> DeviceFilter:
    """Raises `RingError` for what is no search value, also for an empty one."""
    found = _SEARCH.match(text)
    number = {name: None if found is None or found[name] is None else int(found[name])
              for name in ("id", "region", "zone", "port")}
    search = DeviceFilter() if found is None else DeviceFilter(
        id=number["id"], region=number["region"], zone=number["zone"], port=number["port"],
        ip=found["ip"].strip("[]") if found["ip"] else None, device=found["device"],
        meta=None if found["meta"] is None else _unquoted(found["meta"]))
    if search.is_empty:
        raise RingError(reason=f"{text!r} is no search value; try d7, z2, r1z2-10.0.0.1:6200/sda, :6200 or _meta")
    return search


def parse_change(text: str) -> dict[str, str | int]:
    """What set_info gives a device: "10.0.0.2:6201/sdb_meta", any of them, in this order. Raises `RingError`."""
    found = None if _PLACE.match(text) else _CHANGE.match(text)
    if found is None or not any(found.groupdict().get(name) is not None for name in ("ip", "port", "device", "meta")):
        raise RingError(reason=f"{text!r} is no change; write what is new as 10.0.0.2:6201/sdb_meta, any part of it; "
                               "set_region and set_zone change the rest")
    changes: dict[str, str | int] = {}
    if found["ip"] is not None:
        changes["ip"] = found["ip"].strip("[]")
    if found["port"] is not None:
        changes["port"] = int(found["port"])
    if found["device"] is not None:
        changes["device"] = found["device"]
    if found["meta"] is not None:
        changes["meta"] = _unquoted(found["meta"])
    return changes


def find_devices(devices: Iterable[RingDevice], search: DeviceFilter) -> list[RingDevice]:
    """Those that match, by id."""
    return sorted((d for d in devices if search.matches(d)), key=lambda d: d.id)


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] == '"' else text
