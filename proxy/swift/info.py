"""/info: what this cluster can do and its limits, in the form that Swift's clients read."""
from __future__ import annotations

import json
from dataclasses import fields

from common.version import VERSION
from proxy.swift.context import DoorSettings
from proxy.swift.router import API_VERSIONS


def render_info(settings: DoorSettings) -> bytes:
    """JSON; made once, it does not change while a worker runs."""
    limits = {field.name: getattr(settings.limits, field.name) for field in fields(settings.limits)}
    policies = []
    for policy in settings.policies:
        row: dict[str, object] = {"name": policy.name, "aliases": policy.name}
        if policy.is_default:
            row["default"] = True
        policies.append(row)
    swift = {
        "version": VERSION, "strict_cors_mode": True, "account_autocreate": True, "allow_account_management": True,
        "valid_api_versions": list(API_VERSIONS), "policies": policies, **limits,
    }
    return json.dumps({"swift": swift, "tempauth": {"account_acls": False}}).encode()
