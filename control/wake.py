"""Wake-ups from other processes: NOTIFY of PostgreSQL. They may be lost without harm, for whoever waits also looks by itself."""
from __future__ import annotations

import asyncio
from collections.abc import Callable

from common.log import get_logger
from control.jobs_store import CHANNEL

_DELAY_S, _DELAY_S_MAX = 0.5, 30.0
_CONNECT_S = 10
_log = get_logger("control.wake")


async def listen_postgres(url: str, poke: Callable[[], None]) -> None:
    """Until cancelled: call `poke` for each job that somebody adds, and after each connection that had to be made again."""
    import psycopg  # 5 MiB that a node on SQLite does without

    delay_s = _DELAY_S
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(url, autocommit=True, connect_timeout=_CONNECT_S, keepalives_idle=30,
                                                             application_name="holdfast wake-ups") as connection:
                await connection.execute(f"LISTEN {CHANNEL}")
                delay_s = _DELAY_S
                poke()
                async for _ in connection.notifies():
                    poke()
        except (psycopg.Error, OSError) as error:
            _log.warning("no wake-ups from PostgreSQL, jobs are looked for by polling", error=type(error).__name__, again_s=delay_s)
        await asyncio.sleep(delay_s)
        delay_s = min(delay_s * 2, _DELAY_S_MAX)
