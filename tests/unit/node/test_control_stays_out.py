"""What the control plane is built on costs the gateway nothing: neither a worker nor the supervisor imports it."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HEAVY = ("sqlalchemy", "alembic", "jsonschema", "argon2", "psycopg", "yaml", "cryptography", "control.app", "identity.app",
         "identity.model")
_SHOW = "import sys, {module}; print('\\n'.join(name for name in sys.modules))"


def imported_by(module: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", _SHOW.format(module=module)], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["node.worker", "node.zygote", "node.main", "cli.main", "cli.up"])
def test_no_process_of_the_object_store_imports_the_control_plane(module):
    assert not imported_by(module) & set(HEAVY)


@pytest.mark.parametrize("module", ["node.worker", "node.zygote"])
def test_a_worker_has_one_http_server(module):
    assert "aiohttp" not in imported_by(module)


def test_the_check_finds_what_is_imported():
    assert "aiohttp" in imported_by("node.main")
    assert {"sqlalchemy", "argon2", "identity.model"} <= imported_by("node.control_main")
