"""`holdfast bench` on a real node, and on a store that lies: figures, checks, exit codes, nothing left behind."""
from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.bodies import VARIANT_COUNT, VARIANT_STEP, Bodies
from bench.build import cache_dir
from bench.generator import make_generator
from bench.job import Job, Op
from tests.e2e.fake_store import fake_store

ROOT = Path(__file__).parents[2]
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.fixture(scope="module", autouse=True)
def _one_cache(tmp_path_factory):
    """The load generator is compiled once for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "key"
    path.write_text("secret")
    path.chmod(0o600)
    return path


def bench(*arguments, cwd, **environ):
    """The command, to its end; no configuration of this machine is in its way."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    return subprocess.run([sys.executable, "-m", "cli", "bench", *map(str, arguments)], cwd=cwd, text=True, capture_output=True,
                          env={**clean, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "HOME": str(cwd), **environ},
                          timeout=300, check=False)


def bench_fake(fault, workloads, key_file, *arguments, **environ):
    with fake_store(fault) as (url, objects):
        done = bench("--endpoint", url, "--user", "demo:demo", "--key-file", key_file, "--workloads", workloads, "--seconds", "0.1",
                     "--names", "1100", "--objects", "100", *arguments, cwd=key_file.parent, **environ)
        return done, dict(objects)


