"""Why a request was refused or failed, out of what the workers remember: GET /admin/v1/explain/TXID."""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from common.clock import Clock
from common.errors import BadRequest, NotFound
from node.plan import DeviceSlot

_TXID = re.compile(r"tx[0-9a-f]{21}-([0-9a-f]{10})")
_REQUEST_ID = re.compile(r"req-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")     # of the control plane
Answer = Mapping[str, Any]


def parse_txid(text: str) -> str:
    """The id in what an operator pasted: as printed, with the name of its header, in capitals. Raises `BadRequest`."""
    found = _TXID.search(text.lower()) or _REQUEST_ID.search(text.lower())
    if found is None:
        raise BadRequest(reason=f"{text!r} is no request id: they look like tx00c7b5a1f2e4d68090a1b-006918e2a4, and each answer "
                                "has its own in the header X-Trans-Id (x-openstack-request-id, req-..., for the control plane)")
    return found[0]


def explain(txid: str, answers: Sequence[Answer | None], devices: Sequence[Mapping[str, Any]], slots: Iterable[DeviceSlot],
            clock: Clock) -> dict[str, Any]:
    """The entry of the worker that has it, with how the devices are now, by ring id. Raises `NotFound` with the likely reason.

    answers: of each worker to "explain", None for one that did not answer; devices: `gather_devices`.
    """
    for worker, answer in enumerate(answers):
        if answer is not None and answer["entry"] is not None:
            rows = {row["name"]: row for row in devices}
            now = {str(slot.ring_id): _device_now(slot.name, rows.get(slot.name, {})) for slot in slots}
            return {**answer["entry"], "worker": worker, "devices": now}
    raise NotFound(what="txid", reason=why_unknown(txid, answers, clock))


def why_unknown(txid: str, answers: Sequence[Answer | None], clock: Clock) -> str:
    """What may have become of it, and how long entries are kept."""
    found = _TXID.fullmatch(txid)
    assert found is not None
    asked_us, now_us = int(found[1], 16) * 1_000_000, clock.now_us()
    memories = [answer["memory"] for answer in answers if answer is not None]
    if not memories:
        return "no worker answers; what they remembered ends with them"
    first = memories[0]
    keeps = (f"each worker keeps the last {first['refusals_max']} refusals (4xx) and {first['failures_max']} failures (5xx) since "
             "it was started")
    sure_us = max(memory["oldest_us"] or memory["started_us"] for memory in memories)
    if asked_us > now_us + 60_000_000:
        likely = "its time is in the future: is it of another cluster?"
    elif asked_us < sure_us - 1_000_000:
        likely = f"it is from {_ago(now_us - asked_us)} ago, and nothing before {_ago(now_us - sure_us)} ago is sure to be here"
    else:
        likely = "the request succeeded (then nothing is kept), still runs, or went to another node"
    silent = sum(answer is None for answer in answers)
    rest = f"; {silent} of {len(answers)} workers did not answer" if silent else ""
    return f"nothing is known of {txid}: {likely}; {keeps}{rest}"


def _device_now(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "state": row.get("state", "unknown"), "is_counted": bool(row.get("is_counted")),
            "reason": row.get("reason") or ""}


def _ago(us: int) -> str:
    seconds = max(us, 0) // 1_000_000
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
