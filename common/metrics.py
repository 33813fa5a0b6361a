"""Counters, gauges and histograms of one process, their sum over several processes, and Prometheus' text form.

A handle is looked up once (`puts = registry.counter("holdfast_puts_total", "...", ("device",)).labels("d1")`) and then costs one
attribute addition per event, about 0.1 us. Handles belong to the event loop: a pool's thread reports through it, because
`value += n` is no atomic step. A snapshot is plain data that msgpack and JSON carry to the supervisor, which merges them.
"""
from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypedDict, TypeVar

LATENCY_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZE_BUCKETS_BYTES = tuple(4.0 ** n for n in range(5, 18))             # 1 KiB to 16 GiB

Value = float | list[float]                    # of a histogram: one count per bucket, one above all of them, then the sum


class FamilySnapshot(TypedDict):
    """One metric with all its label values."""

    kind: str                                  # "counter", "gauge" or "histogram"
    help: str
    labels: list[str]
    merge: str                                 # "sum", "max" or "min"
    buckets: list[float]
    samples: list[tuple[list[str], Value]]


Snapshot = dict[str, FamilySnapshot]


class Counter:
    """Only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def inc(self, amount: float = 1) -> None:
        self.value += amount

    def read(self) -> Value:
        return self.value


class Gauge:
    """Goes up and down; or asks `source` when it is read."""

    __slots__ = ("source", "value")

    def __init__(self) -> None:
        self.value: float = 0
        self.source: Callable[[], float] | None = None

    def set(self, value: float) -> None:
        self.value = value

    def inc(self, amount: float = 1) -> None:
        self.value += amount

    def dec(self, amount: float = 1) -> None:
        self.value -= amount

    def read(self) -> Value:
        return self.value if self.source is None else self.source()


class Histogram:
    """Counts per bucket; a bucket holds what is at most its bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0.0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def read(self) -> Value:
        return [*self.counts, self.total]


M = TypeVar("M", Counter, Gauge, Histogram)


class Family(Generic[M]):
    """A metric name; `labels` gives the handle of one combination of label values."""

    def __init__(self, make: Callable[[], M], *, kind: str, help: str, labels: tuple[str, ...], merge: str,
                 buckets: tuple[float, ...] = ()) -> None:
        self._make: Callable[[], M] = make
        self._handles: dict[tuple[str, ...], M] = {}
        self.kind, self.help, self.label_names, self.merge, self.buckets = kind, help, labels, merge, buckets

    def labels(self, *values: str) -> M:
        """The handle for `values`, in the order of the label names. Values must come from a small set, never from a client."""
        handle = self._handles.get(values)
        if handle is None:
            assert len(values) == len(self.label_names), (self.label_names, values)
            handle = self._handles[values] = self._make()
        return handle

    def forget(self, *values: str) -> None:
        """Drop a combination that is gone, such as a removed device."""
        self._handles.pop(values, None)

    def snapshot(self) -> FamilySnapshot:
        samples = [(list(values), handle.read()) for values, handle in self._handles.items()]
        return {"kind": self.kind, "help": self.help, "labels": list(self.label_names), "merge": self.merge,
                "buckets": list(self.buckets), "samples": samples}


