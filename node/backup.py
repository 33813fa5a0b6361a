"""`holdfast backup create`: the control plane of a node, as one archive: databases, keys, rings, who the node is, configuration.

One moment, and why it is one: each database is copied in one transaction. The keys are copied after them: a row or token that was
sealed before that transaction was sealed with a key that was there before it, and keys of stored secrets are never dropped, those
of tokens only two rotations later (a rotation while keys are read has them read again). Rings and cluster.json are files that are
replaced whole, and do not depend on the databases. So all that the databases of the archive need is in the archive.

It reads files and databases by itself, so it works beside a running node and without one. The data of objects is not in it.
"""
from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from common.clock import Clock
from common.config import Loaded
from common.errors import Conflict, Corruption, NotFound
from common.version import VERSION
from control import jobs_model
from control.dump import BackupFailed, Dump, History, check_sqlite, dump_postgres, dump_sqlite
from identity import main as identity
from identity.state import find_counter, skip_counter
from node.backup_archive import (
    Archive,
    Manifest,
    extract,
    find_damage,
    is_ours,
    open_archive,
    pack_tar,
    read_manifest,
    write_manifest,
)
from node.config import HoldfastConfig
from node.state import CLUSTER_FILE, load_state

TREES = ("secrets", "rings", "policy")           # of the state directory, besides cluster.json
CONFIG = "config/holdfast.toml"
_READS = 5
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceDatabase:
    """Where a service keeps its rows. file: below the state directory, unless url (of the configuration) names PostgreSQL."""

    service: str
    file: str
    url: Callable[[HoldfastConfig], str | None]
    histories: tuple[History, ...]
    counted: Callable[[Connection], int]                 # how far a database came that a restore takes the place of
    after_restore: Callable[[Connection, int, int], None]        # (connection, what `counted` said or 0, us of now): in a
    #                                                      transaction of its own, before anybody uses the database


DATABASES = (ServiceDatabase(service="identity", file="control/identity.sqlite", url=lambda config: config.identity.database,
                             histories=(("identity", identity.MIGRATIONS), (jobs_model.HISTORY, jobs_model.MIGRATIONS)),
                             counted=find_counter, after_restore=skip_counter),)


def create_backup(loaded: Loaded[HoldfastConfig], root: Path, target: Path, *, clock: Clock, say: Say) -> dict[str, Any]:
    """Write and verify the archive; a directory if `target` ends with a slash or has no suffix. What is in it, as JSON can say it.

    Raises `NotFound` (no store), `Conflict` (target is there), `BackupFailed`, `Corruption`.
    """
    state = load_state(root)
    if state is None:
        raise NotFound(what="store", reason=f"there is no store in {root}")
    is_directory = target.suffix == ""
    if target.exists():
        raise Conflict(what="backup", reason=f"{target} is there already, and backups overwrite nothing")
    begun_us = clock.now_us()
    staging = _make_staging(target)
    try:
        databases = [{"service": one.service, **asdict(_dump(one, loaded.value, root, staging, say))} for one in DATABASES]
        notes = [f"{row['service']}: {row['note']}" for row in databases if row["note"]]
        for name in TREES:
            if (root / name).is_dir():
                say(f"copying {name}")
                copy_tree(root / name, staging / "state" / name, wanted=partial(_is_wanted, name))
                notes += [f"{name}/{one} is not part of the backup: it is not of this node's making"
                          for one in _listing(root / name) if not _is_wanted(name, one)]
        _copy_file(root / CLUSTER_FILE, staging / "state" / CLUSTER_FILE)
        if loaded.file.path is not None:
            _copy_file(loaded.file.path, staging / CONFIG)
        notes += [f"{name} is not part of the backup: {path}" for name, path in (
            ("tls.cert", loaded.value.tls.cert), ("tls.key", loaded.value.tls.key)) if path]
        write_manifest(staging, {"created_us": clock.now_us(), "version": VERSION, "cluster": state.cluster_id,
                                 "node": state.node_id, "databases": databases, "notes": notes})
        say("writing the archive")
        _publish(staging, target, is_directory=is_directory)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    say("verifying what was written")
    manifest = verify_backup(target)
    size = sum(row["size_bytes"] for row in manifest.body["files"])
    shown = [{name: row[name] for name in ("service", "kind", "tables", "revisions")} for row in databases]
    return {"archive": str(target), "bytes": size, "files": len(manifest.body["files"]), "databases": shown, "notes": notes,
            "cluster": state.cluster_id, "created_us": manifest.body["created_us"], "seconds": (clock.now_us() - begun_us) / 1e6}


