"""CPU and memory of a process and all its descendants, and of the whole machine, from /proc.

CPU is user and kernel time, that of children that ended and were waited for included, in ticks of 10 ms per process: a window of
one second on two busy cores is right to about one percent. What kernel threads do for a process (writing pages back) is not in it.
"""
from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SAMPLE_S = 0.25
_GONE = (FileNotFoundError, ProcessLookupError, ValueError, IndexError)


class ProcessTree:
    """The processes under `root`, itself included; found anew for each question, because workers restart."""

    def __init__(self, root: int, proc: Path = Path("/proc")) -> None:
        self.root, self._proc = root, proc

    def cpu_s(self) -> float:
        """Since they began."""
        return sum(cpu for cpu, _ in self._find().values())

    def rss_bytes(self) -> int:
        """Pages that two processes share count twice."""
        return sum(rss for _, rss in self._find().values())

    def pss_bytes(self) -> int | None:
        """Pages that two processes share count half in each; None where this user may not know."""
        total = 0
        for pid in self._find():
            try:
                lines = (self._proc / str(pid) / "smaps_rollup").read_text().splitlines()
            except PermissionError:
                return None
            except OSError:
                continue                     # it ended, or is a zombie
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
        return total

    def _find(self) -> dict[int, tuple[float, int]]:
        """CPU seconds and RSS by process id."""
        values: dict[int, tuple[float, int]] = {}
        children: dict[int, list[int]] = {}
        for name in os.listdir(self._proc):
            if name.isdigit():
                with suppress(*_GONE):
                    parent, cpu_s, rss = _parse_stat((self._proc / name / "stat").read_text())
                    values[int(name)] = cpu_s, rss
                    children.setdefault(parent, []).append(int(name))
        found: dict[int, tuple[float, int]] = {}
        open_ids = [self.root]
        while open_ids:
            pid = open_ids.pop()
            if pid in values and pid not in found:
                found[pid] = values[pid]
                open_ids += children.get(pid, [])
        return found


class Watch:
    """What the server took while this was entered; `tree` None watches only the machine."""

    def __init__(self, tree: ProcessTree | None) -> None:
        self._tree = tree
        self.cpu_s: float | None = None
        self.rss_bytes_max: int | None = None
        self.pss_bytes: int | None = None            # at the end, because asking stops the server for a moment
        self.machine_cpu_s = 0.0                     # of everybody
        self._end = threading.Event()

    def __enter__(self) -> Self:
        if self._tree is not None:
            self.rss_bytes_max = self._tree.rss_bytes()
            self._sampler = threading.Thread(target=self._sample, daemon=True)
            self._sampler.start()
        self._machine_begin_s = machine_cpu_s()
        self._begin_s = self._tree.cpu_s() if self._tree is not None else 0.0
        return self

    def __exit__(self, *_: object) -> None:
        if self._tree is not None:
            self.cpu_s = self._tree.cpu_s() - self._begin_s
        self.machine_cpu_s = machine_cpu_s() - self._machine_begin_s
        if self._tree is not None:
            self._end.set()
            self._sampler.join()
            self.rss_bytes_max = max(self.rss_bytes_max or 0, self._tree.rss_bytes())
            self.pss_bytes = self._tree.pss_bytes()

    def _sample(self) -> None:
        assert self._tree is not None
        while not self._end.wait(_SAMPLE_S):
            self.rss_bytes_max = max(self.rss_bytes_max or 0, self._tree.rss_bytes())


def machine_cpu_s(proc: Path = Path("/proc")) -> float:
    """Busy CPU seconds of all cores since the boot."""
    fields = [int(word) for word in (proc / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / _TICKS                    # without idle and iowait


def describe_machine() -> dict[str, object]:
    """What figures mean nothing without."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "kernel": os.uname().release,
            "memory_bytes": os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES}


def _parse_stat(text: str) -> tuple[int, float, int]:
    """Parent, CPU seconds with those of reaped children, RSS bytes. The name in the middle may hold spaces and brackets."""
    fields = text.rsplit(")", 1)[1].split()
    return int(fields[1]), sum(int(field) for field in fields[11:15]) / _TICKS, int(fields[21]) * _PAGE_BYTES
