"""A backup of the control plane: one moment, all keys, whole or refused; on both databases."""
from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
import sqlite3
import stat
import tarfile
import threading
from contextlib import closing
from types import SimpleNamespace

import pytest
from sqlalchemy import func, insert, select, update

from common.clock import SystemClock
from common.errors import ConfigError, Conflict, Corruption, NotFound
from control import dump
from control.dump import BackupFailed, check_sqlite
from identity.main import open_database
from identity.model import counter, project_tag, region
from identity.state import RESTORE_SKIP, find_counter, skip_counter
from node import backup
from node.backup import copy_tree, create_backup, verify_backup
from node.backup_archive import MANIFEST, DirectoryArchive, _canonical, _digest, is_ours, open_archive
from node.backup_restore import Restore, restore_backup
from node.config import load_config
from node.files import lock_state
from node.state import load_rings, load_state, open_state

CLOCK = SystemClock()


def be_silent(_):
    pass


def configure(path, url=None):
    """A configuration file that names the database."""
    path.write_text(f'[identity]\ndatabase = "{url}"\n' if url else "[identity]\ntoken_life_s = 3600\n")
    path.chmod(0o600)
    return load_config(path, {})


def make_node_state(root, config):
    """What `holdfast up` makes beside identity."""
    root.mkdir(exist_ok=True)
    for path in root.rglob("secrets"):
        path.chmod(0o700)
    return open_state(root, config, device_count=None, clock=CLOCK, say=be_silent)


def back_up(loaded, root, target):
    return create_backup(loaded, root, target, clock=CLOCK, say=be_silent)


def restore(archive, root, loaded, **options):
    return restore_backup(Restore(archive=archive, root=root, config=loaded.value, **options), clock=CLOCK, say=be_silent)


def files_below(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def other_url(identity_url, request):
    """An empty database of the same kind, to restore into."""
    if identity_url is None:
        yield None
        return
    server = request.getfixturevalue("postgres_server")
    url = server.create()
    yield url
    server.drop(url)


@pytest.fixture
def node(tmp_path, template):
    """A state directory with SQLite, its configuration, and a backup of it."""
    root, archive = tmp_path / "state", tmp_path / "backup.tar"
    shutil.copytree(template, root)
    loaded = configure(tmp_path / "holdfast.toml")
    make_node_state(root, loaded.value)
    back_up(loaded, root, archive)
    return SimpleNamespace(root=root, archive=archive, loaded=loaded)


# whole

@pytest.mark.parametrize(("name", "has_tools"), [("backup.tar", True), ("backup", False)])
async def test_what_is_restored_knows_its_tokens_users_secrets_and_rings(
        make_cloud, reopen_cloud, identity_url, other_url, tmp_path, monkeypatch, name, has_tools):
    if not has_tools:
        monkeypatch.setattr(dump, "find_tool", lambda name: None)
    first, second, archive = tmp_path / "state", tmp_path / "elsewhere", tmp_path / name
    loaded, other = configure(tmp_path / "holdfast.toml", identity_url), configure(tmp_path / "other.toml", other_url)
    async with make_cloud() as cloud:
        user_id, project_id, token = await cloud.member()
        keys = f"/v3/users/{user_id}/credentials/OS-EC2"
        made = (await cloud.call("POST", keys, {"tenant_id": project_id}, token=token)).body["credential"]
        cloud.state.keys.rotate()                        # the token is of the key before
        state = await asyncio.to_thread(make_node_state, first, loaded.value)
        result = await asyncio.to_thread(back_up, loaded, first, archive)
        other_id = (await cloud.make("user", name="other"))["id"]
        for is_enabled in (False, True, False):          # the counter of changes goes on, the backup's does not
            assert (await cloud.as_admin("PATCH", f"/v3/users/{other_id}", {"user": {"enabled": is_enabled}})).status == 200
        late = await cloud.login(user_id, "alice", {"project": {"id": project_id}})
    await asyncio.to_thread(restore, archive, second, other)
    (database,) = result["databases"]
    assert database["kind"] == ("sqlite" if identity_url is None else "pg_dump" if has_tools else "pg_copy")
    assert database["tables"]["user_account"] >= 3 and database["revisions"].keys() == {"identity", "jobs"}

    restored = await asyncio.to_thread(load_state, second)
    assert (restored.cluster_id, restored.hash_suffix, restored.devices) == (state.cluster_id, state.hash_suffix, state.devices)
    assert (await asyncio.to_thread(load_rings, restored)).keys() == set(state.ring_names)
    for part in ("rings", "secrets"):
        assert files_below(second / part) == files_below(first / part)
    assert (second / "holdfast.restored.toml").read_bytes() == (tmp_path / "holdfast.toml").read_bytes()
    private = [path for path in second.rglob("*") if path.is_file()] + [archive]
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in private} == {0}

    shutil.rmtree(first)                                 # nothing of it is needed
    async with reopen_cloud(second, **({"database": other_url} if other_url else {})) as cloud:
        shown = await cloud.call("GET", "/v3/auth/tokens", token=token, X_Subject_Token=token)
        assert shown.status == 200 and shown.body["token"]["project"]["id"] == project_id
        assert await cloud.login(user_id, "alice", {"project": {"id": project_id}})
        assert (await cloud.call("GET", f"{keys}/{made['access']}", token=token)).body["credential"]["secret"] == made["secret"]
        assert (await cloud.call("GET", "/v3/auth/projects", token=late)).status == 200
        for each in (late, token):                       # one that was made after the backup is revoked like any other
            assert (await cloud.as_admin("DELETE", "/v3/auth/tokens", X_Subject_Token=each)).status == 204
            assert (await cloud.call("GET", "/v3/auth/projects", token=each)).status == 401


