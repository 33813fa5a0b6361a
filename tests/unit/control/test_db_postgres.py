"""PostgreSQL: a server that is slow or gone holds no thread for ever, and every thread has its connection."""
from __future__ import annotations

import asyncio
import threading

import pytest
from sqlalchemy.exc import OperationalError

from control.db import STATEMENT_MS_MAX, Database

pytestmark = pytest.mark.needs_postgresql
WAIT_S = 20.0


def timeout_ms(connection):
    return connection.exec_driver_sql("SELECT setting::int FROM pg_settings WHERE name = 'statement_timeout'").scalar_one()


def parameters(connection):
    return connection.connection.driver_connection.info.get_parameters()


async def test_a_statement_has_its_time_in_whatever_transaction_and_a_migration_has_all_it_takes(postgres_url):
    database = Database(postgres_url)
    try:
        with database.upgrading() as connection:
            assert timeout_ms(connection) == 0
        for _ in range(2):                           # the connection of the migration is used again
            assert await database.run(timeout_ms) == STATEMENT_MS_MAX
            assert await database.read(timeout_ms) == STATEMENT_MS_MAX
    finally:
        database.close()


async def test_what_the_url_says_goes_before(postgres_url):
    joint = "&" if "?" in postgres_url else "?"
    database = Database(f"{postgres_url}{joint}connect_timeout=3&options=-c%20statement_timeout%3D100")
    try:
        assert await database.run(timeout_ms) == 100
        assert (await database.run(parameters))["connect_timeout"] == "3"
        with pytest.raises(OperationalError, match="statement timeout"):
            await database.run(lambda connection: connection.exec_driver_sql("SELECT pg_sleep(3600)"))
        assert await database.run(timeout_ms) == 100, "its connection serves the next one"
    finally:
        database.close()


async def test_a_server_that_is_gone_is_noticed_by_tcp(postgres_url):
    database = Database(postgres_url)
    try:
        found = await database.run(parameters)
    finally:
        database.close()
    assert found["connect_timeout"] == "10" and found["keepalives_idle"] == "30" and found["tcp_user_timeout"] == "60000"


async def test_all_threads_are_in_transactions_at_once(postgres_url):
    database, all_here = Database(postgres_url, readers=3), threading.Barrier(6)

    def meet(connection):
        connection.exec_driver_sql("SELECT 1")
        all_here.wait(WAIT_S)

    try:
        await asyncio.gather(*(database.run(meet) for _ in range(3)), *(database.read(meet) for _ in range(3)))
    finally:
        database.close()
