"""Who asks: what a token means, as policy rules and use-cases see it."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from common.pathrule import path_pattern


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRule:
    """A request that a restricted application credential may make. path: * is one segment (or part of one), ** any number."""

    id: str
    service: str                             # type, as in the catalog
    path: str
    method: str

    def matches(self, service: str, method: str, path: str) -> bool:
        """Whether this is that request."""
        return self.service == service and self.method == method and path_pattern(self.path).fullmatch(path) is not None


@dataclass(frozen=True, kw_only=True)
class Context:
    """One caller. Exactly one of project, domain, system is the scope, or none (unscoped).

    roles: names, implied ones included. is_admin_project: False confines a role of admin to its project. token: what the
    identity service itself knows of the token, opaque to everybody else.
    """

    user_id: str = ""
    user_name: str = ""
    user_domain_id: str = ""
    project_id: str | None = None
    project_name: str = ""
    project_domain_id: str | None = None
    domain_id: str | None = None
    is_system: bool = False
    roles: frozenset[str] = frozenset()
    service_roles: frozenset[str] = frozenset()
    is_admin_project: bool = True
    app_credential_id: str | None = None
    is_unrestricted: bool = False            # an application credential that may make others
    access_rules: tuple[AccessRule, ...] | None = None       # None: any request
    trust_id: str | None = None
    token: object = None

    @property
    def is_anonymous(self) -> bool:
        """No token came with the request."""
        return not self.user_id

    @cached_property
    def credentials(self) -> Mapping[str, object]:
        """The names that the left side of a policy check may use."""
        return {
            "user_id": self.user_id, "user_name": self.user_name, "user_domain_id": self.user_domain_id,
            "project_id": self.project_id, "project_domain_id": self.project_domain_id, "domain_id": self.domain_id,
            "system_scope": "all" if self.is_system else None, "roles": self.roles, "service_roles": self.service_roles,
            "is_admin_project": self.is_admin_project, "app_credential_id": self.app_credential_id, "trust_id": self.trust_id,
        }


ANONYMOUS = Context(is_admin_project=False)