@pytest.mark.parametrize("is_replaced", [True, False])
async def test_tokens_from_between_two_restores_of_one_backup_can_be_revoked(
        make_cloud, reopen_cloud, identity_url, other_url, tmp_path, is_replaced):
    archive, other = tmp_path / "b.tar", configure(tmp_path / "other.toml", other_url)
    loaded, settings = configure(tmp_path / "holdfast.toml", identity_url), {"database": other_url} if other_url else {}
    async with make_cloud() as cloud:
        user_id, project_id, _ = await cloud.member()
        await asyncio.to_thread(make_node_state, tmp_path / "state", loaded.value)
        await asyncio.to_thread(back_up, loaded, tmp_path / "state", archive)
    await asyncio.to_thread(restore, archive, tmp_path / "1", other)
    async with reopen_cloud(tmp_path / "1", **settings) as cloud:
        made = (await cloud.make("user", name="other"))["id"]
        for is_enabled in (False, True, False):
            assert (await cloud.as_admin("PATCH", f"/v3/users/{made}", {"user": {"enabled": is_enabled}})).status == 200
        between = await cloud.login(user_id, "alice", {"project": {"id": project_id}})
    again = tmp_path / ("1" if is_replaced else "2")
    await asyncio.to_thread(restore, archive, again, other, replaces=is_replaced or bool(other_url))
    async with reopen_cloud(again, **settings) as cloud:
        assert (await cloud.call("GET", "/v3/auth/projects", token=between)).status == 200
        assert (await cloud.as_admin("DELETE", "/v3/auth/tokens", X_Subject_Token=between)).status == 204
        assert (await cloud.call("GET", "/v3/auth/projects", token=between)).status == 401


@pytest.mark.parametrize(("held", "replaced", "now_us", "becomes"), [
    (7, 0, 1_000, 1_000), (7, 9, 1_000, 1_000), (7, 2_000, 1_000, 2_000 + RESTORE_SKIP), (2_000, 9, 1_000, 2_000 + RESTORE_SKIP)])
async def test_the_counter_never_goes_back_whatever_the_clock_says(make_cloud, held, replaced, now_us, becomes):
    def skip(connection):
        connection.execute(update(counter).values(value=held))
        skip_counter(connection, replaced, now_us)
        return find_counter(connection)

    async with make_cloud() as cloud:
        assert await cloud.state.database.run(skip) == becomes


