"""Install and uninstall below a directory: what is there afterwards, what a second run changes, what is never removed."""
import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from cli import environment, unit
from cli import install as install_module
from cli.environment import check_python, find_parts
from cli.install import Place, find_writable, install, make_config
from cli.uninstall import check_purge, is_agreed, uninstall
from common.config import build_config
from common.configfile import parse_config_text
from common.errors import ConfigError, Conflict
from node.config import HoldfastConfig
from node.files import lock_state

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the packages that nobody changes meanwhile."""
    place = tmp_path_factory.mktemp("source")
    for package in find_parts(ROOT).packages:
        shutil.copytree(package, place / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", place)
    return place


def make_hollow(*command):
    """In place of what an environment is made with: its folders, and no Python in it."""
    if "venv" in command:
        place = Path(command[-1])
        (place / "lib/python3.11/site-packages").mkdir(parents=True)
        (place / "bin").mkdir()
        (place / "bin/python").symlink_to("/usr/bin/python3")


@pytest.fixture
def run(real_run, monkeypatch):
    """As `real_run`, with environments that are made in milliseconds and cannot run."""
    monkeypatch.setattr(environment, "_run", make_hollow)
    monkeypatch.setattr(environment, "_copy_distribution", lambda *_: None)
    return real_run


@pytest.fixture
def real_run(source, tmp_path, monkeypatch, capsys):
    """Install (or uninstall) below tmp_path/root; what it printed."""
    monkeypatch.setattr(install_module, "find_parts", lambda: find_parts(source))

    def run(*arguments, command=install, code=0):
        assert command(["--root", str(tmp_path / "root"), *arguments]) == code
        return capsys.readouterr().out

    return run


def tree(root):
    return {str(path.relative_to(root)): (path.lstat().st_mode, path.lstat().st_mtime_ns) for path in root.rglob("*")}


def test_installing_again_changes_nothing_and_says_so(run, tmp_path):
    first = run()
    for path in (unit.CONFIG, unit.UNIT, unit.SYSUSERS, unit.TMPFILES, unit.COMMAND):
        assert f"{tmp_path}/root{path}" in first
    before = tree(tmp_path / "root")
    assert run() == "everything was as it should be\n"
    assert tree(tmp_path / "root") == before


def test_the_installed_command_runs_from_where_it_is_put(real_run, tmp_path):
    real_run()
    command = tmp_path / "root" / "opt/holdfast/current/bin/holdfast"
    done = subprocess.run([str(command), "config", "check", "--config", str(tmp_path / "root" / "etc/holdfast/holdfast.toml")],
                          cwd="/", env={}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.endswith("good\n")
    again = subprocess.run([str(command), "install", "--root", str(tmp_path / "root")], cwd="/", env={"PATH": os.environ["PATH"]},
                           capture_output=True, text=True, check=False)
    assert (again.stdout, again.stderr) == ("everything was as it should be\n", "")
    where = subprocess.run([str(command.parent / "python"), "-P", "-c", "import cli, numpy; print(cli.__file__, numpy.__file__)"],
                           cwd="/", env={}, capture_output=True, text=True, check=True).stdout.split()
    assert all(path.startswith(str(tmp_path / "root" / "opt/holdfast")) for path in where)


def test_a_dry_run_shows_every_step_and_does_none(run, tmp_path):
    shown = run("--dry-run")
    assert not (tmp_path / "root").exists() and shown.endswith("nothing was done: --dry-run\n")
    done = run()
    would = [line.removeprefix("would ") for line in shown.splitlines() if line.startswith("would ")]
    assert would == done.splitlines()[:len(would)] and len(would) >= 10


def test_modes_keep_secrets_from_others(run, tmp_path):
    run()
    modes = {path: (tmp_path / "root" / path).stat().st_mode & 0o777
             for path in ("etc/holdfast", "etc/holdfast/holdfast.toml", "var/lib/holdfast", "etc/systemd/system/holdfast.service")}
    assert modes == {"etc/holdfast": 0o750, "etc/holdfast/holdfast.toml": 0o640, "var/lib/holdfast": 0o700,
                     "etc/systemd/system/holdfast.service": 0o644}


def test_the_configuration_of_the_operator_is_never_replaced(run, tmp_path):
    run()
    config = tmp_path / "root/etc/holdfast/holdfast.toml"
    config.write_text("[node]\nworkers = 2\n")
    run()
    assert config.read_text() == "[node]\nworkers = 2\n"


def test_an_upgrade_keeps_the_environment_before_and_can_go_back(run, source, tmp_path):
    run()
    prefix = tmp_path / "root/opt/holdfast"
    first = os.readlink(prefix / "current")
    extra = source / "cli" / "extra.py"
    try:
        for number in range(3):
            extra.write_text(f"NUMBER = {number}\n")
            before = os.readlink(prefix / "current")
            assert "make the environment" in run() and os.readlink(prefix / "previous") == before
            assert len(list((prefix / "envs").iterdir())) == 2
        assert not (prefix / first).exists()
        current = os.readlink(prefix / "current")
        run("--rollback")
        assert (os.readlink(prefix / "current"), os.readlink(prefix / "previous")) == (before, current)
    finally:
        extra.unlink()


def test_going_back_without_an_earlier_environment_is_refused(run):
    run()
    with pytest.raises(ConfigError, match="no environment to go back to"):
        run("--rollback")


@pytest.mark.parametrize("breaks", ["_copy_distribution", "_open_to_all"])
def test_an_install_that_breaks_off_leaves_the_old_environment_and_can_be_run_again(run, source, tmp_path, monkeypatch, breaks):
    run()
    current = tmp_path / "root/opt/holdfast/current"
    before = os.readlink(current)
    extra = source / "cli" / "extra.py"
    extra.write_text(f"# {breaks}\n")
    try:
        with monkeypatch.context() as broken:
            broken.setattr(environment, breaks, lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(ConfigError, match="No space left"):
                run()
        assert os.readlink(current) == before and (current / "bin/holdfast").exists()
        run()
        assert os.readlink(current) != before
    finally:
        extra.unlink()


def test_a_command_that_is_not_ours_is_neither_replaced_nor_removed(run, tmp_path):
    command = tmp_path / "root/usr/local/bin/holdfast"
    command.parent.mkdir(parents=True)
    command.write_text("mine")
    with pytest.raises(Conflict, match="move it away"):
        run()
    run(command=uninstall)
    assert command.read_text() == "mine"


def test_uninstall_removes_all_but_data_and_configuration(run, tmp_path):
    run()
    data = tmp_path / "root/var/lib/holdfast/object"
    data.write_text("data")
    assert "still there" in run(command=uninstall)
    left = sorted(str(path.relative_to(tmp_path / "root")) for path in (tmp_path / "root").rglob("*") if path.is_file())
    assert left == ["etc/holdfast/holdfast.toml", "var/lib/holdfast/object"]
    assert run(command=uninstall) == "there is nothing to remove\n"


def make_store(state):
    (state / "devices" / "d1").mkdir(parents=True, exist_ok=True)
    (state / "cluster.json").write_text(json.dumps({"cluster_id": "c0ffee"}))
    (state / "devices" / "d1" / "body").write_bytes(bytes(100_000))


def test_purge_names_what_is_lost_and_needs_a_yes(run, tmp_path, monkeypatch, capsys):
    run()
    state = tmp_path / "root/var/lib/holdfast"
    make_store(state)
    monkeypatch.setattr("sys.stdin", open(os.devnull))           # noqa: SIM115 - nobody at a terminal
    shown = run("--purge", command=uninstall, code=1)
    assert "c0ffee" in shown and "d1" in shown and "0.1 MB" in shown and (state / "cluster.json").exists()
    run("--purge", "--dry-run", command=uninstall)
    assert (state / "cluster.json").exists() and (tmp_path / "root/opt/holdfast/current").exists()
    run("--purge", "--yes", command=uninstall)
    assert not [path for path in (tmp_path / "root").rglob("*") if not path.is_dir()]


@pytest.mark.parametrize(("said", "is_yes"), [("yes", True), ("y", False), ("", False), ("no", False)])
def test_only_a_whole_yes_is_one(said, is_yes, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert is_agreed("?", ask=lambda _: said) == is_yes


def test_a_directory_that_is_no_store_is_not_purged(tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(ConfigError, match="something else"):
        check_purge(tmp_path)


def test_a_mounted_disk_is_not_purged(tmp_path, monkeypatch):
    make_store(tmp_path)
    monkeypatch.setattr(Path, "is_mount", lambda self: self.name == "d1")
    with pytest.raises(ConfigError, match="unmount"):
        check_purge(tmp_path)


def test_what_a_link_points_to_is_not_purged(run, tmp_path):
    run()
    state, elsewhere = tmp_path / "root/var/lib/holdfast", tmp_path / "disk"
    make_store(state)
    elsewhere.mkdir()
    (elsewhere / "body").write_text("data")
    (state / "devices" / "d2").symlink_to(elsewhere)
    assert str(elsewhere) in run("--purge", "--dry-run", command=uninstall)
    run("--purge", "--yes", command=uninstall)
    assert (elsewhere / "body").read_text() == "data"


def test_a_running_node_is_not_pulled_out_from_under_its_clients(run, tmp_path):
    run()
    state = tmp_path / "root/var/lib/holdfast"
    (state / "run").mkdir()
    pid = os.fork()                              # a lock of this very process would not be seen
    reading, writing = os.pipe() if pid else (0, 0)
    if pid == 0:
        lock_state(state)
        os.kill(os.getpid(), 19)
        os._exit(0)
    try:
        os.waitpid(pid, os.WUNTRACED)
        with pytest.raises(Conflict, match="stop it first"):
            run(command=uninstall)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(reading)
        os.close(writing)
    assert (tmp_path / "root/opt/holdfast/current").exists()


def test_a_user_who_may_not_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for command in (install, uninstall):
        with pytest.raises(ConfigError, match="needs root: run it with sudo"):
            command([])


@pytest.mark.parametrize("version", [(3, 10, 12), (3, 9, 2)])
def test_an_old_python_is_refused_with_what_to_do(version):
    with pytest.raises(ConfigError, match=r"needs 3\.11 or newer"):
        check_python(version)


def test_the_written_configuration_is_the_sample_with_the_state_directory():
    made = build_config(HoldfastConfig, parse_config_text(make_config(), path=Path("/etc/holdfast/holdfast.toml")))
    assert made.value.node.data == "/var/lib/holdfast"
    assert {name for name, origin in made.origins.items() if origin != "default"} == {"node.data"}
    assert tomllib.loads(make_config())["node"] == {"data": "/var/lib/holdfast"}


def test_what_the_configuration_puts_elsewhere_may_be_written(tmp_path):
    make_store(tmp_path / "state")
    (tmp_path / "disk").mkdir()
    (tmp_path / "state/devices/d2").symlink_to(tmp_path / "disk")
    text = f"[node]\ndata = '{tmp_path}/state'\n[audit]\nfile = '{tmp_path}/audit.log'\n"
    config = build_config(HoldfastConfig, parse_config_text(text, path=Path("x.toml"))).value
    found = find_writable(config)
    assert found == [tmp_path / "state", tmp_path / "disk", tmp_path]
    line = re.search(r"^ReadWritePaths=(.*)$", unit.make_unit(writable=found), re.MULTILINE)
    assert set(line[1].split()) == {"/var/lib/holdfast", *map(str, found)}


def test_a_missing_dependency_is_named(source, monkeypatch):
    def missing(name):
        raise environment.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(environment.importlib.metadata, "distribution", missing)
    with pytest.raises(ConfigError, match="not installed here"):
        find_parts(source)


def test_what_is_neither_checkout_nor_wheel_cannot_be_installed(tmp_path):
    with pytest.raises(ConfigError, match="nothing to install from"):
        find_parts(tmp_path)


def test_one_wrong_byte_makes_another_environment(source):
    before = find_parts(source).fingerprint
    extra = source / "cli" / "extra.py"
    extra.write_text("x")
    try:
        assert find_parts(source).fingerprint != before
    finally:
        extra.unlink()
    assert find_parts(source).fingerprint == before


# the unit, judged by systemd's own tool

NEEDS_ANALYZE = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def verify(text, tmp_path):
    path = tmp_path / "holdfast.service"
    path.write_text(text.replace("/opt/holdfast/current/bin/holdfast", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, check=False)
    return [line for line in done.stderr.splitlines() if "holdfast.service" in line or "holdfast.service" in done.stdout]


@NEEDS_ANALYZE
def test_systemd_reads_the_unit_without_complaint_and_would_complain(tmp_path):
    assert verify(unit.make_unit(writable=[Path("/srv/a b")]), tmp_path) == []
    assert verify(unit.make_unit().replace("ProtectSystem=strict", "ProtectSytem=strict"), tmp_path)
    assert verify(unit.make_unit().replace("Type=notify", "Type=notfiy"), tmp_path)


@NEEDS_ANALYZE
def test_the_unit_exposes_little_of_the_machine(tmp_path):
    def exposure(text):
        path = tmp_path / "etc/systemd/system/holdfast.service"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        done = subprocess.run(["systemd-analyze", "--offline=true", f"--root={tmp_path}", "security", "holdfast.service"],
                              capture_output=True, text=True, check=False)
        return float(re.search(r"exposure level for holdfast.service: ([\d.]+)", done.stdout)[1])

    assert exposure(unit.make_unit()) <= 2.0
    assert exposure(re.sub(r"(?m)^(Protect|Restrict|Private|System|NoNew|Cap|Lock).*\n", "", unit.make_unit())) > 5.0


def test_the_root_of_a_place_is_all_that_differs():
    assert Place(root=Path("/tmp/x")).at(unit.UNIT) == Path("/tmp/x/etc/systemd/system/holdfast.service")
    assert not Place(root=Path("/tmp/x")).has_systemd and not Place(root=Path("/")).is_staged
