"""`holdfast backup restore`: an archive becomes the control plane of a state directory.

First everything is checked: the archive is whole, nothing runs there, nothing is overwritten unless told, a PostgreSQL database is
empty. Then the databases are loaded, then keys and rings get their places, and cluster.json comes last: it is what makes a state
directory out of a directory, so a restore that breaks off has made none and can be run again (with --replace, if PostgreSQL was
loaded already). No node can start there meanwhile.
"""
from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, NullPool, create_engine, make_url
from sqlalchemy.exc import SQLAlchemyError

from common.clock import Clock
from common.errors import ConfigError, Conflict
from common.log import get_logger
from control.dump import SQLITE, BackupFailed, Dump, check_empty, load_postgres
from node.backup import CONFIG, DATABASES, TREES, Say, ServiceDatabase, verify_backup
from node.backup_archive import Archive, Manifest, extract, open_archive
from node.config import HoldfastConfig
from node.files import find_running, lock_state
from node.state import CLUSTER_FILE, load_state, prepare_directory

RESTORED_CONFIG = "holdfast.restored.toml"       # below the state directory: whoever restores decides what becomes of it
_PIECES = (*TREES, "control")
_log = get_logger("node.backup_restore")


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """What was asked for. config: of the node that is to be, which names its databases."""

    archive: Path
    root: Path
    config: HoldfastConfig
    replaces: bool = False
    is_dry_run: bool = False


def restore_backup(asked: Restore, *, clock: Clock, say: Say) -> dict[str, Any]:
    """Do it, or say what would be done. Raises `NotFound`, `Corruption`, `Conflict`, `ConfigError`, `BackupFailed`."""
    say("verifying the archive")
    manifest = verify_backup(asked.archive)
    replaced = _check_target(asked, manifest)
    plan = _plan_databases(asked, manifest)
    for one, url, row in plan:
        if url is not None and not asked.replaces:
            check_empty(url)
        say(f"database of {one.service}: {row['kind']}, {sum(row['tables'].values())} rows, into "
            f"{'PostgreSQL' if url is not None else asked.root / one.file}")
    if replaced:
        say(f"set aside: {', '.join(replaced)}")
    names = [name for name in manifest.files if name.startswith("state/")]
    result: dict[str, Any] = {
        "archive": str(asked.archive), "state": str(asked.root), "cluster": manifest.body["cluster"], "files": len(names),
        "created_us": manifest.body["created_us"], "replaced": replaced, "is_dry_run": asked.is_dry_run,
        "config": str(asked.root / RESTORED_CONFIG) if CONFIG in manifest.files else None,
        "databases": [{"service": one.service, "kind": row["kind"], "tables": row["tables"]} for one, _, row in plan]}
    if not asked.is_dry_run:
        _restore(asked, manifest, plan, replaced, clock, say)
    return result


def _check_target(asked: Restore, manifest: Manifest) -> list[str]:
    """What is in the way and may be set aside."""
    pid = find_running(asked.root)
    if pid is not None:
        raise Conflict(what="node", pid=pid, reason=f"a node runs in {asked.root} (process {pid}): stop it first")
    there = [name for name in (CLUSTER_FILE, *_PIECES) if (asked.root / name).exists()]
    if there and not asked.replaces:
        raise Conflict(what="state directory", reason=f"{asked.root} holds a node already ({there[0]}): choose another directory "
                                                      "with --data, or say --replace, which sets aside what is there")
    mine = load_state(asked.root)
    if mine is not None and mine.cluster_id != manifest.body["cluster"]:
        raise Conflict(what="state directory", reason=f"{asked.root} belongs to cluster {mine.cluster_id}, the backup to "
                                                      f"{manifest.body['cluster']}: its devices would be foreign to it")
    return there


def _plan_databases(asked: Restore, manifest: Manifest) -> list[tuple[ServiceDatabase, str | None, Mapping[str, Any]]]:
    known, out = {one.service: one for one in DATABASES}, []
    for row in manifest.body["databases"]:
        if row["kind"] == "none":
            continue
        one = known.get(row["service"])
        if one is None:
            raise BackupFailed(what="database", reason=f"the backup has a database of {row['service']}, which this version has not")
        url = one.url(asked.config)
        if (url is None) != (row["kind"] == SQLITE):
            where = "a SQLite file" if url is None else "PostgreSQL"
            raise ConfigError(where=f"{one.service}.database", reason=(
                f"the configuration says {where}, the backup is of {row['kind']}: name a database of that kind (--config FILE)"))
        out.append((one, url, row))
    return out


