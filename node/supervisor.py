"""The supervisor: keeps the workers alive, drains them at the end, passes a new configuration on, and answers for all of them.

It owns no device and serves no client, so that nothing a client or a disk does can take it down. It keeps the sockets that
clients connect to (`node/listeners.py`), and asks each worker for signs of life (`node/pulse.py`).
"""
from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from common.clock import Clock
from common.errors import StorageError, TransportLost, error_from_wire
from common.log import get_logger
from common.metrics import Registry, Snapshot, merge_snapshots
from node.channel import DRAIN_S, Channel, pack_config
from node.config import HoldfastConfig
from node.listeners import bind_again
from node.pulse import PULSE_S, Pulse
from node.spawner import Spawner
from node.state import NodeState

IMMEDIATE_RESTARTS = 3                           # within a minute: a crash costs its clients milliseconds, a crash loop no core
_WINDOW_S = 60.0
_DELAY_S_MAX = 30.0
_CALL_S = 5.0
_log = get_logger("node.supervisor")


def restart_delay_s(restarts: Sequence[float], now_s: float) -> float:
    """How long to wait before the next start. restarts: when earlier ones happened, ascending, on the same clock as now_s."""
    recent = sum(1 for when in restarts if now_s - when < _WINDOW_S)
    if recent < IMMEDIATE_RESTARTS:
        return 0.0
    return min(2.0 ** (recent - IMMEDIATE_RESTARTS), _DELAY_S_MAX)


@dataclass(slots=True)
class Slot:
    """The place of one worker, whoever fills it."""

    number: int
    listeners: list[socket.socket]
    pulse: Pulse
    pid: int | None = None
    channel: Channel | None = None
    is_ready: bool = False
    was_ready: bool = False
    started_s: float = 0.0
    restart_count: int = 0
    restarts: deque[float] = field(default_factory=lambda: deque(maxlen=64))
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    exit_code: int | None = None
    given: HoldfastConfig | None = None          # the configuration that its worker was started with
    failure: StorageError | None = None          # what the worker said before it gave up

    @property
    def is_hung(self) -> bool:
        """Serves by the book, and does not answer."""
        return self.is_ready and self.pulse.is_hung


