"""The control API as the supervisor sees it: one child process that serves the control plane's applications.

It is executed, not forked from the zygote: what it imports (SQLAlchemy, aiohttp) no worker ever pays for. Its listeners stay here,
so a client that connects while it starts again waits instead of being refused. A control plane that cannot start is told of loudly
and tried again; the object store goes on without it.
"""
from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.address import Address, parse_address
from common.clock import Clock
from common.config import Loaded
from common.errors import ConfigError, DeadlineExceeded, StorageError, TransportLost, error_from_wire
from common.log import get_logger
from common.metrics import Snapshot
from node.channel import Channel, pack_config
from node.config import HoldfastConfig
from node.endpoint import local_address
from node.listeners import bind_again, bind_listeners, check_free
from node.pulse import PULSE_S, Pulse
from node.spawner import ROOT
from node.state import NodeState
from node.supervisor import restart_delay_s, wait_gone

_BACKLOG = 1_024
_CALL_S, _RELOAD_S, _STOP_S = 5.0, 60.0, 12.0
# The hash of a password takes 19 MiB: mapped each time, else the heap learns to keep as much for each thread.
_ENVIRONMENT = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
_START = "import sys; sys.path.insert(0, sys.argv.pop()); from node.control_main import main; main()"
_log = get_logger("node.control")


def identity_address(loaded: Loaded[HoldfastConfig]) -> Address | None:
    """Where identity listens; None: not on this node.

    A node whose object APIs are on a port of the kernel's choice takes one for identity as well, and so does one whose default
    port is taken: two nodes on one machine need not know of each other. Raises `ConfigError` for a port that was asked for.
    """
    config = loaded.value
    if not config.identity.listen:
        return None
    address = parse_address(config.identity.listen)
    if loaded.origins.get("identity.listen", "default") != "default":
        return address
    address = Address(config.listen.host, address.port)          # who opens the object APIs to others opens identity with them
    if config.listen.port == 0:
        return Address(address.host, 0)
    try:
        check_free(address)
    except OSError:
        _log.warning("the usual port of identity is taken, another one is used", port=address.port)
        return Address(address.host, 0)
    return address


