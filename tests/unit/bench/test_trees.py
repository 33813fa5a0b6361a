"""Trees of commits, from a repository of our own."""
from __future__ import annotations

import subprocess
import sys

import pytest

from bench.trees import HERE, find_commit, make_tree, requirements
from common.errors import BenchFailed

PROJECT = '[project]\nname = "x"\ndependencies = [\n  "b>=2",\n  "a>=1",\n]\n'


@pytest.fixture
def repository(tmp_path):
    """Two commits: `one` and `two`, and a checkout with a change and a new file on top."""
    root = tmp_path / "repository"
    root.mkdir()

    def git(*arguments):
        subprocess.run(["git", "-C", root, "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments], check=True,
                       capture_output=True)

    git("init", "-q")
    (root / "pyproject.toml").write_text(PROJECT)
    (root / ".gitignore").write_text("ignored\n")
    for name in ("one", "two"):
        (root / "file").write_text(name)
        git("add", ".")
        git("commit", "-q", "-m", name)
        git("tag", name)
    (root / "file").write_text("changed")
    (root / "new").write_text("new")
    (root / "ignored").write_text("ignored")
    return root


@pytest.mark.parametrize(("commit", "wanted"), [
    ("one", {"file": "one"}), ("HEAD~1", {"file": "one"}), ("two", {"file": "two"}), (HERE, {"file": "changed", "new": "new"}),
])
def test_a_tree_has_the_files_of_its_commit_and_the_dot_those_of_the_checkout(repository, tmp_path, commit, wanted):
    tree = make_tree(commit, tmp_path / "a", tmp_path, say=print, root=repository)
    found = {path.name: path.read_text() for path in (tmp_path / "a/tree").iterdir()}
    assert found == {"pyproject.toml": PROJECT, ".gitignore": "ignored\n", **wanted}
    assert tree.python == sys.executable         # the same dependencies: no environment has to be made


def test_the_checkout_is_not_touched(repository, tmp_path):
    def look():
        return subprocess.run(["git", "-C", repository, "worktree", "list"], capture_output=True, check=True).stdout, sorted(
            path.name for path in repository.iterdir())

    before = look()
    make_tree("one", tmp_path / "a", tmp_path, say=print, root=repository)
    assert look() == before


@pytest.mark.parametrize("commit", ["none", "--all", "-h", "HEAD:file", ""])
def test_what_is_no_commit_is_refused(repository, commit):
    with pytest.raises(BenchFailed):
        find_commit(commit, repository)


def test_dependencies_count_and_nothing_else_of_a_project(tmp_path):
    first, second, third = (tmp_path / name for name in ("1", "2", "3"))
    first.write_text(PROJECT)
    second.write_text('[project]\nname = "y"\ndependencies = ["a>=1", "b>=2"]\n')
    third.write_text(PROJECT.replace("b>=2", "b>=3"))
    assert requirements(first) == requirements(second) != requirements(third)


def test_a_commit_without_a_project_is_refused(tmp_path):
    with pytest.raises(BenchFailed):
        requirements(tmp_path / "none")
