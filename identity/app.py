"""The identity application: its routes, its version documents, and how it is put together."""
from __future__ import annotations

from pathlib import Path

from aiohttp import web

from common.clock import Clock
from common.metrics import Registry
from control.app import Call, Service
from control.app import make_app as make_service_app
from control.causes import Causes
from control.discovery import ApiVersion, versions_document
from control.errors import IDENTITY
from control.policy import Policy
from control.policy_file import load_policy
from control.routes import Answer, Route, RouteTable
from identity import (
    app_credentials,
    credentials,
    domain_config,
    ec2_tokens,
    grants,
    groups,
    limits,
    oauth,
    policies,
    projects,
    role_assignments,
    roles,
    services,
    token_api,
    trusts,
    users,
)
from identity.rules import DEFAULTS
from identity.state import Identity
from identity.token_api import LocalTokens

API = ApiVersion(id="v3.14", path="/v3/", status="stable", updated="2020-04-07T00:00:00Z", media_types=(
    {"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"},))


async def list_versions(call: Call) -> Answer:
    """GET /: 300, as clients expect it."""
    return Answer(body=versions_document([API], call.base, has_values=True))


async def show_version(call: Call) -> Answer:
    """GET /v3."""
    return Answer(body={"version": API.document(call.base)})


ROUTES: tuple[Route, ...] = (
    Route("GET", "/", list_versions, None, 300, needs_token=False),
    Route("GET", "/v3", show_version, None, 200, needs_token=False),
    *(route for module in (token_api, users, projects, groups, roles, grants, role_assignments, services, credentials, ec2_tokens,
                           app_credentials, trusts, oauth, domain_config, limits, policies) for route in module.ROUTES),
)


def make_policy(policy_file: Path | None) -> Policy:
    """The default rules, and an operator's file over them, if there is one. Raises `ConfigError`."""
    if policy_file is None or not policy_file.exists():
        return Policy(DEFAULTS)
    return load_policy(policy_file, DEFAULTS)


def make_service(state: Identity, *, clock: Clock, registry: Registry | None = None,
                 causes: Causes | None = None,
                 fallback_host: str = "127.0.0.1:5000", policy_file: Path | None = None) -> Service:
    """All parts of the application. Raises `ConfigError` for a policy file that cannot be used."""
    return Service(
        name="identity", type="identity", routes=RouteTable(ROUTES), database=state.database, errors=IDENTITY, clock=clock,
        state=state,
        policy=make_policy(policy_file), tokens=LocalTokens(state), public_url=state.config.public_url,
        fallback_host=fallback_host, registry=registry or Registry(), causes=causes or Causes(clock))


def make_app(service: Service) -> web.Application:
    """To be served, by itself or under a prefix."""
    return make_service_app(service)
