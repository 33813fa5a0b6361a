"""What is the same on every node of a cluster: its identity and its storage policies, and the fingerprint of both."""
from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgpack

from common.address import parse_address
from common.config import required, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """TOML table [cluster]."""

    id: str | None = setting(None, "name of the cluster; made at the first start", example='"c0ffee"')
    hash_prefix: str | None = setting(None, "mixed into the hash of every name; made at the first start, never changed after",
                                      is_secret=True)
    hash_suffix: str | None = setting(None, "as hash_prefix", is_secret=True)
    seeds: tuple[str, ...] = setting((), "RPC addresses of nodes to join by", check=parse_address,
                                     example='["10.0.0.1:6200"]')
    max_skew_s: float = setting(10.0, "a stamp further in the future than this is refused", low=0.1, high=3600)

    def problems(self) -> Iterator[tuple[str, str]]:
        """A prefix without a suffix, or the reverse, would leave half of a secret to chance."""
        if (self.hash_prefix is None) != (self.hash_suffix is None):
            yield "hash_prefix", "cluster.hash_prefix and cluster.hash_suffix belong together: give both or none"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRow:
    """A row [[policy]]: how many copies, and when a write counts as durable."""

    name: str = required("name that clients use in X-Storage-Policy", example='"standard"')
    index: int | None = setting(None, "number stored with the data; position in the file if not given", low=0, high=65_535,
                                example="0")
    replicas: int = setting(3, "copies of each object", low=1, high=16)
    default: bool = setting(False, "for containers that name no policy; the first row if none says so")
    sync: str = setting("batch", "batch: durable before the answer; interval: faster, may lose the last moments on power loss",
                        choices=("batch", "interval"))

    def problems(self) -> Iterator[tuple[str, str]]:
        """A name is an HTTP header value."""
        if not self.name or not all(c.isascii() and (c.isalnum() or c in "-_.") for c in self.name):
            yield "name", f"policy.name {self.name!r} may hold letters, digits, '-', '_' and '.' only"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A `PolicyRow` with nothing left open."""

    index: int
    name: str
    replicas: int
    is_default: bool
    sync: str


DEFAULT_POLICIES = (PolicyRow(name="standard", index=0, default=True),)


def resolve_policies(rows: tuple[PolicyRow, ...]) -> tuple[Policy, ...]:
    """The policies of a configuration that `policy_problems` has no objection to, in the order of their index."""
    has_default = any(row.default for row in rows)
    policies = [
        Policy(index=position if row.index is None else row.index, name=row.name, replicas=row.replicas,
               is_default=row.default or (not has_default and position == 0), sync=row.sync)
        for position, row in enumerate(rows)
    ]
    return tuple(sorted(policies, key=lambda policy: policy.index))


def policy_problems(rows: tuple[PolicyRow, ...]) -> Iterator[tuple[str, str]]:
    """(dotted name, reason) for rows that cannot stand beside each other."""
    names: set[str] = set()
    indexes: set[int] = set()
    defaults = 0
    for position, row in enumerate(rows):
        index = position if row.index is None else row.index
        if row.name.lower() in names:
            yield f"policy.{position}.name", f"two policies are named {row.name!r}"
        if index in indexes:
            yield f"policy.{position}.index", f"two policies have index {index}"
        defaults += row.default
        if row.default and defaults > 1:
            yield f"policy.{position}.default", "two policies are the default"
        names.add(row.name.lower())
        indexes.add(index)
    if not rows:
        yield "policy", "at least one policy is needed"


def placement_fingerprint(*, cluster_id: str, hash_prefix: bytes, hash_suffix: bytes, policies: Iterable[Policy]) -> str:
    """32 hex characters over all that decides where a name lives; nodes that differ in it must not exchange data."""
    facts = [cluster_id, hash_prefix, hash_suffix, [[p.index, p.name, p.replicas, p.is_default] for p in policies]]
    return hashlib.sha256(msgpack.packb(facts)).hexdigest()[:32]
