"""Figures of the feed for docs/performance.md: a pass of its producer, what a gateway keeps, what a token costs there.

    python -m tools.feed_figures

10 000 users, 10 000 projects, and a grant for each user in its project, with ids as identity makes them.
"""
from __future__ import annotations

import asyncio
import gc
import tempfile
import time
import tracemalloc
import uuid
from collections.abc import Callable
from pathlib import Path

from cryptography.fernet import Fernet
from sqlalchemy import Connection, insert, select

from common.clock import SystemClock
from identity.bootstrap import CatalogSeed, Seed, bootstrap
from identity.config import IdentityConfig
from identity.feed import Reader, compare
from identity.main import close_identity, open_identity
from identity.model import assignment, project, role, user
from identity.passwords import Passwords
from identity.state import Identity
from identity.tokens import TokenFacts, encode_token, new_audit_id
from identity.wire import pack_events, transport_key, unpack_events
from proxy.auth import V1Auth, load_users, reseller_prefixes
from proxy.config import AuthConfig, UserRow
from proxy.identity_auth import IdentityAuth
from proxy.identity_facts import IdentityFacts, merge_parts

_ROWS = 10_000
_TRANSPORT = transport_key(b"k" * 32)
_SEED = Seed(admin_password="x", print_key=b"k" * 32,
             catalog=(CatalogSeed(type="identity", name="identity", url="http://%(host)s:1/v3"),))


def _fill(connection: Connection) -> list[tuple[str, str]]:
    """(user, project) of each grant."""
    pairs = [(uuid.uuid4().hex, uuid.uuid4().hex) for _ in range(_ROWS)]
    member = connection.execute(select(role.c.id).where(role.c.name == "member")).scalar_one()
    connection.execute(insert(user), [{
        "id": one, "domain_id": "default", "name": f"user {n:05}", "enabled": True, "must_change_password": False, "options": {},
        "extra": {}, "failed_count": 0, "created_us": 0} for n, (one, _) in enumerate(pairs)])
    connection.execute(insert(project), [{
        "id": one, "name": f"project {n:05}", "domain_id": "default", "parent_id": "default", "is_domain": False, "enabled": True,
        "options": {}, "extra": {}} for n, (_, one) in enumerate(pairs)])
    connection.execute(insert(assignment), [{
        "actor_kind": "user", "actor_id": who, "target_kind": "project", "target_id": where, "role_id": member,
        "is_inherited": False} for who, where in pairs])
    return pairs


def _cost_us(count: int, once: Callable[[int], object]) -> float:
    began_s = time.process_time()
    for number in range(count):
        once(number)
    return (time.process_time() - began_s) / count * 1e6


def _measure_producer(state: Identity) -> bytes:
    """The snapshot."""
    reader = Reader(state.vault, Fernet(_TRANSPORT))
    with state.database.engine.connect() as connection:
        generation, old = reader.read(connection, state.keys.texts, revoked_after_us=1)
        began_s = time.process_time()
        _, new = reader.read(connection, state.keys.texts, revoked_after_us=0)
        read_s = time.process_time()
        assert compare(old, new) == {}
        compared_s = time.process_time()
    body = pack_events([(generation, dict(new))])
    print(f"a pass: {(read_s - began_s) * 1e3:.0f} ms to read, {(compared_s - read_s) * 1e3:.0f} ms to compare; "
          f"a snapshot has {len(body) / 1e6:.1f} MB")
    return body


def _tokens(state: Identity, pairs: list[tuple[str, str]]) -> list[str]:
    now_us = state.clock.now_us()
    return [encode_token(TokenFacts(user_id=who, methods=("password",), scope_kind="project", scope_id=where, issued_us=now_us,
                                    expires_us=now_us + 3_600_000_000, generation=1, audit_ids=(new_audit_id(),)), state.keys)
            for who, where in pairs]


async def _measure_gateway(body: bytes, tokens: list[str]) -> None:
    clock, config = SystemClock(), AuthConfig(user=(UserRow(account="a", user="b", groups=(".admin",), key="c"),))
    facts = IdentityFacts(clock)
    tracemalloc.start()
    ((generation, changes),) = unpack_events(body)
    facts.replace(generation, merge_parts([changes]))
    del changes
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    facts.heard()
    print(f"a gateway keeps it in {kept / 1e6:.1f} MB, and needs {peak / 1e6:.1f} MB for a moment")
    others = IdentityAuth(facts, reseller_prefixes(config), transport=_TRANSPORT, clock=clock, grace_s=300, skew_s=10)
    auth = V1Auth(load_users(config.user, Path()), config, token_key=b"k" * 32, clock=clock, others=others)
    auth.identify(tokens[0])
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)                     # as in a worker: node/zygote.py
    unseen_us = min(_cost_us(3_000, lambda n, at=at: auth.identify(tokens[at + n])) for at in (1, 3_001, 6_001))
    seen_us = min(_cost_us(50_000, lambda n: auth.identify(tokens[n % 5_000 + 1])) for _ in range(3))
    v1 = (await auth.login("a:b", "c")).token
    v1_us = min(_cost_us(50_000, lambda n: auth.identify(v1)) for _ in range(3))
    print(f"a token not seen before: {unseen_us:.1f} us; seen {seen_us:.2f} us; one of v1, seen, {v1_us:.2f} us")
    auth.close()


async def main() -> None:
    """Prints the figures."""
    with tempfile.TemporaryDirectory() as directory:
        state = open_identity(IdentityConfig(), Path(directory), clock=SystemClock(), passwords=Passwords(memory_kib=8, passes=1))
        await state.database.run(bootstrap, state, _SEED)
        pairs = await state.database.run(_fill)
        body, tokens = _measure_producer(state), _tokens(state, pairs)
        close_identity(state)
    await _measure_gateway(body, tokens)


if __name__ == "__main__":
    asyncio.run(main())
