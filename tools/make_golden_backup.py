"""Write a backup as this version makes it, small, for later versions to read: python -m tools.make_golden_backup DIRECTORY

Run once per released version, into tests/golden/v<version>: backup.tar.gz, with a database that has one user (golden, in the
default domain), a stored credential, and a job that failed.
"""
from __future__ import annotations

import gzip
import os
import sys
import tempfile
from pathlib import Path

from sqlalchemy import Connection, insert

from common.clock import ManualClock
from common.config import Loaded
from common.configfile import NO_FILE
from control.jobs_store import JobStore
from identity.config import IdentityConfig
from identity.main import close_identity, open_identity
from identity.model import credential, project, user
from identity.passwords import Passwords
from node.backup import create_backup
from node.config import HoldfastConfig
from node.state import open_state


def main(target: Path) -> None:
    """Writes backup.tar.gz into the directory."""
    os.umask(0o077)
    clock, config = ManualClock(), HoldfastConfig(identity=IdentityConfig())
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "state"
        open_state(root, config, device_count=3, clock=clock, say=_quiet)
        state = open_identity(config.identity, root, clock=clock, passwords=Passwords(memory_kib=8, passes=1))
        state.database.run_here(_fill, state.vault.seal_text("golden secret"), JobStore(clock))
        close_identity(state)
        create_backup(Loaded(value=config, origins={}, file=NO_FILE), root, Path(name) / "b.tar", clock=clock, say=_quiet)
        (target / "backup.tar.gz").write_bytes(gzip.compress((Path(name) / "b.tar").read_bytes(), mtime=0))


def _fill(connection: Connection, sealed: str, store: JobStore) -> None:
    for domain in ("", "default"):
        connection.execute(insert(project).values(id=domain, name=domain, domain_id="", parent_id=None, is_domain=True,
                                                  enabled=True, options={}, extra={}))
    connection.execute(insert(user).values(id="u1", domain_id="default", name="golden", enabled=True, must_change_password=False,
                                           options={}, extra={}, failed_count=0, created_us=0))
    connection.execute(insert(credential).values(id="c1", user_id="u1", type="ec2", access_digest="d", sealed=sealed, extra={}))
    store.add(connection, kind="box.create", step="first", resource_type="box", resource_id="b1",
              origin={"request_id": "req-golden"})
    held = store.claim(connection, owner="golden", kinds=("box.create",), targets=(), lease_us=1)
    assert held is not None
    store.end(connection, held, state="failed", error={"code": "full", "reason": "no room", "step": "first", "chain": []})


def _quiet(_: str) -> None:
    pass


if __name__ == "__main__":
    main(Path(sys.argv[1]))
