"""The compiled load generator: made once, from this source by this compiler, in a cache that is ours alone."""
from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from bench import build
from bench.build import SOURCE, build_load, cache_dir
from bench.generator import COMPILED, PYTHON, make_generator
from common.errors import BenchFailed


def fake_cc(folder: Path, *, version: str = "1", code: int = 0) -> dict[str, str]:
    """An environment with a compiler that writes what it was asked for, and counts."""
    folder.mkdir(exist_ok=True)
    script = folder / "cc"
    script.write_text(f"""#!/bin/sh
[ "$1" != --version ] || {{ echo fake {version}; exit; }}
echo "$@" >>{folder}/calls
[ {code} = 0 ] || {{ echo "load.c:1: no" >&2; exit {code}; }}
cp {SOURCE} "$3"
""")
    script.chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin", "XDG_CACHE_HOME": str(folder / "cache")}


def calls(folder: Path) -> int:
    return len((folder / "calls").read_text().splitlines())


def test_it_is_compiled_once(tmp_path):
    environ = fake_cc(tmp_path)
    first = build_load(environ)
    assert build_load(environ) == first
    assert calls(tmp_path) == 1
    assert first.read_bytes() == SOURCE.read_bytes()
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def test_another_compiler_or_another_source_makes_another_one(tmp_path, monkeypatch):
    first = build_load(fake_cc(tmp_path))
    second = build_load(fake_cc(tmp_path, version="2"))
    changed = tmp_path / "load.c"
    changed.write_bytes(SOURCE.read_bytes() + b"\n")
    monkeypatch.setattr(build, "SOURCE", changed)
    third = build_load(fake_cc(tmp_path, version="2"))
    assert len({first, second, third}) == 3


def test_the_cache_is_ours_alone(tmp_path):
    environ = fake_cc(tmp_path)
    assert stat.S_IMODE(cache_dir(environ).stat().st_mode) == 0o700


def test_a_cache_that_others_could_change_is_refused(tmp_path):
    environ = fake_cc(tmp_path)
    cache_dir(environ).chmod(0o770)
    with pytest.raises(BenchFailed, match="0700"):
        build_load(environ)


def test_a_cache_that_cannot_be_made_is_an_error_with_its_path(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BenchFailed, match="XDG_CACHE_HOME"):
        cache_dir({"XDG_CACHE_HOME": str(tmp_path / "file")})


def test_without_a_compiler_python_takes_its_place_and_says_so(tmp_path):
    generator = make_generator({"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)})
    assert generator.kind == PYTHON
    assert "client-bound" in generator.warning and "no C compiler" in generator.warning


def test_with_a_compiler_that_fails_too_and_its_reason_is_told(tmp_path):
    environ = fake_cc(tmp_path, code=1)
    generator = make_generator(environ)
    assert generator.kind == PYTHON
    assert "load.c:1: no" in generator.warning
    assert list(cache_dir(environ).iterdir()) == []


def test_whoever_insists_on_the_compiled_one_gets_it_or_an_error(tmp_path):
    assert make_generator(fake_cc(tmp_path / "good"), COMPILED).warning is None
    with pytest.raises(BenchFailed):
        make_generator(fake_cc(tmp_path / "bad", code=1), COMPILED)


def test_the_source_compiles_without_a_warning(tmp_path):
    cc = next((Path(folder) / "cc" for folder in os.get_exec_path() if (Path(folder) / "cc").exists()), None)
    if cc is None:
        pytest.skip("no C compiler")
    wrapper = tmp_path / "cc"
    wrapper.write_text(f'#!/bin/sh\nexec {cc} -Wall -Wextra -Werror "$@"\n')
    wrapper.chmod(0o755)
    found = build_load({"PATH": f"{tmp_path}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(tmp_path)})
    assert isinstance(found, Path), found