class Registry:
    """The metrics of one process. Asking twice for a name gives the same family; asking differently is a bug."""

    def __init__(self) -> None:
        self._families: dict[str, Family[Counter] | Family[Gauge] | Family[Histogram]] = {}

    def counter(self, name: str, help: str, labels: tuple[str, ...] = ()) -> Family[Counter]:
        """name ends in _total."""
        assert name.endswith("_total"), name
        return self._family(name, Family(Counter, kind="counter", help=help, labels=labels, merge="sum"))

    def gauge(self, name: str, help: str, labels: tuple[str, ...] = (), *, merge: str = "sum") -> Family[Gauge]:
        """merge: what the value of several processes is: their "sum", "max" or "min"."""
        assert merge in ("sum", "max", "min"), merge
        return self._family(name, Family(Gauge, kind="gauge", help=help, labels=labels, merge=merge))

    def histogram(self, name: str, help: str, labels: tuple[str, ...] = (), *,
                  buckets: tuple[float, ...] = LATENCY_BUCKETS_S) -> Family[Histogram]:
        """name ends in its unit, such as _seconds or _bytes; buckets ascend."""
        assert list(buckets) == sorted(set(buckets)), buckets
        return self._family(name, Family(lambda: Histogram(buckets), kind="histogram", help=help, labels=labels, merge="sum",
                                         buckets=buckets))

    def _family(self, name: str, made: Family[M]) -> Family[M]:
        old = self._families.setdefault(name, made)
        assert (old.kind, old.label_names, old.merge, old.buckets) == (made.kind, made.label_names, made.merge, made.buckets), name
        return old                             # type: ignore[return-value]   # of the same kind, as just asserted

    def snapshot(self) -> Snapshot:
        """All values now, as plain data."""
        return {name: family.snapshot() for name, family in self._families.items()}


def merge_snapshots(snapshots: Iterable[Snapshot]) -> Snapshot:
    """One snapshot of several processes. A family that two versions describe differently keeps the first description;
    samples that do not fit it are left out."""
    merged: Snapshot = {}
    for snapshot in snapshots:
        for name, family in snapshot.items():
            into = merged.get(name)
            if into is None:
                into = merged[name] = {**family, "samples": []}
            if all(into[key] == family[key] for key in ("kind", "labels", "merge", "buckets")):
                into["samples"] = _merge_samples(into, family)
    return merged


def _merge_samples(into: FamilySnapshot, family: FamilySnapshot) -> list[tuple[list[str], Value]]:
    values = {tuple(labels): value for labels, value in into["samples"]}
    for labels, value in family["samples"]:
        old = values.get(tuple(labels))
        values[tuple(labels)] = value if old is None else _combine(old, value, into["merge"])
    return [(list(labels), value) for labels, value in values.items()]


def _combine(a: Value, b: Value, how: str) -> Value:
    if isinstance(a, list) or isinstance(b, list):
        assert isinstance(a, list) and isinstance(b, list)
        return [x + y for x, y in zip(a, b, strict=True)]
    return a + b if how == "sum" else max(a, b) if how == "max" else min(a, b)


def format_prometheus(snapshot: Mapping[str, FamilySnapshot]) -> str:
    """Text exposition format 0.0.4. Source: Prometheus documentation, "Exposition formats"."""
    out: list[str] = []
    for name in sorted(snapshot):
        family = snapshot[name]
        out.append(f"# HELP {name} {family['help'].replace(chr(92), chr(92) * 2).replace(chr(10), chr(92) + 'n')}\n")
        out.append(f"# TYPE {name} {family['kind']}\n")
        for values, value in sorted(family["samples"], key=lambda sample: sample[0]):
            pairs = [*zip(family["labels"], values, strict=True)]
            if isinstance(value, list):
                out += _histogram_lines(name, pairs, family["buckets"], value)
            else:
                out.append(f"{name}{_label_text(pairs)} {_number(value)}\n")
    return "".join(out)


def _histogram_lines(name: str, pairs: list[tuple[str, str]], bounds: list[float], value: list[float]) -> list[str]:
    out, so_far = [], 0.0
    for bound, count in zip([*bounds, math.inf], value[:-1], strict=True):
        so_far += count
        out.append(f"{name}_bucket{_label_text([*pairs, ('le', _number(bound))])} {_number(so_far)}\n")
    out.append(f"{name}_sum{_label_text(pairs)} {_number(value[-1])}\n")
    out.append(f"{name}_count{_label_text(pairs)} {_number(so_far)}\n")
    return out


def _label_text(pairs: Sequence[tuple[str, str]]) -> str:
    if not pairs:
        return ""
    return "{" + ",".join(f'{key}="{_escape(value)}"' for key, value in pairs) + "}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if math.isnan(value):
        return "NaN"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


METRICS = Registry()                           # of this process; tests make their own
