"""Between the supervisor and one worker: JSON lines over a socket pair; calls in one direction, events in the other.

    call {"id", "op", ...}   answer {"id", "ok": result} or {"id", "error": [code, fields]}   event {"event", ...}

Calls are answered one after the other, but for `ping`, which asks whether the other end's loop lives: that is answered at once, by
the channel itself, while a call that takes a minute is under way. The end of the channel means that the other process is gone.
"""
from __future__ import annotations

import asyncio
import base64
import json
import pickle
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from common.errors import DeadlineExceeded, Overloaded, StorageError, TransportLost, error_from_wire, error_to_wire
from common.log import get_logger
from node.config import HoldfastConfig

DRAIN_S = 10.0                               # for requests that run when the node stops
CALLS_WAITING_MAX = 64                       # behind the one that is being answered; callers give up long before
LINE_BYTES_MAX = 32 << 20                    # a status of many devices, a configuration of many users
_log = get_logger("node.channel")
OnCall = Callable[[str, Mapping[str, Any]], Awaitable[object]]
OnEvent = Callable[[str, Mapping[str, Any]], None]


class Channel:
    """One end. Calls that arrive go to `on_call` one after the other, events to `on_event`, the end to `on_end`.

    The end is told at once, beside a call that is still being answered. One that waits for its turn then is not begun.
    """

    def __init__(self, *, on_call: OnCall | None = None, on_event: OnEvent | None = None,
                 on_end: Callable[[], None] | None = None) -> None:
        self._on_call, self._on_event, self._on_end = on_call, on_event, on_end
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._answering: asyncio.Task[None] | None = None
        self._calls: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue(CALLS_WAITING_MAX)
        self._last_id = 0

    async def open(self, sock: socket.socket) -> None:
        """Begin to read; the channel owns `sock` from now on."""
        reader, self._writer = await asyncio.open_unix_connection(sock=sock, limit=LINE_BYTES_MAX)
        self._reading = asyncio.create_task(self._read(reader), name="channel")
        if self._on_call is not None:
            self._answering = asyncio.create_task(self._answer_calls(), name="channel answers")

    async def call(self, op: str, *, timeout_s: float, **fields: object) -> Any:
        """The other end's result. Raises what it raised, `TransportLost`, `DeadlineExceeded`."""
        self._last_id += 1
        number = self._last_id
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._send({"id": number, "op": op, **fields})
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError as error:
            raise DeadlineExceeded(what=op, waited_s=timeout_s) from error
        finally:
            del self._waiting[number]

    def emit(self, event: str, **fields: object) -> None:
        """Tell the other end. Raises `TransportLost`."""
        self._send({"event": event, **fields})

    async def finish(self) -> None:
        """Take what a process that is gone has still said, then close."""
        if self._reading is not None:
            await asyncio.wait([self._reading])
        await self.close()

    async def close(self) -> None:
        """Stop reading and answering, and close."""
        tasks = [task for task in (self._reading, self._answering) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._writer is not None:
            self._writer.close()

    def _send(self, message: dict[str, object]) -> None:
        if self._writer is None or self._writer.is_closing():
            raise TransportLost(peer="the other process", reason="its channel is closed")
        self._writer.write(json.dumps(message, default=str).encode() + b"\n")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._take(json.loads(line))
        except (OSError, ValueError):
            pass                                 # a process that was killed may leave half a line
        finally:
            if self._writer is not None:
                self._writer.close()
            lost = TransportLost(peer="the other process", reason="it ended")
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(lost)
            if self._on_end is not None:
                self._on_end()

    def _take(self, message: Mapping[str, Any]) -> None:
        if "event" in message:
            if self._on_event is not None:
                self._on_event(message["event"], message)
        elif "op" in message:
            self._take_call(message)
        else:
            future = self._waiting.get(message["id"])
            if future is None or future.done():
                return                           # the caller stopped waiting
            if "error" in message:
                future.set_exception(error_from_wire(*message["error"]))
            else:
                future.set_result(message["ok"])

    def _take_call(self, message: Mapping[str, Any]) -> None:
        if message["op"] == "ping":
            self._reply(message, {"ok": None})
            return
        try:
            self._calls.put_nowait(message)
        except asyncio.QueueFull:
            self._reply(message, {"error": error_to_wire(
                Overloaded(what=message["op"], reason="Too many calls wait for their turn.", retry_after_s=1))})

    async def _answer_calls(self) -> None:
        while True:
            message = await self._calls.get()
            if self._writer is None or self._writer.is_closing():
                return                           # nobody would hear of it
            await self._answer(message)

    async def _answer(self, message: Mapping[str, Any]) -> None:
        """The edge: a call that fails must not end the channel."""
        assert self._on_call is not None
        try:
            answer: dict[str, object] = {"ok": await self._on_call(message["op"], message)}
        except StorageError as error:
            answer = {"error": error_to_wire(error)}
        except Exception as error:
            _log.error("call failed", op=message["op"], exc=error)
            answer = {"error": error_to_wire(StorageError(reason=repr(error)))}
        self._reply(message, answer)

    def _reply(self, message: Mapping[str, Any], answer: Mapping[str, object]) -> None:
        try:
            self._send({"id": message["id"], **answer})
        except TransportLost:
            pass                                 # the reader sees the end as well


def pack_config(config: HoldfastConfig) -> str:
    """Text for a message to a child."""
    return base64.b64encode(pickle.dumps(config)).decode()


def unpack_config(text: str) -> HoldfastConfig:
    """Inverse of `pack_config`; only for messages of the supervisor."""
    config = pickle.loads(base64.b64decode(text))
    assert isinstance(config, HoldfastConfig)
    return config
