"""`holdfast up` after its command line is read: the state directory, then supervisor and admin API until told to stop."""
from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from common.address import Address, parse_address
from common.admin import AdminRequest, AdminRoute, make_admin_app, start_admin
from common.clock import Clock, SystemClock
from common.config import Loaded
from common.config_text import effective_values
from common.errors import BadRequest, ConfigError, NotFound, StorageError
from common.log import configure_logging, get_logger
from common.metrics import format_prometheus, merge_snapshots
from common.secrets import load_or_create_secret, load_secret
from common.version import VERSION
from node.clouds import save_clouds
from node.config import HoldfastConfig
from node.control import ControlChild, admin_password_file, identity_address
from node.endpoint import make_endpoint, remove_endpoint, save_endpoint
from node.explain import explain, parse_txid
from node.faults import switch_routes
from node.files import lock_state
from node.listeners import bind_listeners, check_free, explain_bind_error
from node.notify import notify_ready, notify_reloading, notify_starting, notify_stopping
from node.plan import deal_devices
from node.policy_check import find_mistake
from node.reload import reload_all
from node.report import find_problems, gather_devices, is_healthy, read_disks
from node.state import NodeState, Say, open_state, prepare_directory, with_demo_user
from node.supervisor import Supervisor, merge_reload
from node.usage import day_of, parse_days, read_usage
from proxy.audit import AuditLog