async def test_a_database_is_copied_as_it_was_at_one_moment_while_others_write(make_cloud, identity_url, other_url, tmp_path):
    """Writers add a region and a tag in one transaction, so there are as many of the one as of the other."""
    loaded, stop = configure(tmp_path / "holdfast.toml", identity_url), threading.Event()
    async with make_cloud() as cloud:
        project_id = (await cloud.make("project", name="many"))["id"]
        before = len((await cloud.as_admin("GET", "/v3/regions")).body["regions"])
        numbers = iter(range(100_000))

        def add(connection):
            number = next(numbers)
            connection.execute(insert(region).values(id=f"r{number}", description="", extra={}))
            connection.execute(insert(project_tag).values(project_id=project_id, tag=f"t{number}"))

        async def write():
            while not stop.is_set():
                await cloud.state.database.run(add)

        await asyncio.to_thread(make_node_state, tmp_path / "state", loaded.value)
        writing = asyncio.create_task(write())
        results = [await asyncio.to_thread(back_up, loaded, tmp_path / "state", tmp_path / f"b{n}.tar") for n in range(3)]
        stop.set()
        await writing
        written = next(numbers)
    counts = [row["databases"][0]["tables"] for row in results]
    assert all(count["region"] - before == count["project_tag"] for count in counts)
    assert 0 < counts[-1]["project_tag"] < written and counts[0]["project_tag"] < counts[-1]["project_tag"]
    other = configure(tmp_path / "other.toml", other_url)
    await asyncio.to_thread(restore, tmp_path / "b2.tar", tmp_path / "elsewhere", other)
    database = open_database(other.value.identity, tmp_path / "elsewhere")
    with database.engine.connect() as connection:
        tags = connection.execute(select(func.count()).select_from(project_tag)).scalar_one()
        regions = connection.execute(select(func.count()).select_from(region)).scalar_one()
    database.close()
    assert (tags, regions - before) == (counts[-1]["project_tag"],) * 2


def test_keys_that_are_rotated_while_they_are_read_are_read_again(tmp_path, monkeypatch):
    source = tmp_path / "keys"
    source.mkdir()
    for name in "012":
        (source / name).write_text(name)
    copied, copy_file = [], backup._copy_file

    def rotating(one, target):
        copy_file(one, target)
        copied.append(one.name)
        if len(copied) == 2:                             # as identity.keys.KeySet.rotate does
            (source / "3").write_text("0")
            (source / "0").unlink()
            (source / "0").write_text("new")
            (source / "1").unlink()

    monkeypatch.setattr(backup, "_copy_file", rotating)
    copy_tree(source, tmp_path / "copy")
    assert files_below(tmp_path / "copy") == files_below(source) == {"0": b"new", "2": b"2", "3": b"0"}


def test_a_directory_that_never_stands_still_is_told_of(tmp_path, monkeypatch):
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/0").write_text("0")
    copy_file = backup._copy_file

    def changing(one, target):
        copy_file(one, target)
        one.write_text(one.read_text() + "x")

    monkeypatch.setattr(backup, "_copy_file", changing)
    with pytest.raises(BackupFailed, match="goes on changing"):
        copy_tree(tmp_path / "keys", tmp_path / "copy")


# refused

def test_damage_anywhere_is_found_named_and_not_restored(node, tmp_path):
    whole = node.archive.read_bytes()
    with tarfile.open(node.archive, "r:") as tar:
        members = [(member.name, member.offset_data, member.size) for member in tar if member.size]
    assert len(members) > 10
    for name, start, size in members:
        for place in (start, start + size // 2, start + size - 1):
            damaged = bytearray(whole)
            damaged[place] ^= 1
            node.archive.write_bytes(damaged)
            with pytest.raises(Corruption) as caught:
                restore(node.archive, tmp_path / "elsewhere", node.loaded)
            assert name in str(caught.value), name
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("part", [0, 100, 0.1, 0.5, 0.99])
def test_an_archive_that_is_cut_short_is_refused(node, part):
    whole = node.archive.read_bytes()
    end_bytes = 10_240                                   # a tar ends with zeros, which nobody misses
    node.archive.write_bytes(whole[:int(part * (len(whole) - end_bytes)) if part < 1 else int(part)])
    with pytest.raises(Corruption):
        verify_backup(node.archive)


def test_files_that_are_missing_added_or_swapped_are_named(node, tmp_path):
    back_up(node.loaded, node.root, tmp_path / "b")
    names = DirectoryArchive(tmp_path / "b").names()
    key = next(name for name in names if "token-keys" in name)
    (tmp_path / "b" / key).rename(tmp_path / "b/state/secrets/extra")
    with pytest.raises(Corruption) as caught:
        verify_backup(tmp_path / "b")
    assert f"{key} is missing" in caught.value.fields["problems"]
    assert "state/secrets/extra does not belong to the backup" in caught.value.fields["problems"]


@pytest.mark.parametrize("kind", ["link", "dangling", "link to a directory", "pipe", "link instead of a file"])
def test_what_is_no_plain_file_is_refused_in_a_directory(node, tmp_path, kind):
    back_up(node.loaded, node.root, tmp_path / "b")
    verify_backup(tmp_path / "b")
    added = tmp_path / "b/state/secrets/extra"
    if kind == "pipe":
        os.mkfifo(added)
    elif kind == "link instead of a file":
        added = tmp_path / "b/state/cluster.json"
        added.rename(tmp_path / "elsewhere")
        added.symlink_to(tmp_path / "elsewhere")
    else:
        added.symlink_to({"link": "/etc/hostname", "dangling": "nowhere", "link to a directory": "/etc"}[kind])
    with pytest.raises(Corruption, match="does not belong to the backup"):
        verify_backup(tmp_path / "b")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, "twice"])
