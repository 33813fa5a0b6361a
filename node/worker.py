"""A worker: one event loop that is a gateway for clients and the owner of its share of the node's devices.

Started as a fork of the zygote; told what to do by one message, then by calls of the supervisor (`node/channel.py`): status,
metrics, reload, drain. It ends by itself when the supervisor is gone.
"""
from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import uvloop

from common.clock import Clock, SystemClock
from common.errors import BadRequest, ConfigError, StorageError, TransportLost
from common.faultnet import FaultRules, rules_from_environment
from common.log import configure_logging, get_logger
from common.metrics import METRICS, Registry
from common.sockets import unix_connector
from identity.wire import transport_key
from node.channel import DRAIN_S, Channel, unpack_config
from node.config import HoldfastConfig
from node.endpoint import local_address
from node.faults import apply_faults
from node.feed import FeedReader, feed_credentials, feed_socket
from node.heap import HeapTrim
from node.looplag import LoopLag
from node.plan import WorkerPlan, make_plan
from node.state import fetch_rings, load_state, with_demo_user
from node.storage import Storage
from node.usage import UsageKeeper
from node.zygote import give_memory_back
from proxy.app import Door, RequestReport, TxidSource, make_app
from proxy.audit import AuditLog
from proxy.auth import V1Auth, load_users, reseller_prefixes
from proxy.errors import front_errors
from proxy.explain import Causes
from proxy.http.intake import LEASES_MAX
from proxy.http.parse import HeadLimits
from proxy.http.server import HttpLimits, HttpServer, make_ssl_context
from proxy.identity_auth import IdentityAuth
from proxy.identity_facts import IdentityFacts
from proxy.model import Store
from proxy.swift.context import DoorSettings
from proxy.swift.door import SwiftDoor
from proxy.usage import Figures, UsageCounter

_DEVICE_GAUGES = {
    "free_bytes": "free in the file system of the device", "size_bytes": "size of the file system of the device",
    "live_bytes": "journal bytes that are still needed", "pending_updates": "listing updates that wait",
    "synced_sequence": "last durable record", "is_counted": "1 if its answers count",
    "torn_bytes": "cut from the journal at the last start", "damaged_rows": "rows whose body is lost here",
}
_BODY_BUFFERS = 64                           # of a MiB, of all workers together
_SETTLED_S = 20.0                            # after a start: what it left to do, compaction above all, is done by then
_log = get_logger("node.worker")


class Services(Protocol):
    """What a worker stands on: node/storage.py."""

    @property
    def store(self) -> Store: ...
    async def start(self) -> None: ...
    def expect_end(self) -> None: ...
    def let_go(self) -> None: ...
    async def close(self) -> None: ...
    def status(self) -> Mapping[str, object]: ...


MakeServices = Callable[[WorkerPlan, Clock], Services]
MakeDoor = Callable[[HoldfastConfig, Store, WorkerPlan, Clock, IdentityFacts | None], tuple[Door, Callable[[], None]]]


