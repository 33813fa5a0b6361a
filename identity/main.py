"""Identity put together from its parts: the state directory, the database, the keys."""
from __future__ import annotations

from pathlib import Path

from common.clock import Clock
from control.db import Database, sqlite_url
from control.jobs_model import upgrade_jobs
from control.migrate import make_or_upgrade
from identity.config import IdentityConfig
from identity.keys import KEEP_ALL, KeySet
from identity.model import metadata
from identity.passwords import Passwords
from identity.state import Identity

MIGRATIONS = Path(__file__).parent / "migrations"
TOKEN_KEYS, VAULT_KEYS = "token-keys", "credential-keys"          # below STATE/secrets


def open_database(config: IdentityConfig, state_dir: Path) -> Database:
    """The one that the configuration names; else STATE/control/identity.sqlite, 0600, brought to the newest revision.

    A PostgreSQL database is brought up to date as well: whoever comes first does it, under a lock. Raises `ConfigError`.
    """
    if config.database is None:
        directory = state_dir / "control"
        directory.mkdir(mode=0o700, exist_ok=True)
        path = directory / "identity.sqlite"
        path.touch(mode=0o600, exist_ok=True)
        database = Database(sqlite_url(path))
    else:
        database = Database(config.database)
    with database.upgrading() as connection:
        if not database.is_sqlite:
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7215001)")
        make_or_upgrade(connection, MIGRATIONS, metadata, service="identity")
        upgrade_jobs(connection)
    return database


def open_identity(config: IdentityConfig, state_dir: Path, *, clock: Clock, passwords: Passwords | None = None) -> Identity:
    """Everything that the application needs. Raises `ConfigError`."""
    database = open_database(config, state_dir)
    secrets = state_dir / "secrets"
    return Identity(config, database, keys=KeySet(secrets / TOKEN_KEYS), vault=KeySet(secrets / VAULT_KEYS, kept=KEEP_ALL),
                    passwords=passwords or Passwords(), clock=clock)


def close_identity(state: Identity) -> None:
    """After the application has ended."""
    state.passwords.close()
    state.database.close()
