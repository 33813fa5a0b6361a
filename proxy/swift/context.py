"""What every handler of the Swift door is given: the store, the settings, the clock, and who asks about what."""
from __future__ import annotations

from dataclasses import dataclass

from common.clock import Clock
from common.cluster_config import Policy
from proxy.auth import V1Auth
from proxy.config import LimitsConfig
from proxy.http.message import Request
from proxy.model import Store
from proxy.swift.access import Asker
from proxy.swift.router import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorSettings:
    """What the configuration says about this door.

    public_url: "https://store.example.org" for storage URLs; None: as the client addressed us.
    listen: HOST:PORT of storage URLs for a client whose Host field is none.
    refuses_plain_logins: a login over plain HTTP is refused (a public listener without `tls.insecure_http`).
    """

    limits: LimitsConfig
    policies: tuple[Policy, ...]
    public_url: str | None = None
    listen: str = "127.0.0.1:8080"
    refuses_plain_logins: bool = False

    def policy_named(self, name: str) -> Policy | None:
        """Names match in any case."""
        return next((policy for policy in self.policies if policy.name.lower() == name.lower()), None)

    def policy_name(self, index: int) -> str | None:
        """None for a policy that is no longer configured."""
        return next((policy.name for policy in self.policies if policy.index == index), None)


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts that outlive a request."""

    store: Store
    settings: DoorSettings
    auth: V1Auth
    clock: Clock

    @property
    def limits(self) -> LimitsConfig:
        return self.settings.limits


@dataclass(slots=True)
class Ask:
    """One request, its path and who sent it."""

    request: Request
    path: Path
    asker: Asker
