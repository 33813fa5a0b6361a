"""clouds.yaml and openrc beside endpoint.json: with them any OpenStack client finds this node and logs in.

Two clouds: `holdfast`, the demo user in its project, if there is one; `holdfast-admin`, the administrator. Both files are 0600,
because they hold passwords, and are written whenever a node begins to serve. JSON is YAML, so no library is needed to write it.
"""
from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.secrets import load_secret
from node.files import write_private

CLOUDS_FILE, RC_FILE = "clouds.yaml", "openrc"
REGION = "RegionOne"


def save_clouds(root: Path, *, url: str, admin_password_file: Path, demo: Mapping[str, Any] | None, ca_file: str | None) -> None:
    """demo: of endpoint.json. Raises `OSError`, `ConfigError`."""
    admin = _cloud(url, "admin", load_secret(admin_password_file), "admin", ca_file)
    clouds = {"holdfast-admin": admin}
    if demo is not None:
        account, _, name = demo["user"].partition(":")
        login = name if account == name else demo["user"]
        clouds = {"holdfast": _cloud(url, login, demo["key"], account, ca_file), **clouds}
    write_private(root / CLOUDS_FILE, json.dumps({"clouds": clouds}, indent=2).encode() + b"\n")
    write_private(root / RC_FILE, format_rc(clouds.get("holdfast", admin)).encode())


def _cloud(url: str, user: str, password: str, project: str, ca_file: str | None) -> dict[str, Any]:
    cloud: dict[str, Any] = {"auth": {
        "auth_url": url, "username": user, "password": password, "project_name": project, "user_domain_id": "default",
        "project_domain_id": "default"}, "region_name": REGION, "identity_api_version": "3", "interface": "public"}
    return {**cloud, "cacert": ca_file} if ca_file is not None else cloud


def format_rc(cloud: Mapping[str, Any]) -> str:
    """The same for `. DIR/openrc` in a POSIX shell."""
    values = {f"OS_{name.upper()}": value for name, value in cloud["auth"].items()}
    values |= {"OS_REGION_NAME": cloud["region_name"], "OS_IDENTITY_API_VERSION": "3", "OS_INTERFACE": "public"}
    if "cacert" in cloud:
        values["OS_CACERT"] = cloud["cacert"]
    return "".join(f"export {name}={shlex.quote(str(value))}\n" for name, value in values.items())
