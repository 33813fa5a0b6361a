"""What all tests share: `async def` tests, hypothesis without deadlines, long tests, tests that need root or PostgreSQL."""
from __future__ import annotations

import asyncio
import fcntl
import inspect
import os
import socket
import struct

import hypothesis
import pytest

from cli.test_cmd import can_mount
from tests.postgres import NEEDS_POSTGRESQL, can_have_postgresql, database_url, postgres_server, postgres_url

__all__ = ["database_url", "postgres_server", "postgres_url"]            # fixtures

IS_ALL = bool(os.environ.get("HOLDFAST_TEST_ALL"))
NEEDS_ROOT = "needs root: no mounts or namespaces here"

_SLOW_IS_FINE = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("quick", deadline=None, derandomize=True, suppress_health_check=_SLOW_IS_FINE)
hypothesis.settings.register_profile("all", deadline=None, max_examples=2_000, print_blob=True, suppress_health_check=_SLOW_IS_FINE)
hypothesis.settings.load_profile("all" if IS_ALL else "quick")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """An `async def` test runs in a loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


def pytest_collection_modifyitems(config, items):
    """Long tests are left out unless asked for; those that need root or PostgreSQL are skipped where they cannot have it."""
    if not IS_ALL:
        long = [item for item in items if item.get_closest_marker("all_only")]
        items[:] = [item for item in items if item not in set(long)]
        config.hook.pytest_deselected(items=long)
    needing = [item for item in items if item.get_closest_marker("needs_root")]
    if needing and not can_mount():
        for item in needing:
            item.add_marker(pytest.mark.skip(reason=NEEDS_ROOT))
    needing = [item for item in items if item.get_closest_marker("needs_postgresql")]
    if needing and not can_have_postgresql():
        for item in needing:
            item.add_marker(pytest.mark.skip(reason=NEEDS_POSTGRESQL))


def pytest_terminal_summary(terminalreporter):
    """The numbers that continuous integration looks at, and the names behind them."""
    skipped = terminalreporter.stats.get("skipped", [])
    for what, reason in (("root", NEEDS_ROOT), ("postgresql", NEEDS_POSTGRESQL)):
        names = [report.nodeid for report in skipped if reason in str(report.longrepr)]
        for name in names:
            terminalreporter.write_line(f"  {name}")
        terminalreporter.write_line(f"not run: needs {what}: {len(names)}")


@pytest.fixture(scope="session", autouse=True)
def _loopback_is_up():
    """A network namespace of our own begins with its loopback interface down."""
    if os.geteuid() == 0:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            name = struct.pack("16sH14x", b"lo", 0)
            flags = struct.unpack("16sH14x", fcntl.ioctl(sock, 0x8913, name))[1]                       # SIOCGIFFLAGS
            if not flags & 1:
                fcntl.ioctl(sock, 0x8914, struct.pack("16sH14x", b"lo", flags | 1))                     # SIOCSIFFLAGS, IFF_UP
