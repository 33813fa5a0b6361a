"""The files that tell a system about Holdfast: the systemd unit, its user, the owners of its directories."""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

USER = "holdfast"
PREFIX = Path("/opt/holdfast")
CONFIG = Path("/etc/holdfast/holdfast.toml")
STATE = Path("/var/lib/holdfast")
UNIT = Path("/etc/systemd/system/holdfast.service")
COMMAND = Path("/usr/local/bin/holdfast")
SYSUSERS = Path("/usr/lib/sysusers.d/holdfast.conf")
TMPFILES = Path("/usr/lib/tmpfiles.d/holdfast.conf")

SYSUSERS_TEXT = f'u {USER} - "Holdfast object store" {STATE}\n'
TMPFILES_TEXT = f"""\
d {STATE} 0700 {USER} {USER} -
z {CONFIG.parent} 0750 root {USER} -
z {CONFIG} 0640 root {USER} -
"""


def make_unit(*, writable: Iterable[Path] = ()) -> str:
    """holdfast.service. writable: what the configuration names outside of the state directory: devices, logs."""
    paths = " ".join(_quote(str(path)) for path in sorted({STATE, *writable}))
    return f"""\
# Made by `holdfast install`, which replaces it. Changes belong into a drop-in: systemctl edit holdfast
[Unit]
Description=Holdfast object store
After=network-online.target local-fs.target
Wants=network-online.target
RequiresMountsFor={STATE}
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
Type=notify
NotifyAccess=main
User={USER}
Group={USER}
ExecStart={PREFIX}/current/bin/holdfast up --config {CONFIG}
ExecReload=/bin/kill -HUP $MAINPID
# The supervisor lets requests end, then its workers; what is left after that is killed.
KillMode=mixed
TimeoutStartSec=120
TimeoutStopSec=90
Restart=on-failure
RestartSec=2
# A worker that the kernel kills for want of memory is started again by its supervisor.
OOMPolicy=continue
LimitNOFILE=524288
Environment=MALLOC_ARENA_MAX=2

StateDirectory={USER}
StateDirectoryMode=0700
UMask=0077
ReadWritePaths={paths}
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
DevicePolicy=closed
NoNewPrivileges=yes
# For a port below 1024: CapabilityBoundingSet=CAP_NET_BIND_SERVICE and AmbientCapabilities=CAP_NET_BIND_SERVICE in a drop-in.
CapabilityBoundingSet=
AmbientCapabilities=
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
# SQLite and numpy try these and go on without
SystemCallFilter=setrlimit prlimit64 sched_setaffinity fchown mbind
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


def _quote(path: str) -> str:
    """One word of a unit file."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if " " in escaped or '"' in escaped else escaped
