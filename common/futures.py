"""Futures without tasks: convert a result, or forget an answer that nobody waits for any more."""
from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from common.errors import TransportLost

T = TypeVar("T")
R_contra = TypeVar("R_contra", contravariant=True)


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


class Sink(Protocol[R_contra]):
    """Who takes one answer, as soon as it is there: a future, or something cheaper that is called without the loop."""

    def done(self) -> bool:
        """Nobody waits for the answer any more."""

    def set_result(self, result: R_contra, /) -> None: ...
    def set_exception(self, exception: BaseException, /) -> None: ...


def pour(future: asyncio.Future[T], into: Sink[T] | None) -> asyncio.Future[T] | Sink[T]:
    """Give what `future` brings to `into`; who waits. Without one, whoever called waits for the future."""
    if into is None:
        return future
    sink = into

    def finish(finished: asyncio.Future[T]) -> None:
        if sink.done():
            ignore(finished)
        elif finished.cancelled():
            sink.set_exception(TransportLost(peer="", reason="the work was stopped"))
        elif (error := finished.exception()) is not None:
            sink.set_exception(error)
        else:
            sink.set_result(finished.result())

    future.add_done_callback(finish)
    return sink


def ignore(future: asyncio.Future[Any]) -> None:
    """Retrieve the error, so that nobody warns about it."""
    if not future.cancelled():
        future.exception()


def ignore_all(futures: Iterable[asyncio.Future[Any]]) -> None:
    """Nobody waits for these: their errors are no news."""
    for future in futures:
        future.add_done_callback(ignore)
