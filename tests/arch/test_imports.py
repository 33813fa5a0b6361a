"""The import picture, the one clock, and documents that name what exists; each rule also against a planted violation."""
from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tools.archcheck import PACKAGES, check_builtin_object, check_clock, check_documents, check_imports

ROOT = Path(__file__).parents[2]
CHECKS = (check_imports, check_builtin_object, check_clock, check_documents)


@pytest.mark.parametrize("check", CHECKS)
def test_this_repository_keeps_the_rule(check):
    assert check(ROOT) == []


def plant(root: Path, path: str, text: str) -> Path:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    return root


@pytest.mark.parametrize(("path", "text"), [
    ("common/x.py", "import ring.builder\n"),
    ("common/x.py", "from object.client import C\n"),
    ("common/x.py", "from node import config\n"),
    ("ring/x.py", "from proxy import app\n"),
    ("object/x.py", "from container import store\n"),
    ("object/x.py", "import container.store as s\n"),
    ("object/x.py", "from container.store.rows import Row\n"),
    ("object/x.py", "from proxy.app import App\n"),
    ("object/x.py", "from control.jobs import Job\n"),
    ("object/x.py", "def f():\n    from account.broker import B\n"),
    ("container/x.py", "import account\n"),
    ("proxy/http/x.py", "import aiohttp\n"),
    ("proxy/x.py", "from aiohttp import web\n"),
    ("proxy/x.py", "from object.journal import Journal\n"),
    ("node/x.py", "import cli.main\n"),
])
def test_an_import_away_from_the_ground_is_found(tmp_path, path, text):
    (problem,) = check_imports(plant(tmp_path, path, text))
    assert problem.startswith(f"{path}:{text.count(chr(10))}: ")


@pytest.mark.parametrize(("path", "text"), [
    ("object/x.py", "from common.errors import E\nfrom ring.placement import Ring\nfrom container.client import C\n"),
    ("object/x.py", "from object import y\n"),
    ("object/x.py", "from container import client, wire\n"),
    ("identity/x.py", "from control.jobs import Job\nfrom image.client import C\nimport aiohttp\n"),
    ("proxy/x.py", "from object.wire import W\nfrom . import y\nimport asyncio\n"),
    ("node/x.py", "from proxy.app import App\nfrom object.store import S\n"),
    ("cli/x.py", "from node.config import C\n"),
    ("tests/x.py", "from object.store import S\nfrom node import main\n"),
])
def test_an_import_towards_the_ground_or_of_a_seam_is_fine(tmp_path, path, text):
    assert check_imports(plant(tmp_path, path, text)) == []


@pytest.mark.parametrize(("text", "count"), [
    ("import object\n", 1), ("import object.store\n", 1), ("import os, object.store\n", 1), ("import object.store as store\n", 0),
    ("from object.store import S\n", 0), ("import objection\n", 0),
])
def test_rebinding_the_builtin_object_is_found_also_in_tests(tmp_path, text, count):
    assert len(check_builtin_object(plant(tmp_path, "tests/unit/x.py", text))) == count
    assert len(check_builtin_object(plant(tmp_path, "node/x.py", text))) == 2 * count


@pytest.mark.parametrize(("text", "count"), [
    ("import time\nx = time.time()\n", 1), ("import time\nread = time.monotonic\n", 1), ("from time import time_ns\n", 1),
    ("import datetime\ndatetime.datetime.now()\n", 1), ("from datetime import datetime\ndatetime.utcnow()\n", 1),
    ("import time\ntime.strftime('x')\n", 0), ("from time import gmtime\n", 0), ("self.clock.now()\n", 0), ("loop.time()\n", 0),
])
def test_a_clock_read_anywhere_but_in_its_home_is_found(tmp_path, text, count):
    assert len(check_clock(plant(tmp_path, "object/x.py", text))) == count
    (tmp_path / "object/x.py").unlink()
    assert check_clock(plant(tmp_path, "common/clock.py", text)) == []


@pytest.mark.parametrize(("word", "is_fine"), [
    ("common/x.py", True), ("common/y.py", False), ("./common/x.py", True), ("docs/none.md", False), ("src/else/where.py", True),
    ("common.x", True), ("common.y", False), ("common.x.Box", True), ("common.x.Bax", False), ("common.x.Box.size", True),
    ("common.x.Box.open", True), ("common.x.Box.lid", True), ("common.x.Box.shut", False), ("common.x.LIMIT", True),
    ("common.x.make()", True), ("object.size", False), ("X-Object-Meta", True), ("holdfast.toml", True), ("node", True),
])
def test_a_document_may_only_name_what_exists(tmp_path, word, is_fine):
    source = "LIMIT = 3\nclass Box:\n    size: int = 1\n    def open(self):\n        self.lid = 0\ndef make(): ...\n"
    plant(tmp_path, "common/x.py", source)
    problems = check_documents(plant(tmp_path, "docs/guide.md", f"# Guide\n\nSee `{word}`.\n"))
    assert problems == [] if is_fine else problems[0].startswith("docs/guide.md:3: ")


@pytest.mark.parametrize(("link", "is_fine"), [
    ("../common/x.py", True), ("guide.md#top", True), ("https://example.org/none", True), ("#top", True), ("none.md", False),
])
def test_a_relative_link_of_a_document_leads_somewhere(tmp_path, link, is_fine):
    plant(tmp_path, "common/x.py", "")
    problems = check_documents(plant(tmp_path, "docs/guide.md", f"# Guide\n\nSee [this]({link}).\n"))
    assert problems == [] if is_fine else problems[0].startswith("docs/guide.md:3: ")


def test_the_tools_are_configured_for_every_package_that_exists():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    present = {name for name in PACKAGES if (ROOT / name / "__init__.py").exists()}
    assert present <= set(project["tool"]["mypy"]["packages"])
    assert {f"{name}*" for name in present} <= set(project["tool"]["setuptools"]["packages"]["find"]["include"])
    assert project["tool"]["mypy"]["strict"] is True
    assert {"E", "F", "B", "I"} <= set(project["tool"]["ruff"]["lint"]["select"])


def test_every_top_level_folder_with_code_is_known_to_the_picture():
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert found <= set(PACKAGES)


def test_no_folder_below_tests_shadows_a_package():
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_every_dependency_has_a_lower_bound_and_a_reason():
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    start = lines.index("dependencies = [")
    listed = [line for line in lines[start:] if line.startswith('    "') and ">=" in line]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [*project["dependencies"], *(name for group in project["optional-dependencies"].values() for name in group)]
    for name in names:
        (line,) = [line for line in listed if f'"{name}"' in line]
        assert ">=" in name and len(line.split("#", 1)[-1].strip()) > 5, name
