"""HOST:PORT as operators write it, IPv6 in brackets: "127.0.0.1:8080", "[::1]:8080", ":8080" for every interface."""
from __future__ import annotations

import ipaddress
from typing import NamedTuple


class Address(NamedTuple):
    """One TCP end. `host` is "" for every interface; `port` 0 lets the kernel choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True if nothing outside this machine can connect; a name other than localhost counts as public."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str) -> Address:
    """Inverse of `str(Address)`. Raises `ValueError` with a sentence for the operator."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise ValueError(f"{text!r} is not HOST:PORT with a port from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r}: write an IPv6 address in brackets, as in [::1]:8080")
    if any(c.isspace() or c in "/[]@" for c in host):
        raise ValueError(f"{text!r}: {host!r} is not a host name")
    return Address(host, int(port))
