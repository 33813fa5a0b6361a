"""A PostgreSQL server of our own for tests: a private directory, a unix socket and no port, an unprivileged user, ended by its pid.

Debian's package is installed if it is missing and we are root. What cannot have a server is not run and counted as such.
"""
from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

NEEDS_POSTGRESQL = "needs postgresql: no server here, and none can be installed"
_VERSIONS = Path("/usr/lib/postgresql")          # where Debian has the server's programs, which are in nobody's PATH
_USER = "holdfast_test"
_INSTALL_S, _START_S, _STOP_S = 600, 60.0, 30.0
_SETTINGS = ("listen_addresses=", "fsync=off", "full_page_writes=off", "synchronous_commit=off", "shared_buffers=16MB",
             "max_connections=60", "autovacuum=off", "log_min_messages=fatal", "logging_collector=off")


def can_have_postgresql() -> bool:
    """A server is here, or may be installed."""
    return find_programs() is not None or (os.geteuid() == 0 and shutil.which("apt-get") is not None)


def find_programs() -> Path | None:
    """The directory with initdb and postgres, of the newest version; None if there is none."""
    places = [*sorted(_VERSIONS.glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)]
    if which := shutil.which("initdb"):
        places.append(Path(which).resolve().parent)
    return next((place for place in places if (place / "initdb").exists() and (place / "postgres").exists()), None)


def install() -> str | None:
    """Install Debian's package; None if a server is there now, else why not. Only the programs: no cluster, no service."""
    with open(Path(tempfile.gettempdir()) / "holdfast-install-postgresql.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)                 # the other worker of pytest comes here as well
        if find_programs() is not None:
            return None
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            return "not root, or no apt-get"
        conf = Path("/etc/postgresql-common/createcluster.conf")
        if not conf.exists():
            conf.parent.mkdir(parents=True, exist_ok=True)
            conf.write_text("create_main_cluster = false\n")
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        options = ("-o", "Dpkg::Options::=--force-confold", "-y", "--no-install-recommends")
        for command in (("apt-get", "update"), ("apt-get", "install", *options, "postgresql")):
            try:
                done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
            except subprocess.TimeoutExpired:
                return f"{' '.join(command)} did not end"
        return None if find_programs() is not None else done.stderr[-400:]


class PostgresServer:
    """One running cluster."""

    def __init__(self, programs: Path) -> None:
        self.programs = programs
        self.root = Path(tempfile.mkdtemp(prefix="holdfast-pg-"))
        self._numbers = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """initdb, then the server; returns when it answers."""
        data = self.root / "data"
        if os.geteuid() == 0:
            owner = _unprivileged()
            os.chown(self.root, owner.pw_uid, owner.pw_gid)
        self.root.chmod(0o700)
        make = self._as_user(str(self.programs / "initdb"), "-D", str(data), "-U", _USER, "-A", "trust", "-E", "UTF8",
                             "--locale=C.UTF-8", "--no-sync")
        done = subprocess.run(make, capture_output=True, text=True, cwd="/", check=False)
        assert done.returncode == 0, done.stderr
        options = [word for setting in (*_SETTINGS, f"unix_socket_directories={self.root}") for word in ("-c", setting)]
        with (self.root / "log").open("wb") as log:
            self._process = subprocess.Popen(self._as_user(str(self.programs / "postgres"), "-D", str(data), *options), cwd="/",
                                             stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_S
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                assert self._process.poll() is None and time.monotonic() < deadline, \
                    f"{error}\n{(self.root / 'log').read_text()}"
                time.sleep(0.02)

    def _as_user(self, *command: str) -> tuple[str, ...]:
        """PostgreSQL refuses to run as root; and it ends when this process does, however that ends."""
        who = ()
        if os.geteuid() == 0:
            owner = _unprivileged()
            who = (f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups")
        return ("setpriv", *who, "--pdeathsig=INT", *command)

    def url(self, name: str) -> str:
        """Of one of its databases."""
        return f"postgresql://{_USER}@/{name}?host={self.root}"

    def create(self) -> str:
        """A new, empty database; its URL."""
        name = f"t{next(self._numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Whoever is still connected is thrown out."""
        name = url.partition("@/")[2].partition("?")[0]
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def stop(self) -> None:
        """By its pid, and nothing is left."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)     # "fast": clients are thrown out, the rest is put in order
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self.root, ignore_errors=True)


class Content:
    """The rows of a database, to be put back after a test: in milliseconds, where a new database takes a tenth of a second."""

    def __init__(self, url: str) -> None:
        """As they are now."""
        self.url = url
        with psycopg.connect(url) as connection:
            names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            self._rows = {name: _copy_out(connection, name) for (name,) in names}

    def put_back(self) -> None:
        """Nobody else may be at work in it."""
        with psycopg.connect(self.url) as connection:
            connection.execute("SET session_replication_role = replica")         # the rows fit together, in any order
            connection.execute(";".join(f'DELETE FROM "{name}"' for name in self._rows))
            for name, data in self._rows.items():
                if data:
                    with connection.cursor().copy(f'COPY "{name}" FROM STDIN') as copy:
                        copy.write(data)


def _copy_out(connection: psycopg.Connection, name: str) -> bytes:
    with connection.cursor().copy(f'COPY "{name}" TO STDOUT') as copy:
        return b"".join(bytes(piece) for piece in copy)


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise AssertionError("neither a user postgres nor nobody")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The server of this process, started when the first test wants it."""
    if find_programs() is None and (reason := install()) is not None:
        pytest.skip(f"{NEEDS_POSTGRESQL}: {reason}")
    programs = find_programs()
    assert programs is not None
    server = PostgresServer(programs)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """An empty database of one test."""
    url = postgres_server.create()
    yield url
    postgres_server.drop(url)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.needs_postgresql)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.sqlite'}"
    return str(request.getfixturevalue("postgres_url"))
