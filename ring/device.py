"""One device of a ring: where it stands and how much it may hold."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RingDevice:
    """A row of the ring's device table. `id` is its index there and never changes; a new device may take a freed one."""

    id: int                              # 0 .. 65534: the table stores u16, 65535 means none
    region: int
    zone: int
    ip: str                              # or a host name
    port: int
    device: str                          # its name on the node, "sda_meta" is name "sda" and meta "meta"
    weight: float                        # relative share of partitions; 0 drains it
    meta: str = ""                       # free text of the operator
    node: str = ""                       # id of the node that owns it; "" if unknown, then the ip stands for the node

    @property
    def failure_unit(self) -> str:
        """What fails together below a zone: the node, or the ip while no node id is known."""
        return self.node or self.ip

    def __str__(self) -> str:
        return f"d{self.id}r{self.region}z{self.zone}-{self.ip}:{self.port}/{self.device}"


def device_to_json(device: RingDevice) -> dict[str, object]:
    """The fields under the names that Swift's ring files use; `node` is ours and left out when unknown."""
    fields: dict[str, object] = {
        "id": device.id, "region": device.region, "zone": device.zone, "ip": device.ip, "port": device.port,
        "device": device.device, "weight": device.weight, "meta": device.meta,
        "replication_ip": device.ip, "replication_port": device.port,
    }
    if device.node:
        fields["node"] = device.node
    return fields


def device_from_json(fields: Mapping[str, object]) -> RingDevice:
    """Inverse of `device_to_json`, also for what Swift wrote. Raises `KeyError`, `TypeError`, `ValueError`."""
    def number(name: str, default: int | None = None) -> int:
        value = fields[name] if default is None else fields.get(name, default)
        if not isinstance(value, int) or value < 0:
            raise ValueError(f"device {name}: {value!r}")
        return value

    weight = fields["weight"]
    if not isinstance(weight, (int, float)) or not 0 <= weight < float("inf"):
        raise ValueError(f"device weight: {weight!r}")
    return RingDevice(
        id=number("id"), region=number("region", 1), zone=number("zone"), ip=str(fields["ip"]), port=number("port"),
        device=str(fields["device"]), weight=float(weight), meta=str(fields.get("meta", "")),
        node=str(fields.get("node", "")))