def test_what_is_no_plain_file_or_is_there_twice_is_refused_in_an_archive(node, kind):
    verify_backup(node.archive)
    with tarfile.open(node.archive, "a:") as tar:
        member = tarfile.TarInfo("state/cluster.json" if kind == "twice" else "state/secrets/extra")
        if kind != "twice":
            member.type, member.linkname = kind, "state/cluster.json"
        tar.addfile(member)
    with pytest.raises(Corruption, match="does not belong to the backup"):
        verify_backup(node.archive)


def test_a_manifest_that_leads_out_of_the_archive_is_refused(node, tmp_path):
    back_up(node.loaded, node.root, tmp_path / "b")
    stored = json.loads((tmp_path / "b" / MANIFEST).read_text())
    stored["body"]["files"][0]["path"] = "state/../../outside"
    stored["sha256"] = _digest(io.BytesIO(_canonical(stored["body"])))[1]
    (tmp_path / "b" / MANIFEST).write_text(json.dumps(stored))
    with pytest.raises(Corruption, match="no name of a file in a backup"):
        verify_backup(tmp_path / "b")


@pytest.mark.parametrize("name", [
    "state/secrets/a/b", "secrets/a", "state/run/x", "run/x", "state/cluster.json/x", "state/control/identity.sqlite",
    "state/devices/d1/x",
    "state/secrets/token-keys/evil", "state/rings/x", "config/other.toml", "databases/identity/../../x", "state/secrets/..",
    "/etc/x", "state/holdfast.restored.toml", "databases/x", "state/secrets/.", "state/secrets/", ""])
def test_a_file_that_no_backup_has_is_refused_though_the_manifest_names_it(node, tmp_path, name):
    back_up(node.loaded, node.root, tmp_path / "b")
    assert not is_ours(name)
    stored = json.loads((tmp_path / "b" / MANIFEST).read_text())
    stored["body"]["files"].append({"path": name, "size_bytes": 0, "sha256": _digest(io.BytesIO(b""))[1], "mode": 0o600})
    stored["sha256"] = _digest(io.BytesIO(_canonical(stored["body"])))[1]
    (tmp_path / "b" / MANIFEST).write_text(json.dumps(stored))
    with pytest.raises(Corruption, match="no name of a file in a backup"):
        restore(tmp_path / "b", tmp_path / "elsewhere", node.loaded, is_dry_run=True)


def test_keys_that_an_operator_put_beside_ours_are_backed_up_and_directories_are_told_of(node, tmp_path):
    (node.root / "secrets/bob's.key").write_text("k")
    (node.root / "secrets/old").mkdir()
    (node.root / "secrets/old/bob.key").write_text("k")
    result = back_up(node.loaded, node.root, tmp_path / "b.tar")
    names = set(verify_backup(tmp_path / "b.tar").files)
    assert "state/secrets/bob's.key" in names and not any("/old/" in name for name in names)
    assert any("secrets/old/bob.key is not part of the backup" in note for note in result["notes"])


