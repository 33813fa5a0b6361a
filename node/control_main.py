"""The process of the control API: `python -m`-like, started by the supervisor with a channel and the listeners.

It opens identity's database, brings it up to date, makes what has to be there (`identity/bootstrap.py`), serves, and answers the
supervisor's calls. It ends with the supervisor.
"""
from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvloop

from common.address import Address, parse_address
from common.clock import SystemClock
from common.errors import StorageError, TransportLost, error_to_wire
from common.log import configure_logging, get_logger
from common.metrics import METRICS
from common.rpc_server import RpcServer
from common.secrets import load_secret
from control.app import Service
from control.causes import Causes
from control.jobs_report import JobDesk
from control.jobs_store import JobStore
from identity.app import make_app, make_service
from identity.bootstrap import CatalogSeed, Collision, Seed, UserSeed, bootstrap
from identity.feed import Feed
from identity.main import close_identity, open_identity
from identity.state import Identity
from identity.wire import FEED_ROLE, OP_FEED, transport_key
from node.channel import Channel, unpack_config
from node.config import HoldfastConfig
from node.control import admin_password_file
from node.control_front import Front
from node.endpoint import local_address
from node.feed import feed_credentials, feed_socket
from node.policy_check import POLICY_FILE
from node.state import RING_KEY, load_state, with_demo_user
from node.zygote import allow_files, die_with_parent, name_process
from proxy.auth import load_users
from proxy.http.server import make_ssl_context

_DRAIN_S = 5.0
_WILDCARDS = ("", "0.0.0.0", "::")
_log = get_logger("node.control_main")


def main() -> None:
    """Arguments: process id of the supervisor, descriptors (the channel, then listeners)."""
    parent, fds = int(sys.argv[1]), [int(part) for part in sys.argv[2].split(",")]
    die_with_parent(parent)
    name_process("holdfast-ctl")
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)            # a terminal sends them to the whole group; the supervisor decides
    allow_files()
    sockets = [socket.socket(fileno=fd) for fd in fds]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(_live(sockets)))