class ControlChild:
    """Start, watch, start again, stop. on_change: called when it became ready or ended."""

    def __init__(self, state: NodeState, config: HoldfastConfig, address: Address, *, object_address: Address, clock: Clock,
                 on_change: Callable[[], None] = lambda: None) -> None:
        """object_address: of the object APIs, with their real port, for the catalog. Raises `ConfigError`."""
        self._state, self._config, self._clock, self._on_change = state, config, clock, on_change
        self._object_address = object_address
        (self._listeners,), self.address = _bind(address)
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._pulse = Pulse("control API", clock=clock)
        self._is_stopping = False
        self._stop = asyncio.Event()
        self._ready = asyncio.Event()
        self._restarts: deque[float] = deque(maxlen=64)
        self.restart_count = 0
        self.failure: StorageError | None = None
        self.stale = ""                                  # why it runs an older configuration than it should
        self._given = config                             # what the process that runs now was started with
        self._catching_up: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process is not None else None

    @property
    def is_ready(self) -> bool:
        """Whether it serves."""
        return self._ready.is_set()

    @property
    def url(self) -> str:
        """Of the Identity API, as this machine reaches it."""
        return f"{'https' if self._config.tls.cert else 'http'}://{local_address(self.address)}/v3"

    async def start(self) -> None:
        """Returns with its process begun; it serves once `is_ready`."""
        self._keeper = asyncio.create_task(self._keep(), name="control")
        self._watcher = asyncio.create_task(self._watch(), name="watch control")
        await asyncio.sleep(0)                           # up to its first wait, when it has a process id

    async def stop(self) -> None:
        """Requests that run may end."""
        self._is_stopping = True
        self._stop.set()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._catching_up is not None:
            self._catching_up.cancel()
        for sock in self._listeners:
            sock.close()
        if self._channel is not None and self.is_ready and not self._pulse.is_hung:
            try:
                await self._channel.call("close", timeout_s=_STOP_S)
            except StorageError as error:
                _log.warning("control API does not stop, it is killed", pid=self.pid, error=error)
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM if self.is_ready and not self._pulse.is_hung else signal.SIGKILL)
        if self._keeper is not None:
            await asyncio.wait([self._keeper], timeout=_STOP_S)
            if not self._keeper.done() and self._process is not None:
                self._process.kill()
                await asyncio.wait([self._keeper])

    async def _watch(self) -> None:
        """One that serves by the book and does not answer is killed, and so started again."""
        while True:
            await asyncio.sleep(PULSE_S)
            self._pulse.take(self._channel if self.is_ready else None, self.pid)

    async def _keep(self) -> None:
        while not self._is_stopping:
            try:
                await self._run()
            except (StorageError, OSError) as error:
                self.failure = error if isinstance(error, StorageError) else StorageError(reason=str(error))
            if self._is_stopping:
                return
            now_s = self._clock.monotonic_s()
            delay_s = restart_delay_s(self._restarts, now_s)
            self._restarts.append(now_s)
            self.restart_count += 1
            _log.error("control API ended, starting it again", delay_s=delay_s, reason=self.failure)
            if delay_s == 0:
                continue
            for index, sock in enumerate(self._listeners):       # nobody should wait in a socket that is served in 30 s
                self._listeners[index] = bind_again(sock)          # refuses, until the next process listens
                sock.close()
            try:
                async with asyncio.timeout(delay_s):
                    await self._stop.wait()
            except TimeoutError:
                pass

    async def _run(self) -> None:
        """One process, from its start to its end."""
        mine, theirs = socket.socketpair()
        self._channel = Channel(on_event=self._take_event)
        try:
            fds = [theirs.fileno(), *(sock.fileno() for sock in self._listeners)]
            self._process = subprocess.Popen(            # noqa: ASYNC220 - blocks for a millisecond
                [sys.executable, "-P", "-c", _START, str(os.getpid()), ",".join(map(str, fds)), str(ROOT)],
                pass_fds=fds, stdin=subprocess.DEVNULL, env={**os.environ, **_ENVIRONMENT})
        finally:
            theirs.close()
        try:
            await self._channel.open(mine)
            self._given, self.stale = self._config, ""
            self._channel.emit("plan", state=str(self._state.root), config=pack_config(self._config), address=str(self.address),
                               object_address=str(self._object_address))
            await wait_gone(self._process.pid)
            await self._channel.finish()
        finally:
            self._process.wait()
            self._pulse.forget()
            self._process, self._channel = None, None
            self._ready.clear()
            self._on_change()

    def _take_event(self, event: str, fields: Mapping[str, Any]) -> None:
        if event == "ready":
            self.failure = None
            self._ready.set()
            _log.info("control API serves", pid=self.pid, identity=self.address)
            if self._given is not self._config:          # reloaded while it started
                self._catching_up = asyncio.create_task(self._catch_up(), name="control catches up")
            self._on_change()
        elif event == "failed":
            self.failure = error_from_wire(*fields["error"])

    async def ask(self, op: str, **fields: object) -> Any:
        """Its answer; None when it does not serve or did not answer in time."""
        if self._channel is None or not self.is_ready:
            return None
        try:
            return await self._channel.call(op, timeout_s=_CALL_S, **fields)
        except StorageError as error:
            _log.warning("control API does not answer", op=op, error=error)
            return None

    async def metrics(self) -> list[Snapshot]:
        """Of the child, if it answers."""
        found = await self.ask("metrics")
        return [found] if found is not None else []

    async def reload(self, config: HoldfastConfig) -> None:
        """Users and passwords of the new configuration; the rest waits for the next start. One that just starts takes it as soon
        as it serves. Raises what it was refused for, and then it runs the old one; so does the next process of one that ended
        before it said whether it took it.
        """
        if self._channel is not None and self.is_ready:
            try:
                await self._channel.call("reload", timeout_s=_RELOAD_S, config=pack_config(config))
                self._given, self.stale = config, ""
            except TransportLost as error:
                raise TransportLost(peer="the control API", reason="it ended while it took the new configuration") from error
            except DeadlineExceeded:                     # it may yet take it: back to what all others run
                self._catching_up = asyncio.create_task(self._catch_up(), name="control catches up")
                raise
        self._config = config

    async def _catch_up(self) -> None:
        """Have the process that runs take the configuration that it should have."""
        config = self._config
        try:
            assert self._channel is not None
            await self._channel.call("reload", timeout_s=_RELOAD_S, config=pack_config(config))
            self._given, self.stale = config, ""
            _log.info("control API has the newest configuration")
        except TransportLost:
            pass
        except StorageError as error:
            self.stale = str(error)
            _log.error("control API does not take the newest configuration, it goes on with an older one", error=error)

    def facts(self) -> dict[str, object]:
        """For `holdfast status`."""
        return {"pid": self.pid, "is_ready": self.is_ready, "is_hung": self._pulse.is_hung, "restarts": self.restart_count,
                "stale": self.stale, "identity": self.url, "failure": str(self.failure) if self.failure is not None else ""}


def _bind(address: Address) -> tuple[list[list[socket.socket]], Address]:
    try:
        listeners, chosen = bind_listeners(address, 1)
        for sock in listeners[0]:
            sock.listen(_BACKLOG)                # from now on: who comes before the process serves waits for it
        return listeners, chosen
    except ConfigError as error:
        raise ConfigError(where="identity.listen", reason=error.fields["reason"]) from error


def admin_password_file(root: Path) -> Path:
    """Where the administrator's password lies."""
    return root / "secrets" / "admin.password"
