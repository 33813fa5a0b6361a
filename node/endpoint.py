"""endpoint.json: where the running node of a state directory answers, for commands and tests; there while the node runs."""
from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.address import Address
from common.errors import ConfigError
from common.secrets import load_secret
from node.config import HoldfastConfig
from node.files import write_private
from node.state import DEMO_USER, NodeState

FILE = "endpoint.json"


def base_url(config: HoldfastConfig, address: Address) -> str:
    """The URL of the object APIs as this machine reaches them."""
    scheme = "https" if config.tls.cert else "http"
    return f"{scheme}://{local_address(address)}"


def local_address(address: Address) -> Address:
    """An address to connect to, for one that says "every interface"."""
    return Address({"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host), address.port)


def make_endpoint(state: NodeState, config: HoldfastConfig, *, listen: Address, admin: Address,
                  pids: Mapping[str, object]) -> dict[str, Any]:
    """Its content. config: with the demo user in it, if nobody else is."""
    base = base_url(config, listen)
    prefix = config.auth.reseller[0].prefix.rstrip("_")
    account = f"{prefix}_{DEMO_USER.account}" if prefix else DEMO_USER.account
    fields: dict[str, Any] = {
        "urls": {"swift": f"{base}/v1", "auth": f"{base}/auth/v1.0", "admin": f"http://{local_address(admin)}"},
        "pids": dict(pids), "cluster": state.cluster_id, "node": state.node_id,
    }
    if config.auth.user == (DEMO_USER,):
        key = load_secret(state.secret_dir / str(DEMO_USER.key_file))
        fields["demo"] = {"user": f"{DEMO_USER.account}:{DEMO_USER.user}", "key": key, "storage_url": f"{base}/v1/{account}"}
    if config.tls.cert:
        fields["tls_cert"] = config.tls.cert
    return fields


def save_endpoint(root: Path, fields: Mapping[str, Any]) -> None:
    """Raises `OSError`."""
    write_private(root / FILE, json.dumps(fields, indent=2).encode() + b"\n")


def load_endpoint(root: Path) -> dict[str, Any] | None:
    """None if no node wrote one, or it stopped. Raises `ConfigError`."""
    try:
        fields = json.loads((root / FILE).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(where=str(root / FILE), reason=f"cannot be read: {error}") from error
    assert isinstance(fields, dict)
    return fields


def remove_endpoint(root: Path) -> None:
    """Nothing runs here any more."""
    (root / FILE).unlink(missing_ok=True)
