"""How identity shows what it holds: one function per resource, from a row to the JSON of the API."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row

from control.app import Call
from control.times import format_optional, format_time
from identity.base import self_link
from identity.model import ROOT
from identity.scopes import Meaning


def show_named(row: Row[Any]) -> dict[str, str]:
    """{id, name}: how one resource mentions another."""
    return {"id": row.id, "name": row.name}


def show_token(found: Meaning, *, catalog: list[dict[str, Any]] | None) -> dict[str, Any]:
    """The body of a token."""
    facts = found.facts
    shown: dict[str, Any] = {
        "methods": list(facts.methods), "expires_at": format_time(facts.expires_us), "issued_at": format_time(facts.issued_us),
        "audit_ids": list(facts.audit_ids),
        "user": {**show_named(found.user), "domain": show_named(found.user_domain),
                 "password_expires_at": format_optional(found.user.password_expires_us)},
    }
    if found.project is not None and found.project_domain is not None:
        shown["project"] = {**show_named(found.project), "domain": show_named(found.project_domain)}
        shown["is_domain"] = False
    if found.domain is not None:
        shown["domain"] = show_named(found.domain)
    if found.is_system:
        shown["system"] = {"all": True}
    if facts.scope_kind:
        shown["roles"] = [{"id": role_id, "name": name} for role_id, name in sorted(found.roles.items(), key=lambda item: item[1])]
    if found.trust is not None:
        row = found.trust
        shown["OS-TRUST:trust"] = {"id": row.id, "impersonation": row.impersonation,
                                   "trustor_user": {"id": row.trustor_user_id}, "trustee_user": {"id": row.trustee_user_id}}
    if found.app_credential is not None:
        shown["application_credential"] = {**show_named(found.app_credential), "restricted": not found.app_credential.unrestricted}
        if found.access_rules is not None:
            shown["application_credential"]["access_rules"] = [
                {"id": rule.id, "service": rule.service, "path": rule.path, "method": rule.method} for rule in found.access_rules]
    if found.access_token is not None:
        shown["OS-OAUTH1"] = {"access_token_id": found.access_token.id, "consumer_id": found.access_token.consumer_id}
    if catalog is not None and facts.scope_kind:
        shown["catalog"] = catalog
    return {"token": shown}


def show_user(call: Call, row: Row[Any]) -> dict[str, Any]:
    """Never the password."""
    shown = {**row.extra, "id": row.id, "name": row.name, "domain_id": row.domain_id, "enabled": row.enabled,
             "password_expires_at": format_optional(row.password_expires_us), "options": row.options,
             "links": self_link(call, "users", row.id)}
    for name in ("description", "email", "default_project_id"):
        if getattr(row, name) is not None:
            shown[name] = getattr(row, name)
    return shown


def show_project(call: Call, row: Row[Any], tags: list[str]) -> dict[str, Any]:
    """A project or a domain that is asked for as a project."""
    return {**row.extra, "id": row.id, "name": row.name, "domain_id": None if row.is_domain else row.domain_id,
            "parent_id": None if row.is_domain else row.parent_id, "is_domain": row.is_domain, "enabled": row.enabled,
            "description": row.description or "", "tags": tags, "options": _public_options(row.options),
            "links": self_link(call, "projects", row.id)}


def show_domain(call: Call, row: Row[Any], tags: list[str]) -> dict[str, Any]:
    """A domain as itself."""
    return {**row.extra, "id": row.id, "name": row.name, "enabled": row.enabled, "description": row.description or "", "tags": tags,
            "options": _public_options(row.options), "links": self_link(call, "domains", row.id)}


def _public_options(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name == "immutable"}


def show_group(call: Call, row: Row[Any]) -> dict[str, Any]:
    """A group."""
    return {**row.extra, "id": row.id, "name": row.name, "domain_id": row.domain_id, "description": row.description or "",
            "links": self_link(call, "groups", row.id)}


def show_role(call: Call, row: Row[Any]) -> dict[str, Any]:
    """domain_id is null for a role that belongs to none."""
    return {**row.extra, "id": row.id, "name": row.name, "domain_id": None if row.domain_id == ROOT else row.domain_id,
            "description": row.description, "options": row.options, "links": self_link(call, "roles", row.id)}
