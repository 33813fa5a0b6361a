"""The state of a node in one record, and what is wrong with it in plain words: GET /admin/v1/status."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from node.plan import DeviceSlot

FILL_WARN = 0.85
UPDATES_WARN = 10_000                            # listing updates that wait on one device
_CUT_OFF_S = 30.0                                # a control API that starts again is no news
Finding = dict[str, str]                         # level (note, warning, error), text, advice


def gather_devices(slots: Iterable[DeviceSlot], answers: Sequence[Mapping[str, Any] | None]) -> list[dict[str, Any]]:
    """Every device of the node with what its worker says of it; of one whose worker does not answer, what the plan says."""
    told = {row["name"]: dict(row) for answer in answers if answer is not None for row in answer.get("devices", ())}
    rows = []
    for slot in slots:
        plain = {"name": slot.name, "path": str(slot.path), "worker": slot.worker, "state": "unknown", "is_counted": False,
                 "reason": f"worker {slot.worker} does not answer"}
        row = {**plain, **told.get(slot.name, {})}
        size_bytes = row.get("size_bytes") or 0
        row["fill"] = round(1 - row["free_bytes"] / size_bytes, 4) if size_bytes else None
        rows.append(row)
    return rows


def find_problems(workers: Sequence[Mapping[str, Any]], devices: Sequence[Mapping[str, Any]], *, replicas: int,
                  disk_of: Mapping[str, int | None], fill_max: float, is_login_refused: bool,
                  control: Mapping[str, Any] | None = None) -> list[Finding]:
    """What an operator should know, worst first. disk_of: device name to st_dev, None for a path that is not there.

    control: of the control API; None for a node without one.
    """
    found: list[Finding] = []
    for worker in workers:
        if not worker["is_ready"]:
            found.append(_finding("error", f"worker {worker['worker']} does not serve",
                                  "it is started again by itself; if it stays so, the log of the node says why"))
        elif worker.get("is_hung"):
            found.append(_finding("error", f"worker {worker['worker']} (process {worker['pid']}) does not answer",
                                  "if it stays silent it is killed and started again; the log of the node says more"))
        elif worker["restarts"]:
            found.append(_finding("note", f"worker {worker['worker']} was started again, {_times(worker['restarts'])}",
                                  "the log says what it ended of"))
    down = {worker["worker"] for worker in workers if not worker["is_ready"] or worker.get("is_hung")}
    for device in devices:
        if device["state"] == "unknown" and device["worker"] not in down:
            found.append(_finding("error", f"nothing is known of device {device['name']}: {device['reason']}",
                                  "ask again; if it stays so, the log of the node says why"))
        found += _judge_device(device, is_there=disk_of.get(device["name"]) is not None, fill_max=fill_max)
    found += _judge_redundancy(devices, replicas, disk_of)
    found += _judge_feed(workers, _CUT_OFF_S)
    if control is not None and not control["is_ready"] and (control["failure"] or control["restarts"]):
        found.append(_finding("error", f"the Identity API does not serve: {control['failure'] or 'it starts again'}",
                              "objects are served without it; it is started again by itself, and the log says why it ended"))
    elif control is not None and control.get("is_hung"):
        found.append(_finding("error", f"the Identity API (process {control['pid']}) does not answer",
                              "objects are served without it; if it stays silent it is killed and started again"))
    if control is not None:
        found += _judge_identity(control)
    if is_login_refused:
        found.append(_finding("warning", "logins are refused: clients would send their keys over a public network in clear",
                              "set tls.cert and tls.key, or tls.insecure_http = true if something else encrypts"))
    order = ("error", "warning", "note")
    return sorted(found, key=lambda finding: order.index(finding["level"]))


def _judge_feed(workers: Iterable[Mapping[str, Any]], silent_s: float) -> list[Finding]:
    """Workers that do not hear what identity takes away."""
    deaf = [(worker["worker"], worker["identity"]["silent_s"]) for worker in workers
            if worker.get("identity") and not worker["identity"]["is_connected"] and worker["identity"]["silent_s"] > silent_s]
    return [_finding("warning", f"worker {number} has not heard of identity for {seconds:.0f} s",
                     "its tokens go on by what is known, for auth_grace_s of [identity] at most; v1 tokens are not concerned")
            for number, seconds in deaf]


def _judge_identity(control: Mapping[str, Any]) -> list[Finding]:
    """What identity leaves out, and what it cannot do."""
    found = []
    if control.get("stale"):
        found.append(_finding("error", f"the Identity API goes on with an older configuration: {control['stale']}",
                              "put that right, then SIGHUP or restart the node"))
    standing = control.get("standing") or {}
    feed = standing.get("feed") or {}
    if feed.get("failure"):
        found.append(_finding("error", f"gateways are not told of changes of identity: {feed['failure']}",
                              "they count as cut off and refuse its tokens after auth_grace_s; the log of the node says more"))
    if feed.get("left_out_count"):
        found.append(_finding("warning", f"{feed['left_out_count']} row(s) of identity cannot be told to gateways: "
                                         f"{', '.join(feed['left_out'])}",
                              "what they stand for is refused there: delete or change them"))
    return found + [_finding("warning", one["text"], one["advice"]) for one in standing.get("collisions", ())]


def is_healthy(findings: Iterable[Finding]) -> bool:
    """Notes are no illness."""
    return all(finding["level"] == "note" for finding in findings)


def _judge_device(device: Mapping[str, Any], *, is_there: bool, fill_max: float) -> list[Finding]:
    name, state = device["name"], device["state"]
    if not is_there:
        return [_finding("error", f"device {name} is missing: there is no {device['path']}",
                         "mount its disk and restart the node; until then its replicas are on the other devices only")]
    if state == "unknown":
        return []                                # said already, of it or once of its worker
    if state == "unusable":
        return [_finding("error", f"device {name} cannot be used: {device['reason']}", "put that right and restart the node")]
    if state == "retired":
        return [_finding("error", f"device {name} is retired: {device['reason']}",
                         "look at the disk (dmesg, smartctl); after a repair restart the node")]
    return _judge_counting(device) + _judge_fill(device, fill_max) + _judge_queue(device)


def _judge_counting(device: Mapping[str, Any]) -> list[Finding]:
    if device["is_counted"]:
        return []
    return [_finding("warning", f"device {device['name']} is not counted, waits for copy ({device['reason']})",
                     "it takes writes, reads do not rely on it; the other replicas hold what was acknowledged")]


def _judge_fill(device: Mapping[str, Any], fill_max: float) -> list[Finding]:
    name, fill = device["name"], device.get("fill") or 0.0
    if device["state"] == "full" or fill >= fill_max:
        return [_finding("error", f"device {name} is full ({fill:.0%}): writes to it are refused, deletes go on",
                         "delete objects, or make its file system larger")]
    if fill >= min(FILL_WARN, fill_max):
        return [_finding("warning", f"device {name} is {fill:.0%} full", f"at {fill_max:.0%} it refuses writes: make room")]
    return []


def _judge_queue(device: Mapping[str, Any]) -> list[Finding]:
    pending = device.get("pending_updates") or 0
    if pending <= UPDATES_WARN:
        return []
    return [_finding("warning", f"device {device['name']} has {pending} listing updates waiting",
                     "listings trail behind; containers whose devices are down hold them up")]


def _judge_redundancy(devices: Sequence[Mapping[str, Any]], replicas: int, disk_of: Mapping[str, int | None]) -> list[Finding]:
    found = []
    if replicas < 3:
        found.append(_finding("warning", f"only {replicas} replica(s) of each object, on {len(devices)} device(s)",
                              "with fewer than 3 a single failure stops writes" + (" and can lose data" if replicas == 1 else "")))
    disks: dict[int, list[str]] = {}
    for device in devices:
        disk = disk_of.get(device["name"])
        if disk is not None:
            disks.setdefault(disk, []).append(device["name"])
    shared = [", ".join(names) for names in disks.values() if len(names) > 1]
    if shared and len(disks) == 1:
        found.append(_finding("note", "all replicas share one disk: if it fails, everything on it is lost",
                              "good for trying things out; for data that matters give each device a disk of its own"))
    elif shared:
        found.append(_finding("note", f"some devices share a disk ({'; '.join(shared)}): replicas may be on it together",
                              "give each device a disk of its own"))
    return found


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _finding(level: str, text: str, advice: str) -> Finding:
    return {"level": level, "text": text, "advice": advice}


def read_disks(slots: Iterable[DeviceSlot], stat: Callable[[str], Any]) -> dict[str, int | None]:
    """st_dev of each device of this node. May wait for a sick disk: not for an event loop."""
    found: dict[str, int | None] = {}
    for slot in slots:
        if slot.path is None:
            continue
        try:
            found[slot.name] = stat(str(slot.path)).st_dev
        except OSError:
            found[slot.name] = None
    return found
