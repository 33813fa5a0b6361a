"""The fault switch: messages of one device are dropped or delayed on purpose, for those who check a system from outside.

It exists only in a node that was started with HOLDFAST_FAULTS=1:

    POST /admin/v1/faults {"rules": [{"device": "d1", "drop": 0.3, "delay_s": [0.0, 0.2], "ops": ["accept"],
                                      "direction": "to", "workers": [0]}], "seed": 7}
    GET /admin/v1/faults        the rules in force, and how many messages each worker has harmed
    DELETE /admin/v1/faults     no faults any more

A rule is about the messages that gateways exchange with one device, those inside of one process included. Left out: no drop,
no delay, every op, both directions, every worker. A worker that is started again has the rules before it serves.
"""
from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from common.errors import BadRequest
from common.faultnet import Direction, FaultRules, Rule, rules_from_environment
from container import wire as rows_wire
from node.plan import DeviceSlot
from object import wire as object_wire

if TYPE_CHECKING:                        # workers import this module, and must not pay for an HTTP server of another kind
    from common.admin import AdminRequest, AdminRoute

OPS = {"look": object_wire.OP_LOOK, "accept": object_wire.OP_ACCEPT, "learn": object_wire.OP_LEARN, "stage": object_wire.OP_STAGE,
       "owed": object_wire.OP_OWED, "owes": object_wire.OP_OWES, "done": object_wire.OP_DONE,
       "read_body": object_wire.OP_READ_BODY, "put_rows": rows_wire.OP_PUT_ROWS, "page": rows_wire.OP_PAGE,
       "unconfirmed": rows_wire.OP_UNCONFIRMED, "live_rows": rows_wire.OP_LIVE_ROWS, "figures": rows_wire.OP_FIGURES,
       "confirm": rows_wire.OP_CONFIRM, "rows_of": rows_wire.OP_ROWS_OF}
DELAY_S_MAX = 60.0
RULES_MAX = 100
_KEYS = ("device", "drop", "delay_s", "ops", "direction", "workers")


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultSpec:
    """One rule as the admin API takes it."""

    device: str                          # its name, "d1"
    ring_id: int                         # by which messages name it
    drop: float = 0.0                    # chance with which a message is lost
    delay_s: tuple[float, float] | None = None
    ops: tuple[str, ...] = ()            # of OPS; none: all
    direction: str | None = None         # "to" or "from" the device
    workers: tuple[int, ...] = ()        # the gateways whose messages are meant; none: all


class Workers(Protocol):
    """What the switch needs of the supervisor."""

    faults: Mapping[str, object] | None

    async def ask_all(self, op: str, **fields: object) -> list[Any]: ...


class FaultSwitch:
    """The admin routes."""

    def __init__(self, slots: Sequence[DeviceSlot], worker_count: int, workers: Callable[[], Workers]) -> None:
        self._ids = {slot.name: slot.ring_id for slot in slots}
        self._worker_count, self._workers = worker_count, workers
        self._specs: list[FaultSpec] = []

    @property
    def routes(self) -> tuple[AdminRoute, ...]:
        """For `make_admin_app`."""
        from common.admin import AdminRoute

        return (AdminRoute(method="GET", path="/faults", handler=self._show),
                AdminRoute(method="POST", path="/faults", handler=self._set),
                AdminRoute(method="DELETE", path="/faults", handler=self._clear))

    async def _set(self, request: AdminRequest) -> object:
        """All rules at once, in the place of those before; for workers that start later as well."""
        rules, seed = request.body.get("rules"), request.body.get("seed", 0)
        if not isinstance(rules, list) or len(rules) > RULES_MAX or not isinstance(seed, int):
            raise BadRequest(reason=f'a body is {{"rules": [...], "seed": 7}} with at most {RULES_MAX} rules')
        self._specs = [parse_spec(rule, self._ids, self._worker_count) for rule in rules]
        return await self._apply(seed)

    async def _clear(self, _: AdminRequest) -> object:
        self._specs = []
        return await self._apply(0)

    async def _show(self, _: AdminRequest) -> object:
        return self._state(await self._workers().ask_all("faults"))

    async def _apply(self, seed: int) -> object:
        workers = self._workers()
        workers.faults = {"specs": [asdict(spec) for spec in self._specs], "seed": seed} if self._specs else None
        return self._state(await workers.ask_all("faults", set=workers.faults or {"specs": [], "seed": seed}))

    def _state(self, answers: Sequence[Any]) -> dict[str, object]:
        rules = [{key: value for key, value in asdict(spec).items() if key in _KEYS} for spec in self._specs]
        return {"rules": rules, "harmed": answers}               # None: a worker that does not answer now


