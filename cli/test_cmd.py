"""`holdfast test [all] [-- pytest arguments]`: ruff, mypy --strict, then every test in two workers.

Tests that need mounts or namespaces (marker `needs_root`) run with all others for root, under `unshare -Urnm` where users may have
namespaces, and are otherwise listed at the end as "not run: needs root". Without arguments for pytest all stages run; with
them only pytest does.
"""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
_TARGETS = ("common", "ring", "object", "container", "account", "proxy", "control", "identity", "node", "cli", "tests", "tools",
            "bench")
_USAGE = """\
Usage: holdfast test [all] [-- PYTEST ARGUMENTS]

  holdfast test                         lint, types, all tests that fit into a coffee break
  holdfast test all                     also the long ones (marker all_only) and more examples per property
  holdfast test -- tests/unit/ring -q   pytest alone, on what you name
"""
_UNSHARE = ("unshare", "-Urnm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One command of the run."""

    name: str
    command: tuple[str, ...]
    is_empty_fine: bool = False                # pytest's exit code 5: no test matched


def main(argv: list[str]) -> int:
    """Run the stages in order, all of them even if one fails; returns 0 if none did, 2 for a command line it cannot read."""
    head, extra = (argv[:argv.index("--")], argv[argv.index("--") + 1:]) if "--" in argv else (argv, [])
    if "--help" in head or "-h" in head:
        print(_USAGE, end="")
        return 0
    if [word for word in head if word != "all"]:
        print(_USAGE, end="", file=sys.stderr)
        return 2
    if not (ROOT / "tests").is_dir():
        print("holdfast test: this is an installed copy without tests; run it in a checkout", file=sys.stderr)
        return 1
    return run_stages(plan_stages(extra, can_mount=can_mount(), can_unshare=can_unshare()), is_all="all" in head)


def plan_stages(extra: list[str], *, can_mount: bool, can_unshare: bool) -> list[Stage]:
    """What to run: with arguments for pytest only pytest; in namespaces of their own what would otherwise need root."""
    python = sys.executable
    targets = tuple(name for name in _TARGETS if (ROOT / name).is_dir())
    pytest = (python, "-m", "pytest", *_workers(extra), *(extra or ["-q"]))
    stages = [] if extra else [Stage(name="ruff", command=(python, "-m", "ruff", "check", *targets)),
                               Stage(name="mypy", command=(python, "-m", "mypy"))]
    if can_mount:                              # a mount namespace of its own: what a killed test has mounted goes with it
        return [*stages, Stage(name="pytest", command=("unshare", "-m", *pytest))]
    if not can_unshare:
        return [*stages, Stage(name="pytest", command=pytest)]
    apart = Stage(name="pytest in namespaces", command=(*_UNSHARE, *pytest, "-m", "needs_root"), is_empty_fine=True)
    return [*stages, apart, Stage(name="pytest", command=(*pytest, "-m", "not needs_root"), is_empty_fine=True)]


def _workers(extra: list[str]) -> list[str]:
    """Two workers, a file of tests stays in one; not if the caller decides, or wants a debugger."""
    is_decided = any(word.startswith(("-n", "--numprocesses", "--pdb", "--dist")) for word in extra)
    return [] if is_decided else ["-n", "2", "--dist", "loadfile"]


def run_stages(stages: list[Stage], *, is_all: bool) -> int:
    """Run each stage and say how long it took."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "HOLDFAST_TEST_ALL": "1" if is_all else ""}
    failed, times = [], []
    for stage in stages:
        print(f"== {stage.name}", flush=True)
        begin_s = time.perf_counter()
        code = subprocess.run(stage.command, cwd=ROOT, env=environ, check=False).returncode
        spent_s = time.perf_counter() - begin_s
        is_good = code == 0 or (code == 5 and stage.is_empty_fine)
        times.append(f"{stage.name} {'ok' if is_good else 'FAILED'} {spent_s:.1f} s")
        if not is_good:
            failed.append(stage.name)
    print("== " + ", ".join(times), flush=True)
    return 1 if failed else 0


def can_mount() -> bool:
    """True for a root that may make mount namespaces, which root of a container may not."""
    return os.geteuid() == 0 and _succeeds(("unshare", "-nm"))


def can_unshare() -> bool:
    """True if this user may have namespaces of its own."""
    return _succeeds(_UNSHARE)


def _succeeds(command: tuple[str, ...]) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run([*command, "true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0