def command_lines():
    """Of all processes that are there now."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield path.read_bytes().decode(errors="replace")


# a real node

def test_every_verb_is_measured_checked_and_cleaned_up(cluster):
    words = "put4k:8,get4k:8,head4k:4,mixed4k:4,list:2,put1m:2,get1m:2,delete4k:8"
    done = bench("--data", cluster.root, "--seconds", "0.15", "--names", "1100", "--objects", "200", "--workloads", words, "--json",
                 cwd=cluster.root.parent)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    document = json.loads(done.stdout)
    assert [row["workload"] for row in document["results"]] == words.split(",")
    for row in document["results"]:
        assert row["errors"] == 0 and row["checks"] > 0 and row["failed_checks"] == [], row
        assert row["rate"] > 0 and 0 < row["p50_ms"] <= row["p99_ms"] <= row["max_ms"], row
        assert row["cpu_us_per_op"] >= 0 and row["rss_bytes_max"] > row["pss_bytes"] > 0, row
    assert sum(row["cpu_us_per_op"] for row in document["results"]) > 0
    assert {op["method"] for op in document["results"][3]["ops"]} == {"GET", "PUT"}
    client = cluster.login()
    assert client.call("GET", "") in ((200, b""), (204, b""))


def test_people_get_a_table_and_the_key_of_a_file_will_do(cluster, tmp_path):
    demo = cluster.endpoint["demo"]
    key = tmp_path / "key"
    key.write_text(demo["key"])
    key.chmod(0o600)
    done = bench("--endpoint", cluster.endpoint["urls"]["auth"], "--user", demo["user"], "--key-file", key,
                 "--workloads", "put4k:2", "--seconds", "0.2", cwd=tmp_path)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    head, row = done.stdout.splitlines()[:2]
    assert head.split()[0] == "workload" and row.split()[0] == "put4k:2"
    assert demo["key"] not in done.stdout + done.stderr


def test_without_a_compiler_it_measures_with_python_and_says_so(cluster, tmp_path):
    done = bench("--data", cluster.root, "--seconds", "0.1", "--objects", "100", "--workloads", "put4k:4,get4k:4",
                 cwd=tmp_path, PATH=str(tmp_path))
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert "client-bound" in done.stdout and "no C compiler" in done.stdout


def test_a_broken_off_run_leaves_nothing_behind(cluster, tmp_path):
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "cli", "bench", "--data", str(cluster.root), "--workloads", "put4k:4", "--seconds", "60"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        assert "put4k:4" in running.stderr.readline()
        client = cluster.login()
        rows: list[str] = []
        while not (rows and client.call("GET", f"/{rows[0]}?limit=1")[1]):
            assert running.poll() is None
            rows = client.call("GET", "?prefix=holdfast-bench")[1].decode().split()
        running.send_signal(signal.SIGTERM)
        running.stderr.read()
    assert running.returncode == 130
    assert client.call("GET", "?prefix=holdfast-bench")[1] == b""


# a store that lies

GENERATORS = [pytest.param("c", marks=needs_cc), "python"]


@pytest.mark.parametrize("generator", GENERATORS)
def test_a_store_that_tells_the_truth_is_good(key_file, generator):
    done, left = bench_fake("", "put4k:4,get4k:4,head4k:2,mixed4k:4,list:2,delete4k:4", key_file, "--generator", generator)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert "failed" not in done.stdout and "error:" not in done.stdout
    assert left == {}


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize(("fault", "workloads", "said"), [
    ("wrong byte", "get4k:4", "other bytes than were written"),
    ("other object", "get4k:4", "other bytes than were written"),
    ("short", "get4k:4", "wrong lengths"),
    ("short", "head4k:4", "wrong lengths"),
    ("cut", "get4k:4", "wrong lengths"),
    ("unavailable", "put4k:4", "answers 503"),
])
def test_a_fault_planted_in_the_answers_of_a_window_is_found(key_file, generator, fault, workloads, said):
    done, _ = bench_fake(fault, workloads, key_file, "--generator", generator)
    assert said in done.stdout, f"{done.stdout}{done.stderr}"
    assert done.returncode == 1


@pytest.mark.parametrize(("fault", "workloads", "said"), [
    ("wrong byte", "put4k:4", "other bytes than were written"),
    ("wrong etag", "put4k:4", "HEAD answered the ETag '000"),
    ("forgets", "put4k:4", "answered 404"),
    ("unlisted", "put4k:4", "is not listed"),
    ("lost row", "list:2", "the listing misses 11 of 1100 names, the first is o-0000000077"),
    ("doubled row", "list:2", "names twice or out of order"),
    ("keeps", "delete4k:4", "was deleted, and a GET answered 200"),
    ("unavailable", "get4k:4", "answers 503"),
])
def test_a_fault_planted_in_what_is_stored_and_listed_is_found(key_file, fault, workloads, said):
    done, _ = bench_fake(fault, workloads, key_file)
    assert said in done.stdout, f"{done.stdout}{done.stderr}"
    assert done.returncode == 1


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize(("fault", "is_wrong"), [("", False), ("wrong byte", True), ("other object", True)])
@pytest.mark.parametrize("size", [4096, 300_000])
def test_every_byte_of_a_compared_answer_counts(generator, fault, is_wrong, size):
    bodies = Bodies()
    with fake_store(fault) as (url, objects):
        objects["c"] = {f"o-{number:010d}": bytes(bodies.find_body(size, number)) for number in range(20)}
        job = Job(address="127.0.0.1", port=int(url.rsplit(":", 1)[1]), host="x", token="t", connections=2, seconds=60,
                  check_every=1, is_drained=1, ops=(Op(method="GET", prefix="/v1/AUTH_demo/c/o-", first=1, count=19),),
                  body_bytes=size, body_fd=bodies.find_fd(size), variant_count=VARIANT_COUNT, variant_step=VARIANT_STEP)
        result = make_generator(os.environ, generator).run(job)
    assert (result.checked, result.wrong_body, result.ok) == (19, 19 if is_wrong else 0, 0 if is_wrong else 19)


@pytest.mark.parametrize("generator", GENERATORS)
def test_large_and_small_bodies_arrive_as_they_were_sent(generator):
    for size in (0, 1, 4096, 300_000, 3_000_000):
        bodies = Bodies()
        with fake_store() as (url, objects):
            objects["c"] = {}
            job = Job(address="127.0.0.1", port=int(url.rsplit(":", 1)[1]), host="x", token="t", connections=3, seconds=60,
                      is_drained=1, ops=(Op(method="PUT", prefix="/v1/AUTH_demo/c/o-", first=3, count=7),), body_bytes=size,
                      body_fd=bodies.find_fd(size), variant_count=VARIANT_COUNT, variant_step=VARIANT_STEP)
            result = make_generator(os.environ, generator).run(job)
            assert result.ok == 7, result
            assert objects["c"] == {f"o-{number:010d}": bodies.find_body(size, number) for number in range(3, 10)}


@pytest.mark.parametrize("generator", GENERATORS)
def test_a_server_that_is_gone_is_an_error_and_not_a_hang(generator):
    job = Job(address="127.0.0.1", port=1, host="x", token="t", ops=(Op(method="GET", prefix="/o", order="random", count=1),),
              connections=4, seconds=3600)
    result = make_generator(os.environ, generator).run(job)
    assert result.ok == 0 and result.broken >= 1000 and result.failed == result.broken


# command lines

@pytest.mark.parametrize(("arguments", "code", "said"), [
    (("--data", "nowhere"), 1, "no node runs in"),
    (("--endpoint", "http://127.0.0.1:1"), 1, "--key-file"),
    (("--endpoint", "https://127.0.0.1:1", "--user", "a:b", "--key-file", "key"), 1, "only http"),
    (("--endpoint", "http://127.0.0.1:1", "--user", "a:b", "--key-file", "key"), 1, "127.0.0.1:1"),
    (("--workloads", "putt4k"), 1, "did you mean 'put4k'"),
    (("--seconds", "0"), 2, "--seconds"),
    (("compaer", "a", "b"), 2, "did you mean 'compare'"),
    (("compare", "no-such-commit", "HEAD"), 1, "no-such-commit"),
])
def test_a_command_line_that_cannot_work_says_why(key_file, arguments, code, said):
    done = bench(*arguments, cwd=key_file.parent)
    assert said in done.stderr + done.stdout, f"{done.stdout}{done.stderr}"
    assert done.returncode == code


def test_two_commits_are_compared_pair_by_pair_and_all_of_it_goes_away(tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    done = bench("compare", ".", "HEAD", "--pairs", "2", "--seconds", "0.2", "--objects", "100", "--json",
                 "--workloads", "put4k:4", cwd=tmp_path)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    document = json.loads(done.stdout)
    (row,) = document["results"]
    assert (row["workload"], len(row["pairs"]), row["is_good"]) == ("put4k:4", 2, True)
    assert row["rate"]["low"] <= row["rate"]["median"] <= row["rate"]["high"] and row["cpu"]["count"] == 2
    assert list(cache_dir(os.environ).glob("compare-*")) == []
    assert [line for line in command_lines() if str(cache_dir(os.environ)) in line] == []
