"""CPU and memory of a process tree, from a /proc of our own."""
from __future__ import annotations

import os

import pytest

from bench.procfs import ProcessTree, Watch, machine_cpu_s

TICK, PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


def add(proc, pid, parent, *, ticks=(0, 0, 0, 0), pages=0, pss_kb=0, name="python3"):
    """ticks: user, kernel, and those of children that were waited for."""
    (proc / str(pid)).mkdir(exist_ok=True)
    fields = ["S", parent, *[0] * 9, *ticks, *[0] * 6, pages, *[0] * 28]
    (proc / str(pid) / "stat").write_text(f"{pid} ({name}) {' '.join(map(str, fields))}\n")
    (proc / str(pid) / "smaps_rollup").write_text(f"0-1 ---p\nRss: 9 kB\nPss: {pss_kb} kB\nPss_Anon: 7 kB\n")


@pytest.fixture
def proc(tmp_path):
    """A supervisor 10, its zygote 11, two workers below that, and a stranger."""
    add(tmp_path, 10, 1, ticks=(1, 1, 0, 0), pages=10, pss_kb=1)
    add(tmp_path, 11, 10, ticks=(2, 0, 0, 0), pages=20, pss_kb=2)
    add(tmp_path, 12, 11, ticks=(10, 20, 0, 0), pages=30, pss_kb=3, name="a) S 1 (b")
    add(tmp_path, 13, 11, ticks=(30, 40, 0, 0), pages=40, pss_kb=4)
    add(tmp_path, 14, 1, ticks=(1000, 1000, 0, 0), pages=1000, pss_kb=1000)
    (tmp_path / "self").mkdir()
    return tmp_path


def test_user_and_kernel_time_of_all_descendants_count_and_a_stranger_does_not(proc):
    assert ProcessTree(10, proc).cpu_s() == pytest.approx(104 / TICK)


def test_memory_is_that_of_all_descendants(proc):
    tree = ProcessTree(10, proc)
    assert (tree.rss_bytes(), tree.pss_bytes()) == (100 * PAGE, 10 * 1024)


def test_the_time_of_a_worker_that_ended_stays_with_its_parent(proc):
    tree = ProcessTree(10, proc)
    before_s = tree.cpu_s()
    (proc / "12" / "stat").unlink()
    add(proc, 11, 10, ticks=(2, 0, 10, 20))
    assert tree.cpu_s() == pytest.approx(before_s)


def test_a_worker_that_came_later_counts(proc):
    tree = ProcessTree(10, proc)
    before_s = tree.cpu_s()
    add(proc, 15, 11, ticks=(5, 0, 0, 0))
    assert tree.cpu_s() == pytest.approx(before_s + 5 / TICK)


def test_a_process_that_is_gone_has_nothing(proc):
    assert ProcessTree(99, proc).cpu_s() == 0


def test_idle_and_waiting_is_not_busy(tmp_path):
    (tmp_path / "stat").write_text("cpu  1 2 3 4000 5000 6 7 8 9 9\ncpu0 1 2\n")
    assert machine_cpu_s(tmp_path) == pytest.approx(27 / TICK)


def test_a_watch_without_a_process_says_nothing_about_the_server():
    with Watch(None) as watch:
        pass
    assert (watch.cpu_s, watch.rss_bytes_max, watch.pss_bytes) == (None, None, None)


def test_a_watch_sees_this_process_work_and_its_memory():
    with Watch(ProcessTree(os.getpid())) as watch:
        begin = os.times()
        while os.times().user - begin.user < 5 / TICK:
            sum(range(10_000))
    assert watch.cpu_s >= 4 / TICK
    assert watch.machine_cpu_s > 0
    assert watch.rss_bytes_max > 1_000_000