_STAT_S = 2.0
_STILL_S = 10.0                                  # of silence while workers start
_log = get_logger("node.main")
LoadConfig = Callable[[], Loaded[HoldfastConfig]]
OnReady = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What `holdfast up` was asked for. load: reads the configuration, again at SIGHUP; device_count: None if not asked for."""

    load: LoadConfig
    device_count: int | None
    say: Say
    on_ready: OnReady                            # takes the content of endpoint.json


def run_node(launch: Launch) -> int:
    """Runs until SIGTERM or SIGINT. Raises `StorageError` if the node cannot be started."""
    loaded = launch.load()
    config = loaded.value
    root = config.state_dir()
    prepare_directory(root)
    lock = lock_state(root)
    try:
        configure_logging(config.log)
        check_addresses(loaded)
        state = open_state(root, config, device_count=launch.device_count, clock=SystemClock(), say=launch.say)
        return asyncio.run(Node(state, loaded, launch, SystemClock()).run())
    finally:
        remove_endpoint(root)
        os.close(lock)


def check_addresses(loaded: Loaded[HoldfastConfig]) -> None:
    """A port that is taken is told of before a store is made. Raises `ConfigError`."""
    config = loaded.value
    asked = [("node.listen", config.listen), ("node.admin_listen", parse_address(config.node.admin_listen))]
    if config.identity.listen and loaded.origins.get("identity.listen", "default") != "default":
        asked.append(("identity.listen", parse_address(config.identity.listen)))
    for where, address in asked:
        try:
            check_free(address)
        except OSError as error:
            raise ConfigError(where=where, reason=explain_bind_error(address, error)) from error


def count_workers(config: HoldfastConfig) -> int:
    """As configured, else one per core that this process may use."""
    return config.node.workers or len(os.sched_getaffinity(0))


class Node:
    """Supervisor and admin API of one run."""

    def __init__(self, state: NodeState, loaded: Loaded[HoldfastConfig], launch: Launch, clock: Clock) -> None:
        self._state, self._loaded, self._launch, self._clock = state, loaded, launch, clock
        self._config = with_demo_user(loaded.value)
        self._started_s = clock.monotonic_s()
        self._worker_count = count_workers(self._config)
        self._slots = tuple(deal_devices(state, self._worker_count))
        self._endpoint: dict[str, Any] = {}
        self._listen = self._admin = Address("", 0)
        self._supervisor: Supervisor
        self._control: ControlChild | None = None
        self._audit = AuditLog(self._config.audit, state.root, clock)
        self._reloading = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Start, tell, wait, stop. Raises `StorageError`."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._begin_reload)
        listeners, self._listen = bind_listeners(self._config.listen, self._worker_count)
        self._supervisor = Supervisor(self._state, self._config, listeners, clock=self._clock, on_change=self._save_endpoint)
        self._control = self._make_control()
        runner, self._admin = await self._start_admin()
        try:
            if self._config.node.rpc_listen or self._config.cluster.seeds:
                _log.warning("node.rpc_listen and cluster.seeds do nothing yet: this version is one node")
            self._launch.say(f"starting {self._worker_count} worker{'s' * (self._worker_count > 1)} for "
                             f"{len(self._slots)} device{'s' * (len(self._slots) > 1)}")
            if not await self._start_unless(stop):
                return 0
            if self._control is not None:
                await self._tell_policy_mistake()
                await self._control.start()            # after the workers, whose start it would slow; clients wait in the listener
            self._save_endpoint(is_complete=True)
            _log.info("node serves", listen=self._listen, admin=self._admin, pid=os.getpid(), version=VERSION)
            self._launch.on_ready(self._endpoint)
            notify_ready(f"serves {self._listen}")
            await stop.wait()
            notify_stopping()
            self._launch.say("stopping: requests that run may end")
            _log.info("node stops")
        finally:
            if self._control is not None:
                await self._control.stop()
            await self._supervisor.stop()
            await runner.cleanup()
            await self._audit.close()
        return 0

    async def _start_unless(self, stop: asyncio.Event) -> bool:
        """True when all workers serve, False if we were told to stop before. Raises `StorageError`."""
        start = asyncio.create_task(self._supervisor.start(), name="start")
        told = asyncio.create_task(stop.wait(), name="told to stop")
        while not (start.done() or told.done()):
            await asyncio.wait([start, told], return_when=asyncio.FIRST_COMPLETED, timeout=_STILL_S)
            waiting = [str(facts["worker"]) for facts in self._supervisor.worker_facts() if not facts["is_ready"]]
            if not (start.done() or told.done()):
                notify_starting()
                self._launch.say(f"still starting: worker {', '.join(waiting)} (long journals take their time; the log tells more)")
        told.cancel()
        if start.done():
            start.result()
            return True
        start.cancel()
        return False

    async def _tell_policy_mistake(self) -> None:
        """Of a file that keeps the Identity API from starting; the object store goes on without it."""
        mistake = await asyncio.to_thread(find_mistake, self._state.root)
        if mistake:
            self._launch.say(f"the Identity API cannot start: {mistake}")

    def _make_control(self) -> ControlChild | None:
        """The process of the control plane, if this node has one. Raises `ConfigError`."""
        address = identity_address(self._loaded)
        if address is None:
            return None
        load_or_create_secret(self._state.secret_dir, admin_password_file(self._state.root).name)
        return ControlChild(self._state, self._config, address, object_address=self._listen, clock=self._clock,
                            on_change=self._save_endpoint)

    async def _start_admin(self) -> tuple[Any, Address]:
        address = parse_address(self._config.node.admin_listen)
        routes = (AdminRoute(method="GET", path="/status", handler=self._answer_status),
                  AdminRoute(method="GET", path="/config", handler=self._answer_config),
                  AdminRoute(method="GET", path="/usage", handler=self._answer_usage),
                  AdminRoute(method="GET", path="/explain/{txid}", handler=self._answer_explain),
                  AdminRoute(method="GET", path="/jobs", handler=self._answer_jobs),
                  AdminRoute(method="POST", path="/identity/rotate-keys", handler=self._answer_rotate),
                  *switch_routes(self._slots, self._worker_count, lambda: self._supervisor))
        app = make_admin_app(routes, key=load_secret(self._state.secret_dir / "admin.key"), read_metrics=self._read_metrics,
                             read_health=self._read_health, note_call=self._audit.note_admin)
        try:
            return await start_admin(app, address)
        except OSError as error:
            raise ConfigError(where="node.admin_listen", reason=explain_bind_error(address, error)) from error

    def _save_endpoint(self, *, is_complete: bool = False) -> None:
        """Again whenever a worker was replaced, so that its process ids are true."""
        if not is_complete and not self._endpoint:
            return                               # nothing is promised before all workers serve
        self._endpoint = make_endpoint(self._state, self._config, listen=self._listen, admin=self._admin,
                                       pids=self._pids)
        if self._control is not None:
            self._endpoint["urls"]["identity"] = self._control.url
        try:
            save_endpoint(self._state.root, self._endpoint)
            if self._control is not None:
                save_clouds(self._state.root, url=self._control.url, admin_password_file=admin_password_file(self._state.root),
                            demo=self._endpoint.get("demo"), ca_file=self._endpoint.get("tls_cert"))
        except (OSError, StorageError) as error:
            _log.error("endpoint.json or clouds.yaml cannot be written", error=error)

    @property
    def _pids(self) -> dict[str, object]:
        control = {"control": self._control.pid} if self._control is not None else {}
        return {"supervisor": os.getpid(), **self._supervisor.pids, **control}

    # reload

    def _begin_reload(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reload(), name="reload")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload(self) -> None:
        """A bad configuration is refused loudly, and the node goes on with the one it has."""
        async with self._reloading:
            notify_reloading()
            try:
                loaded = self._launch.load()
                config, waiting = merge_reload(self._config, with_demo_user(loaded.value))
                await reload_all(config, old=self._config, workers=self._supervisor, control=self._control)
                configure_logging(config.log)
                self._audit.configure(config.audit)
            except (StorageError, OSError) as error:
                _log.error("new configuration refused, the old one stays", error=error)
                notify_ready("the new configuration was refused, the log says why")
                return
            self._config, self._loaded = config, loaded
            self._save_endpoint()
            if waiting:
                _log.warning("some changes take effect at the next start only", tables=", ".join(waiting))
            _log.info("configuration loaded again", file=loaded.file.path or "none")
            notify_ready(f"serves {self._listen}")

    # what the admin API answers

    async def _answer_status(self, _: AdminRequest) -> object:
        return await self.status()

    async def status(self) -> dict[str, Any]:
        """Everything `holdfast status` shows."""
        answers = await self._supervisor.ask_all("status")
        workers = self._supervisor.worker_facts()
        for facts, answer in zip(workers, answers, strict=True):
            facts.update({key: answer[key] for key in ("connections", "requests", "identity") if answer is not None})
        devices = gather_devices(self._slots, answers)
        replicas = min(self._state.replicas_of(name) for name in self._state.ring_names)
        control = {**self._control.facts(), "standing": await self._control.ask("status")} if self._control is not None else None
        findings = find_problems(workers, devices, replicas=replicas, disk_of=await self._read_disks(), control=control,
                                 fill_max=self._config.object.disk_fill_max, is_login_refused=self._config.is_login_refused)
        return {"version": VERSION, "cluster": self._state.cluster_id, "node": self._state.node_id, "state": str(self._state.root),
                "uptime_s": round(self._clock.monotonic_s() - self._started_s, 1), "urls": self._endpoint.get("urls", {}),
                "pids": self._pids, "replicas": replicas, "workers": workers,
                "control": control, "devices": devices, "findings": findings, "is_healthy": is_healthy(findings)}

    async def _read_disks(self) -> dict[str, int | None]:
        """In a thread: a sick disk may keep stat waiting, and then it counts as there, for its worker knows more."""
        try:
            async with asyncio.timeout(_STAT_S):
                return await asyncio.to_thread(read_disks, self._slots, os.stat)
        except TimeoutError:
            return {slot.name: slot.ring_id for slot in self._slots}

    async def _answer_explain(self, request: AdminRequest) -> object:
        txid = parse_txid(request.params["txid"])
        if txid.startswith("req-"):
            return await self._explain_control(txid)
        answers, states = await asyncio.gather(self._supervisor.ask_all("explain", txid=txid), self._supervisor.ask_all("status"))
        return explain(txid, answers, gather_devices(self._slots, states), self._slots, self._clock)

    async def _answer_rotate(self, _: AdminRequest) -> object:
        """The staged key for tokens becomes the one that seals. Raises `NotFound` where no identity serves."""
        found = await self._control.ask("rotate_keys") if self._control is not None else None
        if found is None:
            raise NotFound(what="identity", reason="the Identity API does not serve on this node")
        return found

    async def _answer_jobs(self, request: AdminRequest) -> object:
        """Of the control plane, newest first; query: state, resource, limit. Raises `BadRequest`, `NotFound`."""
        state, limit = request.query.get("state"), request.query.get("limit", "100")
        if state not in (None, "live", "done", "failed"):
            raise BadRequest(reason=f"a job is live, done or failed, not {state!r}")
        if not limit.isdecimal() or not 1 <= int(limit[:6]) <= 1_000:
            raise BadRequest(reason="limit is a number between 1 and 1000")
        found = None
        if self._control is not None:
            found = await self._control.ask("jobs", state=state, resource=request.query.get("resource"), limit=int(limit[:6]))
        if found is None:
            raise NotFound(what="jobs", reason="the control plane does not serve on this node")
        return {"jobs": found}

    async def _explain_control(self, request_id: str) -> object:
        """Of a request to the control plane. Raises `NotFound`."""
        found = await self._control.ask("explain", request=request_id) if self._control is not None else None
        if found is None:
            raise NotFound(what="request", reason=f"nothing is known of {request_id}: it succeeded, is long ago, or the "
                                                  "process that knew of it has ended")
        return found

    async def _answer_usage(self, request: AdminRequest) -> object:
        """All that was counted up to now: the workers write it down first."""
        first, last = parse_days(request.query, day_of(self._clock.now_us()))
        answers = await self._supervisor.ask_all("usage")
        rows, problems = await asyncio.to_thread(read_usage, self._state.root / "usage", first, last, request.query.get("account"))
        return {"from": first, "to": last, "usage": [row.as_fields() for row in rows], "problems": problems,
                "silent_workers": answers.count(None)}

    async def _answer_config(self, _: AdminRequest) -> object:
        return {shown.name: {"value": shown.value, "origin": shown.origin} for shown in effective_values(self._loaded)}

    async def _read_metrics(self) -> str:
        found = [await self._supervisor.metrics(), *(await self._control.metrics() if self._control is not None else ())]
        return format_prometheus(merge_snapshots(found))

    async def _read_health(self) -> Mapping[str, object]:
        workers = self._supervisor.worker_facts()
        serving = sum(1 for worker in workers if worker["is_ready"] and not worker["is_hung"])
        return {"is_healthy": serving == len(workers), "workers": len(workers), "workers_serving": serving}
