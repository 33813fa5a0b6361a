"""Futures without tasks: convert a result, or forget an answer that nobody waits for any more."""
from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


def mapped(future: asyncio.Future[Any], convert: Callable[[Any], T]) -> asyncio.Future[T]:
    """A future of the converted result; cancelling it cancels the first."""
    result: asyncio.Future[T] = future.get_loop().create_future()

    def finish(done: asyncio.Future[Any]) -> None:
        if result.done():
            if not done.cancelled():
                done.exception()
            return
        if done.cancelled():
            result.cancel()
            return
        error = done.exception()
        if error is not None:
            result.set_exception(error)
            return
        try:
            result.set_result(convert(done.result()))
        except Exception as wrong:
            result.set_exception(wrong)

    future.add_done_callback(finish)
    result.add_done_callback(lambda r: future.cancel() if r.cancelled() else None)
    return result


def ignore(future: asyncio.Future[Any]) -> None:
    """Retrieve the error, so that nobody warns about it."""
    if not future.cancelled():
        future.exception()


def ignore_all(futures: Iterable[asyncio.Future[Any]]) -> None:
    """Nobody waits for these: their errors are no news."""
    for future in futures:
        future.add_done_callback(ignore)
