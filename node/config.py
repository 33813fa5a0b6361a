"""The whole configuration of a node: the tables of all services, and the file it comes from."""
from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.address import Address, parse_address
from common.cluster_config import DEFAULT_POLICIES, ClusterConfig, Policy, PolicyRow, policy_problems, resolve_policies
from common.config import Loaded, build_config, setting, table
from common.configfile import NO_FILE, find_config_path, load_config_file
from common.log import LogConfig
from identity.config import IdentityConfig
from object.config import ObjectConfig
from proxy.audit import AuditConfig
from proxy.config import AuthConfig, HttpConfig, LimitsConfig, TlsConfig

_DOMAIN = "default"                      # identity.model.DEFAULT_DOMAIN, which costs an import of SQLAlchemy


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """TOML table [node]: this machine."""

    data: str | None = setting(None, "state directory; /var/lib/holdfast for root, else ~/.local/share/holdfast",
                               example='"/var/lib/holdfast"')
    listen: str = setting("127.0.0.1:8080", "object APIs", check=parse_address)
    admin_listen: str = setting("127.0.0.1:9180", "admin API, /metrics, /healthz", check=parse_address)
    rpc_listen: str | None = setting(None, "storage RPC for other nodes; one node alone needs none", check=parse_address,
                                     example='"10.0.0.1:6200"')
    workers: int = setting(0, "processes that serve and own devices; 0: one per core", low=0, high=1024)
    devices: int = setting(3, "device directories made below the state directory at the first start", low=1, high=64)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Two listeners on one port."""
        listen, admin = parse_address(self.listen), parse_address(self.admin_listen)
        if listen.port and listen == admin:
            yield "admin_listen", f"node.admin_listen and node.listen are both {self.listen}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldfastConfig:
    """The root of the file."""

    cluster: ClusterConfig = table(ClusterConfig, "The same on every node of a cluster.")
    node: NodeConfig = table(NodeConfig, "This machine.")
    tls: TlsConfig = table(TlsConfig, "TLS of the object APIs.")
    http: HttpConfig = table(HttpConfig, "Connections of clients.")
    object: ObjectConfig = table(ObjectConfig, "Devices and object requests.")
    limits: LimitsConfig = table(LimitsConfig, "Constraints, as /info shows them.")
    auth: AuthConfig = table(AuthConfig, "Who may log in.")
    identity: IdentityConfig = table(IdentityConfig, "The Identity API, and what passwords in it have to be.")
    log: LogConfig = table(LogConfig, "Logs.")
    audit: AuditConfig = table(AuditConfig, "Who did what, as JSON lines.")
    policy: tuple[PolicyRow, ...] = setting(DEFAULT_POLICIES, "Storage policies; one with three replicas if none is given.")

    def problems(self) -> Iterator[tuple[str, str]]:
        """What only shows when all tables are known."""
        yield from policy_problems(self.policy)
        for index, row in enumerate(self.auth.user):
            if row.account == _DOMAIN and self.identity.listen:
                yield f"auth.user.{index}.account", (
                    f'account "{_DOMAIN}" would be a project with the id of the default domain of the Identity API: choose another '
                    'name, or switch that off (identity.listen = "")')

    @property
    def policies(self) -> tuple[Policy, ...]:
        """The storage policies, indexes and default decided, by index."""
        return resolve_policies(self.policy)

    @property
    def listen(self) -> Address:
        """Where the object APIs listen."""
        return parse_address(self.node.listen)

    @property
    def is_login_refused(self) -> bool:
        """A password would cross the network in clear: a public listener without TLS, and nobody said insecure_http."""
        return not (self.listen.is_loopback or self.tls.cert or self.tls.insecure_http)

    def state_dir(self, environ: Mapping[str, str] = os.environ) -> Path:
        """Where everything that this node keeps lives."""
        if self.node.data is not None:
            return Path(self.node.data).expanduser().absolute()
        if os.geteuid() == 0:
            return Path("/var/lib/holdfast")
        return Path(environ.get("XDG_DATA_HOME") or Path(environ.get("HOME", "/")) / ".local/share") / "holdfast"


def load_config(path: str | Path | None = None, environ: Mapping[str, str] = os.environ, *,
                overrides: Mapping[str, object] | None = None) -> Loaded[HoldfastConfig]:
    """The configuration from command line, environment, file and defaults, in this order. Raises `ConfigError`.

    overrides: dotted setting to a value of the command line, None if it was not given.
    """
    found = find_config_path(path, environ)
    file = load_config_file(found) if found is not None else NO_FILE
    return build_config(HoldfastConfig, file, environ=environ, overrides=overrides)