class Control:
    """Everything that runs in this process."""

    def __init__(self, root: Path, config: HoldfastConfig, listeners: list[socket.socket], *, address: Address,
                 object_address: Address) -> None:
        self._root, self._config, self._listeners = root, config, listeners
        self._address, self._object_address = address, object_address
        self._clock = SystemClock()
        self._causes = Causes(self._clock)
        self._jobs = JobDesk()
        self._identity: Identity
        self._front: Front
        self._following: asyncio.Task[None] | None = None
        self._feed: Feed
        self._feed_server: RpcServer
        self._collisions: tuple[Collision, ...] = ()
        self._closing: asyncio.Task[None] | None = None
        self.closed = asyncio.Event()

    async def start(self) -> None:
        """Raises `StorageError`, `OSError`, and what a database raises."""
        config = self._config
        state = self._identity = open_identity(config.identity, self._root, clock=self._clock)
        state.refuses_plain_logins = not (self._address.is_loopback or config.tls.cert or config.tls.insecure_http)
        self._take_collisions(await state.database.run(bootstrap, state, self._seed(config)))
        await state.database.read(state.refresh_here)
        self._jobs.add("identity", state.database, JobStore(self._clock, has_own_time=not state.database.is_sqlite))
        await self._start_feed(state)
        service = self._service(state)
        self._front = Front(make_app(service), errors=service.errors)
        context = make_ssl_context(config.tls.cert, config.tls.key) if config.tls.cert and config.tls.key else None
        await self._front.start(self._listeners, context)
        self._following = asyncio.create_task(state.follow(), name="identity follows")

    async def _start_feed(self, state: Identity) -> None:
        """Before clients are served: whoever gets a token here can use it at the gateways."""
        node = load_state(self._root)
        assert node is not None, "the supervisor made it"
        cluster_key = load_secret(node.secret_dir / RING_KEY).encode()
        self._feed = Feed(state, transport=transport_key(cluster_key))
        await self._feed.start()
        self._feed_server = RpcServer({OP_FEED: self._feed.answer}, credentials=feed_credentials(
            node.node_id, "identity", FEED_ROLE, fingerprint=node.fingerprint, cluster_key=cluster_key))
        await self._feed_server.listen_unix(feed_socket(self._root))

    def _service(self, state: Identity) -> Service:
        return make_service(state, clock=self._clock, registry=METRICS, causes=self._causes, policy_file=self._root / POLICY_FILE,
                            fallback_host=str(local_address(self._address)))

    def _take_collisions(self, found: tuple[Collision, ...]) -> None:
        self._collisions = found
        for one in found:
            _log.error(one.text, advice=one.advice)

    def _seed(self, config: HoldfastConfig) -> Seed:
        return make_seed(self._root, config, identity=self._address, objects=self._object_address)

    async def answer(self, op: str, fields: Mapping[str, Any]) -> object:
        """Calls of the supervisor."""
        if op == "metrics":
            return METRICS.snapshot()
        if op == "explain":
            return self._causes.find(fields["request"]) or await self._jobs.find(fields["request"])
        if op == "jobs":
            return await self._jobs.listing(state=fields["state"], resource=fields["resource"], limit=fields["limit"])
        if op == "rotate_keys":
            primary = self._identity.keys.rotate()
            self._feed.wake()
            return {"primary": primary}
        if op == "reload":
            config = unpack_config(fields["config"])     # in one transaction: all of it, or the error and nothing
            self._take_collisions(await self._identity.database.run(bootstrap, self._identity, self._seed(config)))
            self._config = config
            configure_logging(config.log)
            return None
        if op == "status":
            return {"feed": self._feed.status(), "collisions": [asdict(one) for one in self._collisions]}
        assert op == "close", op
        await self.close()
        return None

    async def close(self) -> None:
        """Requests that run may end; then the database. A second call waits for the first."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="close")
        await asyncio.shield(self._closing)
        self.closed.set()

    async def _close(self) -> None:
        if self._following is None:                      # it did not come to serve
            return
        self._following.cancel()
        await asyncio.wait([self._following])
        await self._front.close(drain_s=_DRAIN_S)
        await self._feed.close()
        await self._feed_server.close()
        close_identity(self._identity)


def make_seed(root: Path, config: HoldfastConfig, *, identity: Address, objects: Address) -> Seed:
    """What this node's configuration says should be in identity. identity, objects: where the two listen. Raises `ConfigError`."""
    scheme = "https" if config.tls.cert else "http"
    prefix = config.auth.reseller[0].prefix.rstrip("_")
    account = f"{prefix}_%(project_id)s" if prefix else "%(project_id)s"
    catalog = (CatalogSeed(type="identity", name="identity", url=f"{scheme}://{_public(identity)}/v3"),
               CatalogSeed(type="object-store", name="object-store", url=f"{scheme}://{_public(objects)}/v1/{account}"))
    if config.identity.public_url is not None:
        catalog = (CatalogSeed(type="identity", name="identity", url=config.identity.public_url.rstrip("/") + "/v3"), *catalog[1:])
    users = tuple(UserSeed(account=user.account, name=user.name, key=user.key, key_hash=user.key_hash,
                           is_admin=".admin" in user.groups)
                  for user in load_users(with_demo_user(config).auth.user, root / "secrets"))
    return Seed(admin_password=load_secret(admin_password_file(root)), catalog=catalog, users=users,
                print_key=load_secret(root / "secrets" / "token.key").encode())


def _public(address: Address) -> str:
    """host:port for a URL; a listener on every interface is under whatever name the client came by."""
    return f"%(host)s:{address.port}" if address.host in _WILDCARDS else str(address)


async def _live(sockets: list[socket.socket]) -> int:
    plan: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
    is_alone = asyncio.Event()
    control: Control | None = None

    def take(_: str, fields: Mapping[str, Any]) -> None:
        if not plan.done():
            plan.set_result(fields)

    async def answer(op: str, fields: Mapping[str, Any]) -> object:
        assert control is not None
        return await control.answer(op, fields)

    channel = Channel(on_call=answer, on_event=take, on_end=is_alone.set)
    await channel.open(sockets[0])
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, is_alone.set)
    try:
        fields = await plan
        config = unpack_config(fields["config"])
        configure_logging(config.log)
        control = Control(Path(fields["state"]), config, sockets[1:], address=parse_address(fields["address"]),
                          object_address=parse_address(fields["object_address"]))
        await control.start()
        channel.emit("ready")
        closed, alone = asyncio.create_task(control.closed.wait()), asyncio.create_task(is_alone.wait())
        await asyncio.wait([closed, alone], return_when=asyncio.FIRST_COMPLETED)
        if not closed.done():
            await control.close()
        await asyncio.sleep(0)                           # the answer to `close` leaves first
    except TransportLost:
        return 0
    except Exception as error:                           # the edge: whatever keeps it from serving is told to the supervisor
        _log.error("control API cannot start", exc=error)
        wrapped = error if isinstance(error, StorageError) else StorageError(reason=f"{type(error).__name__}: {error}")
        try:
            channel.emit("failed", error=error_to_wire(wrapped))
            await asyncio.sleep(0)
        except TransportLost:
            pass
        return 1
    finally:
        await channel.close()
    return 0
