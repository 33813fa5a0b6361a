"""The register protocol over the shipped coordinator and replica: no violation, and every planted mistake is found."""
from __future__ import annotations

import importlib.util
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PLANTS = sorted((HERE / "plants").glob("*.patch"))
SEEDS = json.loads((HERE / "plants" / "seeds.json").read_text())
SCHEDULES, CHUNKS = 20_000, 4
SEARCH_RUNS = 200_000


def run_simulation(root: Path, *, first_seed: int, runs: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "tests/sim/register_sim.py"), "--stop-at-first",
               "--first-seed", str(first_seed), "--runs", str(runs)]
    return subprocess.run(command, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False)


@pytest.fixture
def planted(tmp_path):
    """A copy of the code under test with one mistake planted in it."""
    def plant(patch: Path) -> Path:
        for package in ("common", "object", "proxy", "tests/sim"):
            shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run(["git", "apply", "--unsafe-paths", "--directory", str(tmp_path), str(patch)],
                       cwd=tmp_path, check=True)
        return tmp_path
    return plant


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_schedules_are_linearizable_and_forget_nothing(chunk):
    spec = importlib.util.spec_from_file_location("register_sim", HERE / "register_sim.py")
    sim = importlib.util.module_from_spec(spec)
    sys.modules["register_sim"] = sim
    spec.loader.exec_module(sim)
    first = chunk * SCHEDULES // CHUNKS
    outcomes = set()
    for seed in range(first, first + SCHEDULES // CHUNKS):
        assert sim.check(seed) is None, f"seed {seed}"
        if seed % 100 == 0:
            outcomes |= {(op.kind, op.outcome) for op in sim.Sim(seed).run()}
    assert {("w", "done"), ("r", "read"), ("c", "done"), ("c", "refused"), ("c", None)} <= outcomes


def test_every_plant_has_a_seed():
    assert sorted(SEEDS) == [patch.stem for patch in PLANTS]
    assert {name[0] for name in SEEDS} == set("12345678")


@pytest.mark.parametrize("patch", PLANTS, ids=lambda p: p.stem)
def test_stored_seed_shows_the_planted_mistake(planted, patch):
    seed = SEEDS[patch.stem]
    assert run_simulation(ROOT, first_seed=seed, runs=1).returncode == 0
    found = run_simulation(planted(patch), first_seed=seed, runs=1)
    assert found.returncode == 1, found.stdout + found.stderr
    assert f"seed {seed}:" in found.stdout


@pytest.mark.all_only
@pytest.mark.parametrize("patch", PLANTS, ids=lambda p: p.stem)
def test_fresh_search_finds_the_planted_mistake(planted, patch):
    first = random.SystemRandom().randrange(10**9)
    found = run_simulation(planted(patch), first_seed=first, runs=SEARCH_RUNS)
    assert found.returncode == 1, f"not found in {SEARCH_RUNS} schedules from seed {first}"
    assert "seed" in found.stdout