def _restore(asked: Restore, manifest: Manifest, plan: list[tuple[ServiceDatabase, str | None, Mapping[str, Any]]],
             replaced: list[str], clock: Clock, say: Say) -> None:
    root, archive = asked.root, open_archive(asked.archive)
    prepare_directory(root)
    lock = lock_state(root)
    try:
        with tempfile.TemporaryDirectory(prefix=".restore-", dir=root) as name:
            staging = Path(name)
            for path in manifest.files:
                if path.startswith("state/"):
                    extract(archive, path, staging / path.removeprefix("state/"))
            for one, url, row in plan:
                say(f"loading the database of {one.service}")
                counted = _counted(one, url, root)
                target = _load(one, url, row, archive, manifest, staging, replaces=asked.replaces)
                _finish(target, one, counted, clock)
            if CONFIG in manifest.files:
                extract(archive, CONFIG, staging / RESTORED_CONFIG)
            _own_like(root, staging)
            if replaced:
                _set_aside(root, replaced, clock)
            say("putting keys and rings in their places")
            for piece in sorted(os.listdir(staging), key=lambda piece: piece == CLUSTER_FILE):
                if (root / piece).is_file() and piece == RESTORED_CONFIG:
                    (root / piece).unlink()
                (staging / piece).rename(root / piece)
                _sync(root)
    except OSError as error:
        raise BackupFailed(what=str(root), reason=f"{error.filename or root}: {error.strerror}") from error
    finally:
        os.close(lock)
    _log.info("restored from a backup", archive=asked.archive, state=root, cluster=manifest.body["cluster"])


def _load(one: ServiceDatabase, url: str | None, row: Mapping[str, Any], archive: Archive, manifest: Manifest, staging: Path, *,
          replaces: bool) -> str | URL:
    """The URL of what was loaded."""
    prefix = f"databases/{one.service}/"
    if url is None:
        extract(archive, prefix + "database.sqlite", staging / one.file)
        return f"sqlite:///{staging / one.file}"
    with tempfile.TemporaryDirectory(prefix="dump-", dir=staging) as scratch:
        for path in manifest.files:
            if path.startswith(prefix):
                extract(archive, path, Path(scratch) / path.removeprefix(prefix))
        dump = Dump(kind=row["kind"], tables=row["tables"], revisions=row["revisions"], columns=row["columns"])
        load_postgres(url, Path(scratch), dump, one.histories, replaces=replaces)
    return make_url(url).set(drivername="postgresql+psycopg")


def _counted(one: ServiceDatabase, url: str | None, root: Path) -> int:
    """How far the database came that is replaced; 0 if there is none, or none that can be read."""
    if url is None and not (root / one.file).exists():
        return 0
    engine = create_engine(f"sqlite:///{root / one.file}" if url is None else make_url(url).set(drivername="postgresql+psycopg"),
                           poolclass=NullPool)
    try:
        with engine.connect() as connection:
            return one.counted(connection)
    except SQLAlchemyError as error:                     # no tables, or broken ones, which may be why somebody restores
        _log.info("the database that is replaced cannot be read", service=one.service, reason=type(error).__name__)
        return 0
    finally:
        engine.dispose()


def _finish(url: str | URL, one: ServiceDatabase, counted: int, clock: Clock) -> None:
    engine = create_engine(url, poolclass=NullPool)
    try:
        with engine.begin() as connection:
            one.after_restore(connection, counted, clock.now_us())
    finally:
        engine.dispose()


def _set_aside(root: Path, names: list[str], clock: Clock) -> None:
    """What the restore takes the place of, into a directory beside it; cluster.json first, so that nobody starts a half."""
    aside = root / f"holdfast.replaced-{clock.now_us() // 1_000_000}"
    aside.mkdir(mode=0o700)
    for name in names:
        (root / name).rename(aside / name)
    _sync(root)


def _own_like(root: Path, staging: Path) -> None:
    """root restores for the user that the directory belongs to."""
    if os.geteuid() != 0:
        return
    owner = root.stat()
    for path in (staging, *staging.rglob("*")):
        shutil.chown(path, owner.st_uid, owner.st_gid)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