def switch_routes(slots: Sequence[DeviceSlot], worker_count: int, workers: Callable[[], Workers],
                  environ: Mapping[str, str] = os.environ) -> tuple[AdminRoute, ...]:
    """None of them in a node that was not started for faults."""
    if rules_from_environment(environ) is None:
        return ()
    return FaultSwitch(slots, worker_count, workers).routes


def parse_spec(raw: object, ids: Mapping[str, int], worker_count: int) -> FaultSpec:
    """One rule of a request. ids: device name to ring id. Raises `BadRequest`."""
    if not isinstance(raw, dict):
        raise BadRequest(reason="a rule is an object")
    for key in raw:
        if key not in _KEYS:
            raise BadRequest(reason=f"a rule has no {key!r}; it has {', '.join(_KEYS)}")
    device, direction = raw.get("device"), raw.get("direction")
    ops, workers = tuple(_list(raw, "ops")), tuple(_list(raw, "workers"))
    if device not in ids:
        raise BadRequest(reason=f"no device {device!r}; there are {', '.join(sorted(ids))}")
    if not all(op in OPS for op in ops):
        raise BadRequest(reason=f"ops are of {', '.join(OPS)}")
    if not all(isinstance(worker, int) and 0 <= worker < worker_count for worker in workers):
        raise BadRequest(reason=f"workers have numbers from 0 to {worker_count - 1}")
    if direction not in (None, "to", "from"):
        raise BadRequest(reason='direction is "to" or "from"')
    drop = raw.get("drop", 0.0)
    if not isinstance(drop, int | float) or not 0 <= drop <= 1:
        raise BadRequest(reason="drop is a chance from 0 to 1")
    return FaultSpec(device=str(device), ring_id=ids[str(device)], drop=float(drop), delay_s=_parse_delay(raw.get("delay_s")),
                     ops=ops, direction=direction, workers=workers)


def _list(raw: Mapping[str, Any], key: str) -> list[Any]:
    value = raw.get(key)
    if value is not None and not isinstance(value, list | tuple):
        raise BadRequest(reason=f"{key} is a list")
    return list(value or ())


def _parse_delay(value: object) -> tuple[float, float] | None:
    if value is None:
        return None
    if not (isinstance(value, list) and len(value) == 2 and all(isinstance(part, int | float) for part in value)
            and 0 <= value[0] <= value[1] <= DELAY_S_MAX):
        raise BadRequest(reason=f"delay_s is [least, most], from 0 to {DELAY_S_MAX:g}")
    return float(value[0]), float(value[1])


# in a worker

def apply_faults(rules: FaultRules, told: Mapping[str, Any] | None, *, worker: int) -> None:
    """Replace the rules by what the switch says; None: there are none."""
    rules.clear()
    if told is None:
        return
    rules.rng = random.Random(f"{told['seed']}/{worker}")
    for fields in told["specs"]:
        spec = FaultSpec(**{**fields, "delay_s": fields["delay_s"] and tuple(fields["delay_s"])})
        if not spec.workers or worker in spec.workers:
            for rule in _rules_of(spec):
                rules.add(rule)


def _rules_of(spec: FaultSpec) -> Iterable[Rule]:
    ops = frozenset(OPS[name] for name in spec.ops)
    base = Rule(about=spec.ring_id, direction=Direction(spec.direction) if spec.direction else None,
                match=(lambda op, fields: op in ops) if ops else None)
    if spec.drop > 0:
        yield replace(base, chance=spec.drop, held=[])
    if spec.delay_s is not None:
        yield replace(base, delay_s=spec.delay_s[0], delay_s_max=spec.delay_s[1], held=[])
