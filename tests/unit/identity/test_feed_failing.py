"""A row that cannot be told, and a producer that cannot read: the others are told, and nobody is told that all is well."""
from __future__ import annotations

import asyncio
import json

import pytest
from sqlalchemy import insert, update

from common.errors import IdentityAway
from common.rpc_server import RpcServer
from common.sockets import tcp_connector
from identity import feed as feed_module
from identity.base import new_id
from identity.credentials import access_digest
from identity.feed import Feed
from identity.model import access_token, assignment, consumer, credential
from identity.wire import FEED_ROLE, OP_FEED, pack_id, unpack_events
from node.feed import FeedReader
from proxy.identity_facts import IdentityFacts
from tests.unit.identity.test_feed import TRANSPORT, Gateway, credentials, with_gateway

__all__ = ["with_gateway"]


def put_s3_key(connection, state, user_id, project_id, access, blob):
    """Past the API, as a version that checked less has stored it."""
    row_id = new_id()
    connection.execute(insert(credential).values(
        id=row_id, user_id=user_id, project_id=project_id, type="ec2", access_digest=access_digest(access),
        sealed=state.vault.seal_text(blob), app_credential_id=None, trust_id=None, extra={}))
    state.change(connection)
    return row_id


BAD_BLOBS = [json.dumps({"access": "k", "secret": "\ud800"}), "[" * 16_000, "{}", '{"secret": 7}', "no json", '{"secret": null}']


@pytest.mark.parametrize("blob", BAD_BLOBS, ids=lambda blob: blob[:20])
async def test_a_row_that_cannot_be_told_is_left_out_and_named_and_the_others_are_told(with_gateway, capfd, blob):
    async with with_gateway() as (cloud, gateway):
        user, project, token = await cloud.member()
        bad = await cloud.state.database.run(put_s3_key, cloud.state, user, project, "bad", blob)
        await cloud.state.database.run(put_s3_key, cloud.state, user, project, "good", '{"secret": "s"}')
        await gateway.sync()
        assert gateway.facts.tables["s3_key"].keys() == {access_digest("good")}
        assert await gateway.who(token) is not None
        await cloud.call("DELETE", "/v3/auth/tokens", token=token, X_Subject_Token=token)
        assert await gateway.who(token) is None                        # revocations go on reaching it
        assert gateway.feed.status() == {"failure": "", "left_out_count": 1, "left_out": [f"s3_key {bad}"]}
        logged = capfd.readouterr().err
        assert logged.count(bad) == 1 and logged.count("left out") == 1


async def test_a_row_that_was_put_right_is_told_and_not_named_any_more(with_gateway):
    async with with_gateway() as (cloud, gateway):
        user, project, _ = await cloud.member()
        bad = await cloud.state.database.run(put_s3_key, cloud.state, user, project, "k", BAD_BLOBS[0])
        await gateway.sync()
        assert not gateway.facts.tables["s3_key"]

        def mend(connection):
            connection.execute(update(credential).where(credential.c.id == bad).values(
                sealed=cloud.state.vault.seal_text('{"secret": "s"}')))
            cloud.state.change(connection)

        await cloud.state.database.run(mend)
        await gateway.sync()
        assert access_digest("k") in gateway.facts.tables["s3_key"] and gateway.feed.status()["left_out"] == []


async def test_grants_and_access_tokens_that_no_version_makes_are_left_out(with_gateway):
    def plant(connection, user, project, role):
        connection.execute(insert(assignment).values(actor_kind="user", actor_id=user, target_kind="system", target_id="all",
                                                     role_id=role, is_inherited=True))
        connection.execute(insert(consumer).values(id="c", description=None, sealed="", extra={}))
        connection.execute(insert(access_token).values(id="t", consumer_id="c", user_id=user, project_id=project, sealed="",
                                                       role_ids={}, expires_us=None))

    async with with_gateway() as (cloud, gateway):
        user, project, token = await cloud.member()
        await gateway.sync()
        grants = gateway.facts.find("user", pack_id(user))[5]
        await cloud.state.database.run(plant, user, project, await cloud.role("admin"))
        await gateway.sync()
        assert gateway.facts.find("user", pack_id(user))[5] == grants and not gateway.facts.tables["access_token"]
        assert gateway.feed.status()["left_out_count"] == 2 and await gateway.who(token)


