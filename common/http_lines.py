"""What aiohttp would answer by itself, in our form: bytes that are no HTTP request, and the line that says who serves.

Its own words are plain text, tell its version and Python's to everybody, and leave a traceback in the log for each stray byte.
"""
from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

from common.log import Repeats

SERVER = "Holdfast"
Render = Callable[[int, str], tuple[str, str]]           # (status, sentence) to (content type, text)
_BROKEN = "This is no HTTP request that can be read."
_WORDS = {"LineTooLong": "The request line or a header field is too long.", "BadHttpMethod": "There is no such method."}


class Connection(web.RequestHandler):
    """One connection of aiohttp; render: an error's body, repeats: where what is no HTTP is logged, some of it."""

    def __init__(self, manager: web.Server, *, render: Render, repeats: Repeats, loop: asyncio.AbstractEventLoop,
                 **options: Any) -> None:
        super().__init__(manager, loop=loop, access_log=None, **options)      # type: ignore[arg-type]   # as AppRunner does
        self._render, self._repeats = render, repeats

    def handle_error(self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None,
                     message: str | None = None) -> web.StreamResponse:
        """Raises `ConnectionError` if the answer has begun."""
        if status >= 500:
            self._repeats.error("request failed outside of its application", peer=request.remote, exc=exc)
        else:                                            # whoever speaks no HTTP to us; scanners do it all day
            self._repeats.warning("bytes that are no HTTP request", about=type(exc).__name__, peer=request.remote)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun")
        content_type, text = self._render(status, _WORDS.get(type(exc).__name__, _BROKEN) if status < 500 else "It failed.")
        response = web.Response(status=status, body=text.encode(), headers={"Content-Type": content_type, "Server": SERVER})
        response.force_close()
        return response

    async def finish_response(self, request: web.BaseRequest, resp: web.StreamResponse,
                              start_time: float | None) -> tuple[web.StreamResponse, bool]:
        """What aiohttp refuses before an application has it: a target that is no path, an expectation."""
        if isinstance(resp, web.HTTPException):
            content_type, text = self._render(resp.status, resp.reason)
            resp.text, resp.content_type = text, content_type
        return await super().finish_response(request, resp, start_time)


async def name_server(_: web.Request, response: web.StreamResponse) -> None:
    """For `on_response_prepare` of an application."""
    response.headers["Server"] = SERVER


async def expect(request: web.Request) -> None:
    """For `expect_handler` of a route: what else somebody expects is no reason to refuse."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version >= (1, 1):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0                   # the answer has not begun