class Worker:
    """One worker: `start`, then calls of the supervisor until `close`; `wait_stopped` returns after that."""

    def __init__(self, plan: WorkerPlan, listeners: list[socket.socket], *, make_services: MakeServices, make_door: MakeDoor,
                 clock: Clock, registry: Registry, faults: FaultRules | None = None) -> None:
        """faults: those of `make_services`, if the node was started for them."""
        self._faults = faults
        self._plan, self._listeners, self._make_door = plan, listeners, make_door
        self._clock, self._registry = clock, registry
        self._services = make_services(plan, clock)
        self._new_txid = TxidSource(clock)
        self._causes = Causes(clock)
        self._lag = LoopLag(registry, clock)
        self._heap = HeapTrim(let_go=self._services.let_go)
        self._usage = UsageCounter()
        self._audit = AuditLog(plan.config.audit, plan.state, clock, registry=registry)
        self._usage_keeper: UsageKeeper | None = None
        self._facts = IdentityFacts(clock) if plan.config.identity.listen else None      # of identity; None: a node without it
        self._feed: FeedReader | None = None
        self._tls: ssl.SSLContext | None = None
        self._close_door: Callable[[], None] = lambda: None
        self._server: HttpServer | None = None
        self._stopped = asyncio.Event()
        self._draining: asyncio.Task[int] | None = None
        self._closing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Own the devices, then serve. Raises `StorageError`, `OSError`."""
        config = self._plan.config
        self._tls = _load_tls(config)
        await self._services.start()
        self._start_feed()
        server = self._server = HttpServer(self._app(config), limits=self._limits(config), clock=self._clock,
                                           on_request_done=RequestReport(self._registry, self._causes, self._usage, self._audit),
                                           make_error=front_errors(self._new_txid), on_refused=self._causes.note_refused)
        self._register_gauges(server)
        for sock in self._listeners:
            await server.start(sock=sock, ssl=self._tls)
        self._lag.start()
        self._heap.start()
        self._usage_keeper = UsageKeeper(self._plan.state / "usage", self._plan.worker, self._usage, self._clock, self._ask_figures)
        self._usage_keeper.start()

    def _start_feed(self) -> None:
        if self._facts is not None:
            plan = self._plan
            credentials = feed_credentials(plan.node_id, f"w{plan.worker}", "worker", fingerprint=plan.fingerprint,
                                           cluster_key=plan.secrets["cluster.key"].encode())
            self._feed = FeedReader(self._facts, unix_connector(feed_socket(plan.state)), credentials,
                                    grace_s=plan.config.identity.auth_grace_s)
            self._feed.start()

    async def wait_stopped(self) -> None:
        """Returns once `close` is done."""
        await self._stopped.wait()

    async def drain(self) -> int:
        """Take no new requests and let those that run end; the devices still answer the other workers, which may need them.

        Returns how many connections were cut. A second call waits for the first.
        """
        if self._draining is None:
            assert self._server is not None
            self._services.expect_end()
            self._draining = asyncio.create_task(self._server.drain(DRAIN_S), name="drain")
        return await asyncio.shield(self._draining)

    async def close(self) -> None:
        """Write everything down and give up the devices. A second call waits for the first."""
        if self._closing is None:
            self._lag.close()
            self._heap.close()
            self._closing = asyncio.create_task(self._close(), name="close")
        await asyncio.shield(self._closing)
        self._stopped.set()

    async def _close(self) -> None:
        if self._feed is not None:
            await self._feed.close()
        if self._usage_keeper is not None:
            await self._usage_keeper.close()
        await self._audit.close()
        await self._services.close()

    async def stop(self) -> None:
        """Both, for a worker that stops alone."""
        await self.drain()
        await self.close()

    async def answer(self, op: str, fields: Mapping[str, Any]) -> object:
        """A call of the supervisor."""
        if op == "status":
            return self.status()
        if op == "metrics":
            self._measure_devices()
            return self._registry.snapshot()
        if op == "usage":
            if self._usage_keeper is not None:
                await self._usage_keeper.flush(asks=True)
            return True
        if op == "explain":
            return {"entry": self._causes.find(fields["txid"]), "memory": self._causes.memory()}
        if op == "faults" and self._faults is not None:
            if "set" in fields:
                apply_faults(self._faults, fields["set"], worker=self._plan.worker)
            return self._faults.harmed_count
        if op == "reload":
            self._reload(unpack_config(fields["config"]))
            return None
        if op == "drain":
            return await self.drain()
        if op == "close":
            await self.close()
            return None
        raise BadRequest(reason=f"a worker does not know {op}")

    def status(self) -> dict[str, object]:
        """Facts about this worker and its devices."""
        counters = self._server.counters if self._server is not None else None
        return {"worker": self._plan.worker, "pid": os.getpid(),
                "connections": counters.open if counters else 0, "requests": counters.requests if counters else 0,
                "identity": self._feed.status() if self._feed is not None else None,
                **self._services.status()}

    def _app(self, config: HoldfastConfig) -> Door:
        door, close = self._make_door(config, self._services.store, self._plan, self._clock, self._facts)
        self._close_door()                           # of the old one only the threads that hash keys end
        self._close_door = close
        if isinstance(door, SwiftDoor):
            self._audit.who = door.user_of
        return make_app(door, new_txid=self._new_txid)

    async def _ask_figures(self, account: str) -> Figures:
        found = await self._services.store.account(account, fresh=True)
        return Figures(found.bytes_used, found.object_count, found.container_count, self._clock.now_us())

    def _limits(self, config: HoldfastConfig) -> HttpLimits:
        return http_limits(config, worker_count=self._plan.worker_count)

    def _reload(self, config: HoldfastConfig) -> None:
        """Users, limits, TLS files and the log follow; all of it or, with an error, nothing."""
        assert self._server is not None
        config = with_demo_user(config)
        _load_tls(config)                            # a pair that does not fit must not touch the context in use
        self._server.app, self._server.limits = self._app(config), self._limits(config)
        if self._tls is not None and config.tls.cert and config.tls.key:
            self._tls.load_cert_chain(config.tls.cert, config.tls.key)
        configure_logging(config.log)
        self._audit.configure(config.audit)

    def _measure_devices(self) -> None:
        """What the devices say of themselves, as gauges."""
        rows = self._services.status()["devices"]
        assert isinstance(rows, list)
        for key, text in _DEVICE_GAUGES.items():
            family = self._registry.gauge(f"holdfast_device_{key}", text, ("device",))
            for row in rows:
                if key in row:
                    family.labels(row["name"]).set(float(row[key]))

    def _register_gauges(self, server: HttpServer) -> None:
        """The counters of the front, read when somebody asks."""
        gauge = self._registry.gauge("holdfast_http_connections_open", "open connections of clients").labels()
        gauge.source = lambda: server.counters.open
        events = self._registry.gauge("holdfast_http_events", "since the start of the workers that run now, by kind", ("kind",))
        buffers = self._registry.gauge("holdfast_upload_buffers", "of a MiB, for large uploads, by what they do", ("state",))
        buffers.labels("used").source = lambda: server.pool.used
        buffers.labels("free").source = lambda: server.pool.count - server.pool.used
        waiting = self._registry.gauge("holdfast_upload_waiting", "uploads that stand still for want of a buffer").labels()
        waiting.source = lambda: server.pool.waiting
        parked = self._registry.gauge("holdfast_upload_parked_bytes", "what uploads without a buffer have sent").labels()
        parked.source = lambda: server.pool.parked_bytes
        if self._facts is not None:
            silent = self._registry.gauge("holdfast_identity_silent_seconds", "since a worker heard of identity", ("worker",))
            silent.labels(str(self._plan.worker)).source = partial(getattr, self._facts, "silent_s")
        for kind in ("accepted", "requests", "refused", "timeouts", "crashes"):
            events.labels(kind).source = partial(getattr, server.counters, kind)


def http_limits(config: HoldfastConfig, *, worker_count: int) -> HttpLimits:
    """The front's limits as the configuration has them; buffers for uploads are shared out among the workers of a node."""
    head = HeadLimits(header_line_bytes_max=config.limits.max_header_size + 256,      # its name beside Swift's limit of a value
                      header_count_max=HeadLimits().header_count_max + config.limits.extra_header_count)
    return HttpLimits(head=head, idle_timeout_s=config.http.idle_timeout_s, connection_count_max=config.http.max_connections,
                      body_buffer_count=max(_BODY_BUFFERS // worker_count, LEASES_MAX))


def _load_tls(config: HoldfastConfig) -> ssl.SSLContext | None:
    if not config.tls.cert or not config.tls.key:
        return None
    try:
        return make_ssl_context(config.tls.cert, config.tls.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(where="tls.cert, tls.key", reason=f"{config.tls.cert}, {config.tls.key}: {error}") from error


# process

def run_worker(request: Mapping[str, Any], sockets: list[socket.socket]) -> int:
    """Life of a worker process. request: state, config, worker, worker_count; sockets: the channel, then the listeners."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_live(request, sockets))


async def _live(request: Mapping[str, Any], sockets: list[socket.socket]) -> int:
    config = unpack_config(request["config"])
    configure_logging(config.log)
    is_alone = asyncio.Event()                       # told to stop by a signal, or the supervisor is gone
    worker: Worker | None = None

    async def answer(op: str, fields: Mapping[str, Any]) -> object:
        assert worker is not None
        return await worker.answer(op, fields)

    channel = Channel(on_call=answer, on_end=is_alone.set)
    await channel.open(sockets[0])
    try:
        faults = rules_from_environment()
        if faults is not None:
            apply_faults(faults, request.get("faults"), worker=request["worker"])
        worker = Worker(await _load_plan(request, config), sockets[1:], make_services=partial(make_services, faults=faults),
                        make_door=make_door, clock=SystemClock(), registry=METRICS, faults=faults)
        await worker.start()
        give_memory_back()
        asyncio.get_running_loop().call_later(_SETTLED_S, give_memory_back)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, is_alone.set)
        channel.emit("ready")
        stopped = asyncio.create_task(worker.wait_stopped(), name="stopped")
        alone = asyncio.create_task(is_alone.wait(), name="alone")
        await asyncio.wait([stopped, alone], return_when=asyncio.FIRST_COMPLETED)
        if not stopped.done():
            await worker.stop()
        await asyncio.sleep(0)                       # the answer to `close` leaves first
    except TransportLost:
        return 0                                     # the supervisor went before it could hear that we are ready
    except (StorageError, OSError) as error:
        _report_failure(channel, error)
        return 1
    finally:
        await channel.close()
    return 0


async def _load_plan(request: Mapping[str, Any], config: HoldfastConfig) -> WorkerPlan:
    """From the state directory as it is now: a worker that starts later takes newer rings."""
    state = load_state(Path(request["state"]))
    assert state is not None, "the supervisor made it"
    return make_plan(state, config, await fetch_rings(state), worker=request["worker"], worker_count=request["worker_count"])


def _report_failure(channel: Channel, error: Exception) -> None:
    from common.errors import error_to_wire

    _log.error("worker cannot start", exc=error)
    try:
        wrapped = error if isinstance(error, StorageError) else StorageError(reason=str(error))
        channel.emit("failed", error=error_to_wire(wrapped))
    except TransportLost:
        sys.stderr.flush()


def make_services(plan: WorkerPlan, clock: Clock, *, faults: FaultRules | None = None) -> Services:
    """The real ones."""
    return Storage(plan, clock, faults=faults)


def make_door(config: HoldfastConfig, store: Store, plan: WorkerPlan, clock: Clock,
              facts: IdentityFacts | None) -> tuple[Door, Callable[[], None]]:
    """The Swift API over `store` with the users of `config` and of identity, and what ends it. Raises `ConfigError`."""
    users = load_users(config.auth.user, plan.state / "secrets")
    others = IdentityAuth(
        facts, reseller_prefixes(config.auth), transport=transport_key(plan.secrets["cluster.key"].encode()), clock=clock,
        grace_s=config.identity.auth_grace_s, skew_s=config.cluster.max_skew_s,
        logins=frozenset(user.id for user in users)) if facts is not None else None
    auth = V1Auth(users, config.auth, token_key=plan.secrets["token.key"].encode(), clock=clock, others=others)
    settings = DoorSettings(limits=config.limits, policies=plan.policies, refuses_plain_logins=config.is_login_refused,
                            listen=str(local_address(config.listen)))
    return SwiftDoor(store, settings, auth, clock), auth.close