def verify_backup(path: Path) -> Manifest:
    """The manifest of an archive that is whole. Raises `NotFound`, `Corruption` with each damage in `problems`."""
    archive = open_archive(path)
    manifest = read_manifest(archive)
    problems = [f"{name} is no name of a file in a backup" for name in manifest.files if not is_ours(name)]
    problems = problems or list(find_damage(archive, manifest)) or list(_check_databases(archive, manifest))
    if problems:
        raise Corruption(what=str(path), problems=problems, reason="; ".join(problems))
    return manifest


def _check_databases(archive: Archive, manifest: Manifest) -> Iterable[str]:
    """SQLite databases open, are whole, and have the rows that were there."""
    for row in manifest.body["databases"]:
        if row["kind"] != "sqlite":
            continue
        with tempfile.TemporaryDirectory(prefix="holdfast-verify-") as scratch:
            copy = Path(scratch) / f"{row['service']}.sqlite"
            extract(archive, f"databases/{row['service']}/database.sqlite", copy)
            try:
                found = check_sqlite(copy)
            except Corruption as error:
                yield str(error.fields["reason"])
                continue
            if dict(found.tables) != row["tables"]:
                yield f"the database of {row['service']} does not have the rows that the manifest counts"


def _dump(one: ServiceDatabase, config: HoldfastConfig, root: Path, staging: Path, say: Say) -> Dump:
    directory = staging / "databases" / one.service
    directory.mkdir(mode=0o700, parents=True)
    url = one.url(config)
    if url is not None:
        say(f"copying the database of {one.service} (PostgreSQL)")
        return dump_postgres(url, directory, say)
    if not (root / one.file).exists():
        return Dump(kind="none", tables={}, revisions={}, note="it has no database yet")
    say(f"copying the database of {one.service}")
    return dump_sqlite(root / one.file, directory / "database.sqlite")


def _is_wanted(tree: str, name: str) -> bool:
    return is_ours(f"state/{tree}/{name}")


def copy_tree(source: Path, target: Path, *, wanted: Callable[[str], bool] = lambda name: True) -> None:
    """All files as they were together: read again if one changed, came or went meanwhile. Raises `BackupFailed`.

    wanted: of the name below `source`.
    """
    for _ in range(_READS):
        before = _listing(source)
        shutil.rmtree(target, ignore_errors=True)
        try:
            for name in filter(wanted, before):
                _copy_file(source / name, target / name)
        except FileNotFoundError:
            continue
        if _listing(source) == before:
            return
    raise BackupFailed(what=str(source), reason=f"{source} goes on changing while it is read")


def _listing(root: Path) -> Mapping[str, tuple[int, int, int]]:
    out = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.name.endswith(".tmp"):
            found = path.stat()
            out[str(path.relative_to(root))] = (found.st_ino, found.st_mtime_ns, found.st_size)
    return out


def _copy_file(source: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as out, source.open("rb") as file:
        shutil.copyfileobj(file, out)


def _make_staging(target: Path) -> Path:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))       # 0700
    except OSError as error:
        raise BackupFailed(what=str(target), reason=f"{target.parent} cannot be written: {error.strerror}") from error


def _publish(staging: Path, target: Path, *, is_directory: bool) -> None:
    """Whole under its name, or not at all."""
    try:
        if is_directory:
            staging.rename(target)
        else:
            temporary = staging.with_name(f"{staging.name}.tar")
            try:
                pack_tar(staging, temporary)
                os.link(temporary, target)           # where a rename would replace what is there
            finally:
                temporary.unlink(missing_ok=True)
        fd = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise BackupFailed(what=str(target), reason=f"{target} cannot be written: {error.strerror}") from error
