"""What goes to a load generator and comes from it."""
from __future__ import annotations

import subprocess

import pytest

from bench.build import build_load
from bench.generator import Generator
from bench.job import RANDOM, Job, LoadResult, Op, OpResult, encode_job, encode_result, parse_job, parse_result
from common.errors import BenchFailed

JOB = Job(address="127.0.0.1", port=8080, host="localhost:8080", token="AUTH_tk1", connections=3, seconds=0.25, warmup=0.5,
          seed=2**61, body_bytes=4096, variant_count=61, variant_step=64, check_every=64,
          ops=(Op(method="GET", prefix="/v1/AUTH_a/c/o-", share=0.8, order=RANDOM, count=7),
               Op(method="PUT", prefix="/p-", share=0.2)),
          pages=((120, "/v1/AUTH_a/l?format=json&marker=a%20b"),))
OP = OpResult(method="GET", issued=9, count=7, errors=1, bytes=28672, rate=70.0, p50_ms=1.0, p99_ms=2.0, max_ms=3.5)
RESULT = LoadResult(elapsed_s=0.1, total_s=0.2, ok=8, failed=1, bytes=4096, broken=1, timeouts=0, wrong_length=0, wrong_body=2,
                    checked=1, client_cpu_s=0.01, statuses={"200": 8, "503": 1}, ops=(OP,))


def test_a_job_survives_the_pipe():
    assert parse_job(encode_job(JOB)) == JOB


def test_a_result_survives_the_pipe():
    assert parse_result(encode_result(RESULT)) == RESULT


@pytest.mark.parametrize("text", ["", "load: no", "{}", "[]", '{"ops":[{"method":"GET"}]}'])
def test_what_is_no_result_is_refused(text):
    with pytest.raises(BenchFailed):
        parse_result(text)


def test_errors_are_told_by_kind():
    assert RESULT.describe_errors() == "1 answers 503, 1 broken connections, 2 wrong bodies"


@pytest.mark.parametrize("line", ["what 1", "op GET", "op GET 1 random 0 0 /c/", "page x", "lonely", f"token {'x' * 5000}"])
def test_the_compiled_generator_refuses_a_job_that_makes_no_sense(tmp_path, line):
    program = build_load({"PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": str(tmp_path)})
    if isinstance(program, str):
        pytest.skip(program)
    done = subprocess.run([program], input=f"{line}\n", capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("load: ")


def test_the_token_is_in_no_process_list_and_no_environment(tmp_path):
    program = tmp_path / "load"
    program.write_text(f"""#!/bin/sh
tr '\\0' ' ' </proc/$$/cmdline >{tmp_path}/seen
env >>{tmp_path}/seen
cat >{tmp_path}/job
echo '{encode_result(RESULT)}'
""")
    program.chmod(0o755)
    assert Generator(kind="c", command=(str(program),)).run(JOB) == RESULT
    assert JOB.token not in (tmp_path / "seen").read_text()
    assert JOB.token in (tmp_path / "job").read_text()


@pytest.mark.parametrize(("script", "said"), [("echo no >&2; exit 3", "ended with 3: no"), ("echo hello", "hello")])
def test_a_generator_without_a_result_is_an_error_with_its_words(tmp_path, script, said):
    program = tmp_path / "load"
    program.write_text(f"#!/bin/sh\ncat >{tmp_path}/job\n{script}\n")
    program.chmod(0o755)
    with pytest.raises(BenchFailed, match=said):
        Generator(kind="c", command=(str(program),)).run(JOB)
