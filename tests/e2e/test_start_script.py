"""The root script over a checkout of its own with no dependencies: when it makes .venv, when it does not, what it says."""
from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "holdfast"
PROJECT = '[project]\nname = "x"\nversion = "1"\ndependencies = [{}]\n[project.optional-dependencies]\ntest = []\n'
ECHO = "import os, sys\nprint('ran', sys.argv[1:], os.getcwd(), len(os.listdir('/proc/self/fd')))\n"


class Checkout:
    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "cli").mkdir(parents=True)
        (root / "cli/__init__.py").touch()
        (root / "cli/__main__.py").write_text(ECHO)
        shutil.copy(SCRIPT, root / "holdfast")
        self.depend_on()

    def depend_on(self, *requirements: str) -> None:
        (self.root / "pyproject.toml").write_text(PROJECT.format(", ".join(f'"{name}"' for name in requirements)))

    def start(self, *arguments: str, cwd: Path | None = None, path: str | None = None):
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environ["PATH"] = path or environ["PATH"]
        return subprocess.Popen([str(self.root / "holdfast"), *arguments], cwd=cwd or self.root, env=environ, text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run(self, *arguments: str, **given) -> tuple[int, str, str]:
        process = self.start(*arguments, **given)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def pretend_ready(self) -> None:
        """An environment that is complete by its stamp, as if a start had made it."""
        (self.root / ".venv/bin").mkdir(parents=True)
        (self.root / ".venv/bin/python").symlink_to("/bin/true")
        text = subprocess.run(["cksum"], input=(self.root / "pyproject.toml").read_bytes(), capture_output=True, check=True).stdout
        (self.root / f".venv/.ready-test-{text.decode().split()[0]}").touch()

    def environments(self) -> list[str]:
        return sorted(path.name for path in self.root.glob(".venv*") if path.name != ".venv.lock")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkout after its first two starts, which came at once."""
    checkout = Checkout(tmp_path_factory.mktemp("c") / "with space")
    both = [checkout.start("up", str(number)) for number in range(2)]
    checkout.first = [(*process.communicate(timeout=120), process.returncode) for process in both]
    return checkout


def test_two_first_starts_at_once_make_one_environment_and_both_run(made):
    assert [code for *_, code in made.first] == [0, 0]
    assert sorted(out.split(" /")[0] for out, *_ in made.first) == ["ran ['up', '0']", "ran ['up', '1']"]
    assert "".join(err for _, err, _ in made.first).count("holdfast: making") == 1


def test_a_later_start_makes_nothing_and_says_nothing(made):
    before = made.environments()
    code, _, err = made.run("status")
    assert (code, err) == (0, "") and made.environments() == before


def test_the_command_runs_where_the_caller_stands_and_takes_nothing_from_there(made, tmp_path):
    (tmp_path / "cli.py").write_text("print('wrong one')")
    link = tmp_path / "hf"
    link.symlink_to(made.root / "holdfast")
    out = subprocess.run([str(link), "a b", "*"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True).stdout
    assert out.startswith(f"ran ['a b', '*'] {tmp_path} ")


def test_the_lock_is_not_left_to_the_command(made):
    made.depend_on("pip")
    code, first, _ = made.run("x")
    assert code == 0
    assert made.run("x")[1].split()[-1] == first.split()[-1]              # as many open files with a build before it as without


def test_an_environment_that_could_not_be_completed_is_never_used(made):
    made.run("x")
    before = made.environments()
    made.depend_on("x @ file:///nowhere")
    code, out, _ = made.run("x")
    assert code != 0 and out == ""
    assert made.environments() == before
    made.depend_on("pip")
    assert made.run("x")[0] == 0


def test_of_the_old_environments_only_the_last_is_kept(made):
    made.depend_on("pip>=1")
    assert made.run("x")[0] == 0
    assert len(made.environments()) == 3                                  # the link, where it points, and the one before


def test_an_environment_for_tests_is_followed_by_another_one_for_tests(tmp_path):
    checkout = Checkout(tmp_path / "c")
    assert checkout.run("test")[0] == 0
    checkout.depend_on("pip")
    assert checkout.run("up")[0] == 0
    assert [path.name.split("-")[1] for path in (checkout.root / ".venv/").glob(".ready-*")] == ["test"]


def fake_tools(folder: Path, *, user: str, without: tuple[str, ...]) -> str:
    """A PATH with everything but some commands, `id -u` as told, and an apt-get that writes down what it is asked for."""
    folder.mkdir()
    for directory in os.environ["PATH"].split(":"):
        for tool in Path(directory).glob("*") if Path(directory).is_dir() else ():
            if tool.name not in (*without, "id", "apt-get") and not (folder / tool.name).exists():
                (folder / tool.name).symlink_to(tool)
    for name, text in (("id", f"echo {user}"), ("apt-get", f'echo "$*" >> "{folder}/asked"')):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return str(folder)


def test_root_gets_missing_packages_installed(tmp_path):
    path = fake_tools(tmp_path / "bin", user="0", without=("rclone", "openssl"))
    checkout = Checkout(tmp_path / "c")
    checkout.pretend_ready()
    assert checkout.run("test", path=path)[0] == 0
    asked = (tmp_path / "bin/asked").read_text().splitlines()
    assert asked[0].endswith("update") and asked[1].endswith("install openssl rclone")


def test_others_are_told_what_to_install(tmp_path):
    path = fake_tools(tmp_path / "bin", user="1000", without=("rclone",))
    checkout = Checkout(tmp_path / "c")
    checkout.pretend_ready()
    code, _, err = checkout.run("test", path=path)
    assert code == 0 and "sudo apt-get install rclone" in err and not (tmp_path / "bin/asked").exists()


def test_without_what_the_environment_needs_the_start_stops_and_names_it(tmp_path):
    path = fake_tools(tmp_path / "bin", user="1000", without=("flock",))
    code, out, err = Checkout(tmp_path / "c").run("up", path=path)
    assert code == 1 and out == "" and "sudo apt-get install util-linux" in err
