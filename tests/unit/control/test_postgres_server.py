"""The tests' own PostgreSQL: an unprivileged server that ends, and a missing one that is counted and never passes."""
from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import conftest, postgres
from tests.postgres import NEEDS_POSTGRESQL, PostgresServer, find_programs


@pytest.mark.needs_postgresql
def test_the_server_is_nobody_special_has_no_port_and_leaves_nothing(postgres_server):
    server = PostgresServer(find_programs())
    server.start()
    pid, root = server._process.pid, server.root
    try:
        assert Path(f"/proc/{pid}").stat().st_uid != 0 or os.geteuid() != 0
        assert list(root.glob(".s.PGSQL.*")) and (root / "data/postmaster.pid").read_text().splitlines()[5].strip() == ""
    finally:
        server.stop()
    assert not root.exists() and not Path(f"/proc/{pid}").exists()


def test_a_test_without_its_server_is_counted_as_not_run(monkeypatch):
    lines = []
    skip = SimpleNamespace(nodeid="tests/x.py::test_y", longrepr=("x.py", 1, f"Skipped: {NEEDS_POSTGRESQL}"))
    conftest.pytest_terminal_summary(SimpleNamespace(stats={"skipped": [skip]}, write_line=lines.append))
    assert "not run: needs postgresql: 1" in lines and "not run: needs root: 0" in lines
    marked = []

    class Item:
        add_marker = staticmethod(marked.append)
        get_closest_marker = staticmethod(lambda name: name == "needs_postgresql")

    monkeypatch.setattr(conftest, "can_have_postgresql", lambda: False)
    conftest.pytest_collection_modifyitems(SimpleNamespace(hook=SimpleNamespace(pytest_deselected=lambda items: None)), [Item()])
    assert [mark.kwargs["reason"] for mark in marked] == [NEEDS_POSTGRESQL]


def test_only_root_installs_and_a_failed_installation_says_why(monkeypatch, tmp_path):
    monkeypatch.setattr(postgres, "find_programs", lambda: None)
    monkeypatch.setattr(postgres.os, "geteuid", lambda: 1000)
    assert not postgres.can_have_postgresql() and "not root" in str(postgres.install())
