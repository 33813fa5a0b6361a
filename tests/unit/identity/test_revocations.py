"""What is remembered of revocations is no more than tokens can still meet."""
from __future__ import annotations

from sqlalchemy import delete

from identity.model import revocation

LONG_US = 30 * 86_400 * 1_000_000


async def test_a_process_forgets_what_is_pruned_and_keeps_what_is_not(make_cloud):
    async with make_cloud() as cloud:
        state = cloud.state
        for number in range(20):
            await state.database.run(state.revoke, "audit", f"old {number}")
        await state.database.run(state.revoke, "audit", "both")
        cloud.clock.advance(LONG_US)
        await state.database.run(state.revoke, "audit", "both")
        await state.database.run(state.revoke, "audit", "new")
        await state.database.run(state.prune_here)
        assert {value for kind, value in state._revoked if kind == "audit"} == {"both", "new"}


async def test_a_process_forgets_what_another_one_has_pruned(make_cloud):
    async with make_cloud() as cloud:
        state = cloud.state
        await state.database.run(state.revoke, "audit", "gone")
        await state.database.run(lambda connection: connection.execute(delete(revocation)))
        await state.database.run(state.prune_here)
        assert ("audit", "gone") not in state._revoked


async def test_what_is_revoked_beside_a_pruning_stays(make_cloud):
    async with make_cloud() as cloud:
        state = cloud.state

        def prune(connection):
            state.prune_here(connection)
            state._note(state.generation + 1, state.generation + 1, "audit", "beside")

        await state.database.run(prune)
        assert ("audit", "beside") in state._revoked
