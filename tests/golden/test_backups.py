"""Backups that released versions wrote are restored by this one, and their databases brought up to date."""
from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from sqlalchemy import select

from common.clock import ManualClock
from control.jobs_store import JobStore
from identity.config import IdentityConfig
from identity.main import close_identity, open_identity
from identity.model import credential, user
from identity.passwords import Passwords
from node.backup import verify_backup
from node.backup_restore import Restore, restore_backup
from node.config import HoldfastConfig
from node.state import load_rings, load_state

BACKUPS = sorted(Path(__file__).parent.glob("v*/backup.tar.gz"))


def test_there_is_one():
    assert BACKUPS


@pytest.mark.parametrize("path", BACKUPS, ids=lambda path: path.parent.name)
def test_a_backup_of_an_earlier_version_is_restored(path, tmp_path):
    archive, root, clock = tmp_path / "b.tar", tmp_path / "state", ManualClock()
    archive.write_bytes(gzip.decompress(path.read_bytes()))
    assert verify_backup(archive).body["version"]
    restore_backup(Restore(archive=archive, root=root, config=HoldfastConfig()), clock=clock, say=lambda line: None)
    node = load_state(root)
    assert len(node.devices) == 3 and load_rings(node).keys() == set(node.ring_names)
    state = open_identity(IdentityConfig(), root, clock=clock, passwords=Passwords(memory_kib=8, passes=1))
    with state.database.engine.connect() as connection:
        assert connection.execute(select(user.c.name)).scalars().all() == ["golden"]
        assert state.vault.open_text(connection.execute(select(credential.c.sealed)).scalar_one()) == "golden secret"
        (job,) = JobStore(clock).of_request(connection, "req-golden")
        assert (job.state, job.attempt, job.error["reason"]) == ("failed", 1, "no room")
    close_identity(state)