def test_a_database_that_is_not_what_the_manifest_says_is_found(node, tmp_path):
    target = tmp_path / "x.sqlite"
    shutil.copy(node.root / "control/identity.sqlite", target)
    assert check_sqlite(target).tables["role"] > 0
    with closing(sqlite3.connect(target)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET rootpage = 3 WHERE name = 'role'")
        connection.commit()
    with pytest.raises(Corruption):
        check_sqlite(target)


@pytest.mark.parametrize("data", [b"", b"no archive at all", b"\0" * 20_480])
def test_what_is_no_archive_is_refused(tmp_path, data):
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(Corruption):
        verify_backup(tmp_path / "x.tar")
    with pytest.raises(NotFound):
        open_archive(tmp_path / "nothing.tar")


def test_a_backup_overwrites_nothing_and_leaves_nothing_when_it_fails(node, tmp_path, monkeypatch):
    before = node.archive.read_bytes()
    with pytest.raises(Conflict):
        back_up(node.loaded, node.root, node.archive)
    monkeypatch.setattr(backup, "write_manifest", lambda root, body: (_ for _ in ()).throw(BackupFailed(reason="no space")))
    with pytest.raises(BackupFailed):
        back_up(node.loaded, node.root, tmp_path / "second.tar")
    assert node.archive.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.tar", "holdfast.toml", "state"]
    with pytest.raises(NotFound):
        back_up(node.loaded, tmp_path / "nowhere", tmp_path / "third.tar")


def test_a_node_that_is_there_is_not_overwritten_unless_told_and_then_set_aside(node):
    keys = files_below(node.root / "secrets")
    (node.root / "secrets/token.key").write_text("another one")
    with pytest.raises(Conflict, match="holds a node already"):
        restore(node.archive, node.root, node.loaded)
    result = restore(node.archive, node.root, node.loaded, replaces=True)
    assert files_below(node.root / "secrets") == keys and (node.root / "devices").exists()
    (aside,) = node.root.glob("holdfast.replaced-*")
    assert (aside / "secrets/token.key").read_text() == "another one" and "cluster.json" in result["replaced"]
    assert load_state(node.root) is not None


def test_a_backup_of_another_cluster_is_refused_even_then(node, tmp_path):
    make_node_state(tmp_path / "other", node.loaded.value)
    with pytest.raises(Conflict, match="foreign"):
        restore(node.archive, tmp_path / "other", node.loaded, replaces=True)


def test_a_running_node_is_not_replaced(node):
    pid = os.fork()
    if pid == 0:                                         # the lock is of a process, so another one has to have it
        (node.root / "run").mkdir(exist_ok=True)
        lock_state(node.root)
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.waitpid(pid, os.WUNTRACED)
    try:
        with pytest.raises(Conflict, match="a node runs"):
            restore(node.archive, node.root, node.loaded, replaces=True)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_dry_run_checks_everything_and_changes_nothing(node, tmp_path):
    result = restore(node.archive, tmp_path / "elsewhere", node.loaded, is_dry_run=True)
    assert result["is_dry_run"] and result["files"] > 5 and not (tmp_path / "elsewhere").exists()
    before = files_below(node.root)
    restore(node.archive, node.root, node.loaded, is_dry_run=True, replaces=True)
    assert files_below(node.root) == before


@pytest.mark.needs_postgresql
def test_a_postgresql_database_that_is_not_empty_is_refused_unless_told(tmp_path, template, postgres_content):
    postgres_content.put_back()
    root, loaded = tmp_path / "state", configure(tmp_path / "holdfast.toml", postgres_content.url)
    shutil.copytree(template, root)
    make_node_state(root, loaded.value)
    back_up(loaded, root, tmp_path / "b.tar")
    with pytest.raises(Conflict, match="has tables already"):
        restore(tmp_path / "b.tar", tmp_path / "elsewhere", loaded)
    with pytest.raises(ConfigError, match="of that kind"):
        restore(tmp_path / "b.tar", tmp_path / "elsewhere", configure(tmp_path / "other.toml"))
    restore(tmp_path / "b.tar", tmp_path / "elsewhere", loaded, replaces=True)
    assert load_state(tmp_path / "elsewhere") is not None