class Sick:
    """A reader whose database fails until it is told not to."""

    def __init__(self, reader):
        self.reader, self.left_out, self.is_sick = reader, {}, True

    def read(self, *args, **options):
        if self.is_sick:
            raise OSError("cannot be read")
        return self.reader.read(*args, **options)


async def test_a_producer_that_cannot_read_answers_nobody_until_it_can(with_gateway):
    async with with_gateway() as (_, gateway):
        feed = gateway.feed
        sick = feed._reader = Sick(feed._reader)
        with pytest.raises(OSError, match="read"):
            await feed.refresh()
        with pytest.raises(IdentityAway):
            await gateway.ask()                          # nothing new: not said, though nothing new is known
        gateway.epoch = ""
        with pytest.raises(IdentityAway):
            await gateway.ask()
        assert "OSError" in feed.status()["failure"]
        sick.is_sick = False
        await gateway.sync()
        assert feed.status()["failure"] == ""


async def test_a_gateway_that_waits_for_news_is_told_at_once_that_there_may_be_some_nobody_can_read(with_gateway):
    async with with_gateway() as (_, gateway):
        asked = asyncio.create_task(gateway.ask())
        await asyncio.sleep(0)
        gateway.feed._reader = Sick(gateway.feed._reader)
        with pytest.raises(OSError, match="read"):
            await gateway.feed.refresh()
        with pytest.raises(IdentityAway):
            await asked


async def test_that_there_is_nothing_new_is_said_only_of_a_database_that_was_asked(with_gateway, monkeypatch):
    monkeypatch.setattr(feed_module, "FEED_WAIT_S", 0.01)
    async with with_gateway() as (cloud, gateway):
        assert unpack_events((await gateway.ask())[1]) == []
        await cloud.make("project", name="fresh")        # committed, and the producer has not read it
        with pytest.raises(IdentityAway, match="follow"):
            await gateway.ask()

        async def fail(*_, **__):
            raise OSError("the database is away")

        await gateway.sync()
        monkeypatch.setattr(cloud.state.database, "read", fail)
        with pytest.raises(IdentityAway):
            await gateway.ask()


async def test_a_start_whose_tables_cannot_be_read_is_a_start_and_the_gateways_hear_when_they_can(with_gateway):
    async with with_gateway() as (cloud, _):
        feed = Feed(cloud.state, transport=TRANSPORT)
        sick = feed._reader = Sick(feed._reader)
        await feed.start()
        try:
            gateway = Gateway(feed, cloud.clock)
            with pytest.raises(IdentityAway):
                await gateway.ask()
            sick.is_sick = False
            async with asyncio.timeout(30):
                while feed.failure:
                    await feed._news.wait()
            assert (await gateway.ask())[0][3] is True
            gateway.auth.close()
        finally:
            await feed.close()


async def test_a_reader_counts_as_cut_off_while_the_producer_cannot_read_though_it_answers(with_gateway):
    async with with_gateway() as (cloud, gateway):
        server = RpcServer({OP_FEED: gateway.feed.answer}, credentials=credentials("n/identity", FEED_ROLE))
        port = await server.listen_tcp("127.0.0.1", 0)
        facts = IdentityFacts(cloud.clock)
        reader = FeedReader(facts, tcp_connector("127.0.0.1", port), credentials("n/w0", "worker"), grace_s=300)
        reader.start()
        try:
            async with asyncio.timeout(30):
                await facts.reach(gateway.feed.generation, timeout_s=30)
                while not facts.is_connected:            # noqa: ASYNC110 - nothing else tells
                    await asyncio.sleep(0.005)
                sick = gateway.feed._reader = Sick(gateway.feed._reader)
                with pytest.raises(OSError, match="read"):
                    await gateway.feed.refresh()
                while facts.is_connected:                # noqa: ASYNC110
                    await asyncio.sleep(0.005)
                assert reader.status()["is_connected"] is False
                sick.is_sick = False
                await gateway.feed.refresh()
                while not facts.is_connected:            # noqa: ASYNC110
                    await asyncio.sleep(0.005)
        finally:
            await reader.close()
            await server.close()