class Supervisor:
    """Runs the workers of one node. on_change: called when a worker became ready or ended."""

    def __init__(self, state: NodeState, config: HoldfastConfig, listeners: list[list[socket.socket]], *, clock: Clock,
                 on_change: Callable[[], None] = lambda: None, kill: Callable[[int, int], None] = os.kill) -> None:
        self.config = config
        self.faults: Mapping[str, object] | None = None          # of the fault switch, for workers that start
        self.slots = [Slot(number, mine, Pulse(f"worker {number}", clock=clock, kill=kill))
                      for number, mine in enumerate(listeners)]
        self._state, self._clock, self._on_change = state, clock, on_change
        self._spawner = Spawner(on_exit=self._note_exit, on_lost=self._note_zygote_lost)
        self._is_stopping = False
        self._stop = asyncio.Event()
        self._settled = asyncio.Event()          # all ready once, or one will never be
        self.failure: StorageError | None = None
        self._keepers: list[asyncio.Task[None]] = []
        self._catching_up: dict[int, asyncio.Task[None]] = {}
        self._respawn = asyncio.Lock()
        self._early_exits: dict[int, int] = {}   # of workers that ended before we knew their process id
        registry = self.registry = Registry()
        self._restarts_total = registry.counter("holdfast_worker_restarts_total", "workers that ended unasked", ("worker",))
        up = registry.gauge("holdfast_worker_up", "1 while the worker serves", ("worker",))
        for slot in self.slots:
            up.labels(str(slot.number)).source = partial(getattr, slot, "is_ready")
            self._restarts_total.labels(str(slot.number))

    # life

    async def start(self) -> None:
        """Start all workers; returns when all serve. Raises what kept one from its first start."""
        await self._spawner.start()
        self._keepers = [asyncio.create_task(self._keep(slot), name=f"worker {slot.number}") for slot in self.slots]
        self._keepers.append(asyncio.create_task(self._watch(), name="watch"))
        await self._settled.wait()
        if self.failure is not None:
            await self.stop()
            raise self.failure

    async def stop(self) -> None:
        """Stop accepting, let requests end, close the devices; returns when no worker is left."""
        self._is_stopping = True
        self._stop.set()
        for slot in self.slots:
            for sock in slot.listeners:
                sock.close()
        for op in ("drain", "close"):            # in two steps: a request that ends in one worker needs the devices of all
            await asyncio.gather(*(self._part(slot, op) for slot in self.slots))
        for keeper in (*self._keepers, *self._catching_up.values()):
            keeper.cancel()
        if self._keepers:
            await asyncio.wait(self._keepers)
        await self._spawner.close()

    async def _part(self, slot: Slot, op: str) -> None:
        """One step of a worker's end."""
        if slot.channel is None or not slot.is_ready:
            return                               # one that still starts is killed with the zygote: it has promised nothing
        if slot.is_hung:
            _log.warning("worker hangs, it is killed", worker=slot.number, pid=slot.pid, step=op)
            return
        try:
            cut = await slot.channel.call(op, timeout_s=3 * DRAIN_S)
            if cut:
                _log.warning("connections cut", worker=slot.number, count=cut)
            if op == "close":
                async with asyncio.timeout(DRAIN_S):
                    await slot.ended.wait()
        except TransportLost:
            pass                                 # it is gone already
        except (StorageError, TimeoutError) as error:
            _log.warning("worker does not stop, it is killed", worker=slot.number, pid=slot.pid, step=op, error=error)

    async def _keep(self, slot: Slot) -> None:
        """Start, wait, start again: the whole life of one place."""
        while not self._is_stopping:
            try:
                await self._run(slot)
            except (StorageError, OSError) as error:
                _log.error("worker cannot be started", worker=slot.number, error=error)
                slot.failure = error if isinstance(error, StorageError) else StorageError(reason=str(error))
            if self._is_stopping:
                return
            if not slot.was_ready and not self._settled.is_set():
                self._give_up(slot)
                return
            await self._pause(slot)

    async def _run(self, slot: Slot) -> None:
        """One process, from fork to end."""
        mine, theirs = socket.socketpair()
        slot.failure, slot.exit_code, slot.is_ready = None, None, False
        slot.ended.clear()
        slot.channel = Channel(on_event=lambda event, fields: self._take_event(slot, event, fields))
        try:
            async with self._respawn:            # two workers that lost their zygote start one new one, not two
                if self._spawner.pid is None:
                    await self._spawner.start()
            slot.given = self.config
            request = {"state": str(self._state.root), "config": pack_config(self.config), "worker_count": len(self.slots),
                       "faults": self.faults}
            slot.pid = await self._spawner.fork(slot.number, request, [theirs, *slot.listeners])
            slot.started_s = self._clock.monotonic_s()
            if slot.pid in self._early_exits:
                self._note_exit(slot.pid, self._early_exits.pop(slot.pid))
            await slot.channel.open(mine)
        finally:
            theirs.close()
        await slot.ended.wait()
        slot.pulse.forget()
        await wait_gone(slot.pid)                # after the zygote's end: its locks go with it, not before
        await slot.channel.finish()              # it may have said why
        slot.is_ready, slot.pid, slot.channel = False, None, None
        self._on_change()

    async def _pause(self, slot: Slot) -> None:
        """Before another start: nothing for the first few, then longer and longer."""
        now_s = self._clock.monotonic_s()
        delay_s = restart_delay_s(slot.restarts, now_s)
        slot.restarts.append(now_s)
        slot.restart_count += 1
        self._restarts_total.labels(str(slot.number)).inc()
        _log.error("worker ended, starting it again", worker=slot.number, exit=_describe_exit(slot.exit_code), delay_s=delay_s,
                   reason=slot.failure)
        if delay_s == 0:
            return
        for index, sock in enumerate(slot.listeners):         # nobody should wait in a socket that is served in 30 s
            slot.listeners[index] = bind_again(sock)
            sock.close()
        try:
            async with asyncio.timeout(delay_s):
                await self._stop.wait()
        except TimeoutError:
            pass

    def _give_up(self, slot: Slot) -> None:
        """A node whose worker has never served tells why and stops, rather than try for ever."""
        self.failure = slot.failure or StorageError(
            reason=f"worker {slot.number} ended while it started ({_describe_exit(slot.exit_code)}); the log says why")
        self._settled.set()

    # what happens

    def _take_event(self, slot: Slot, event: str, fields: Mapping[str, Any]) -> None:
        if event == "ready":
            slot.is_ready = slot.was_ready = True
            ms = (self._clock.monotonic_s() - slot.started_s) * 1e3
            _log.info("worker serves", worker=slot.number, pid=slot.pid, ms=round(ms, 1))
            if all(other.was_ready for other in self.slots):
                self._settled.set()
            self._bring_up(slot)
            self._on_change()
        elif event == "failed":
            slot.failure = error_from_wire(*fields["error"])

    async def _watch(self) -> None:
        """Ask for signs of life until the node stops."""
        while not self._is_stopping:
            try:
                async with asyncio.timeout(PULSE_S):
                    await self._stop.wait()
            except TimeoutError:
                self.take_pulse()

    def take_pulse(self) -> None:
        """One round of questions; a worker that hangs for good is ended, and started again."""
        for slot in self.slots:
            serves = slot.is_ready and not slot.ended.is_set()
            slot.pulse.take(slot.channel if serves else None, slot.pid)

    def _note_exit(self, pid: int, code: int) -> None:
        for slot in self.slots:
            if slot.pid == pid:
                slot.exit_code = code
                slot.ended.set()
                return
        self._early_exits[pid] = code

    def _note_zygote_lost(self) -> None:
        if self._is_stopping:
            return
        _log.error("the process that workers are forked from ended; all workers start again")
        self._spawner = Spawner(on_exit=self._note_exit, on_lost=self._note_zygote_lost)
        for slot in self.slots:
            slot.ended.set()

    # what all workers answer

    async def ask_all(self, op: str, **fields: object) -> list[Any]:
        """The answer of each worker, None for one that does not serve or did not answer in time."""
        return await asyncio.gather(*(self._ask(slot, op, fields) for slot in self.slots))

    async def _ask(self, slot: Slot, op: str, fields: Mapping[str, object]) -> Any:
        if slot.channel is None or not slot.is_ready or slot.is_hung:
            return None
        try:
            return await slot.channel.call(op, timeout_s=_CALL_S, **fields)
        except StorageError as error:
            _log.warning("worker does not answer", worker=slot.number, op=op, error=error)
            return None

    async def metrics(self) -> Snapshot:
        """Of all processes together."""
        found: list[Snapshot] = [answer for answer in await self.ask_all("metrics") if answer is not None]
        return merge_snapshots([self.registry.snapshot(), *found])

    async def reload(self, config: HoldfastConfig) -> None:
        """Give every worker the new configuration; those that start later have it too. Raises what a worker refused it for."""
        packed = pack_config(config)
        ready = [(slot, slot.channel) for slot in self.slots if slot.channel is not None and slot.is_ready]
        calls: list[Awaitable[Any]] = [channel.call("reload", timeout_s=_CALL_S, config=packed) for _, channel in ready]
        refused = [answer for answer in await asyncio.gather(*calls, return_exceptions=True) if isinstance(answer, BaseException)]
        if refused:                              # all of them or none: those that took it go back
            await self.ask_all("reload", config=pack_config(self.config))
            raise refused[0]
        self.config = config
        for slot, channel in ready:
            if slot.channel is channel:
                slot.given = config
        for slot in self.slots:
            self._bring_up(slot)                 # one that became ready meanwhile

    def _bring_up(self, slot: Slot) -> None:
        """To the configuration of now, if that was loaded while it started."""
        if slot.is_ready and slot.given is not None and slot.given is not self.config:
            slot.given = self.config
            self._catching_up[slot.number] = asyncio.create_task(self._catch_up(slot), name=f"catch up {slot.number}")

    async def _catch_up(self, slot: Slot) -> None:
        """Have a worker take the configuration that all others run."""
        try:
            if slot.channel is not None:
                await slot.channel.call("reload", timeout_s=_CALL_S, config=pack_config(self.config))
        except TransportLost:
            pass
        except StorageError as error:
            _log.error("worker does not take the newest configuration, it goes on with an older one", worker=slot.number,
                       error=error)

    def worker_facts(self) -> list[dict[str, object]]:
        """What the supervisor itself knows of each worker."""
        now_s = self._clock.monotonic_s()
        return [{"worker": slot.number, "pid": slot.pid, "is_ready": slot.is_ready, "is_hung": slot.is_hung,
                 "restarts": slot.restart_count, "uptime_s": round(now_s - slot.started_s, 1) if slot.pid else 0.0}
                for slot in self.slots]

    @property
    def pids(self) -> dict[str, object]:
        """Of the children, by role."""
        return {"zygote": self._spawner.pid, "workers": [slot.pid for slot in self.slots]}


async def wait_gone(pid: int) -> None:
    """Returns when no process `pid` runs any more."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop, gone = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def merge_reload(old: HoldfastConfig, new: HoldfastConfig) -> tuple[HoldfastConfig, list[str]]:
    """The configuration after a reload, and the tables whose change waits for a restart.

    What is bound, owned or decided at the start keeps its old value: addresses, devices, placement, whether TLS is spoken.
    """
    fixed = {"cluster": old.cluster, "node": old.node, "object": old.object, "policy": old.policy}
    waiting = [name for name, value in fixed.items() if value != getattr(new, name)]
    if bool(old.tls.cert) != bool(new.tls.cert):
        fixed["tls"] = old.tls
        waiting.append("tls")
    if replace(new.identity, auth_grace_s=old.identity.auth_grace_s) != old.identity:        # the grace is the gateways'
        waiting.append("identity")
    return replace(new, **fixed), waiting        # type: ignore[arg-type]   # each has the type of its field


def _describe_exit(code: int | None) -> str:
    if code is None:
        return "unknown"
    return f"signal {-code}" if code < 0 else f"exit code {code}"
