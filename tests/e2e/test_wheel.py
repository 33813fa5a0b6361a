"""The wheel: what is in it, and that it works in an empty environment, from any directory, with our names being ours."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

import pytest

from common.version import VERSION
from tools.archcheck import PACKAGES
from tools.wheelcheck import find_conflicts

ROOT = Path(__file__).parents[2]
EXISTING = sorted(name for name in PACKAGES if (ROOT / name / "__init__.py").exists())


def run(*command: str | Path, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run to its end; nothing of this checkout is on the path of what runs."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HOLDFAST"))}
    found = subprocess.run([str(part) for part in command], cwd=cwd, env={**clean, **environ}, capture_output=True, text=True,
                           timeout=300, check=False)
    assert found.returncode == 0, f"{command}: {found.stdout}{found.stderr}"
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that the checkout gets no build folders."""
    place = tmp_path_factory.mktemp("build")
    skipped = shutil.ignore_patterns("__pycache__")
    for name in (*EXISTING, "tests", "tools"):
        shutil.copytree(ROOT / name, place / "source" / name, ignore=skipped)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place / "source")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", place, place / "source", cwd=place)
    (path,) = place.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The bin folder of an environment that holds the wheel and its dependencies, and nothing else."""
    place = tmp_path_factory.mktemp("empty")
    run(sys.executable, "-m", "venv", place / "venv", cwd=place)
    run(place / "venv/bin/python", "-m", "pip", "install", "-q", wheel, cwd=place)
    return place / "venv/bin"


def test_the_wheel_holds_the_service_packages_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert sorted({name.split("/")[0] for name in names if ".dist-info/" not in name}) == EXISTING
    source = wheel.parent / "source"
    wanted = {path.relative_to(source).as_posix() for package in EXISTING for path in (source / package).rglob("*.py")}
    assert wanted <= set(names)


def test_the_installed_command_works_from_another_directory(installed, tmp_path):
    assert run(installed / "holdfast", "version", cwd=tmp_path).stdout == f"holdfast {VERSION}\n"
    assert "node.listen" in run(installed / "holdfast", "config", "show", cwd=tmp_path, HOME=str(tmp_path)).stdout


def test_the_installed_store_comes_up_answers_and_goes_down(installed, tmp_path):
    state, environ = tmp_path / "state", {"HOME": str(tmp_path), "HOLDFAST_NODE_ADMIN_LISTEN": "127.0.0.1:0"}
    where = ("--data", str(state))
    run(installed / "holdfast", "up", "--detach", *where, "--listen", "127.0.0.1:0", cwd=tmp_path, **environ)
    try:
        endpoint = json.loads((state / "endpoint.json").read_text())
        demo = endpoint["demo"]
        login = urllib.request.Request(endpoint["urls"]["auth"], headers={"X-Auth-User": demo["user"], "X-Auth-Key": demo["key"]})
        with urllib.request.urlopen(login, timeout=60) as answer:
            assert answer.headers["X-Storage-Url"] == demo["storage_url"]
        assert run(installed / "holdfast", "status", *where, cwd=tmp_path, **environ).stdout.startswith("node ")
    finally:
        run(installed / "holdfast", "down", *where, cwd=tmp_path, **environ)


def test_no_other_distribution_provides_one_of_our_names(installed, tmp_path):
    run(installed / "python", ROOT / "tools/wheelcheck.py", *EXISTING, cwd=tmp_path)


def test_a_second_provider_of_a_name_of_ours_is_found():
    providers = {"common": ["holdfast", "other"], "ring": ["holdfast"], "node": ["holdfast", "holdfast"]}
    problems = find_conflicts(["common", "ring", "node", "cli"], providers)
    assert problems == ["cli comes from nowhere", "common comes from holdfast, other"]
