"""Handlers of accounts. An account begins with the first authorized request of its owner."""
from __future__ import annotations

from common.errors import Conflict, NotFound
from common.timestamp import format_timestamp
from proxy.errors import Refusal, answer
from proxy.http.message import Response
from proxy.model import AccountInfo, MetaChange
from proxy.swift.constraints import check_name
from proxy.swift.context import Ask, Gateway
from proxy.swift.listing import choose_format, listing_answer, parse_page
from proxy.swift.metadata import OWNER_META, meta_change, meta_fields


async def get_account(gateway: Gateway, ask: Ask) -> Response:
    """200 or 204 with the containers."""
    ask.asker.need_account_reader()
    account = ask.path.account
    media = choose_format(ask.request)
    page = parse_page(ask.request, gateway.limits.account_listing_limit)
    try:
        info, entries = await gateway.store.list_account(account, page)
    except NotFound:
        info, entries = await _begin_account(gateway, ask), []
    return listing_answer(media, _account_fields(ask, info), kind="account", name=account, entries=entries)


async def head_account(gateway: Gateway, ask: Ask) -> Response:
    """204 with metadata and figures."""
    ask.asker.need_account_reader()
    media = choose_format(ask.request)
    try:
        info = await gateway.store.account(ask.path.account, fresh=True)
    except NotFound:
        info = await _begin_account(gateway, ask)
    headers = [*_account_fields(ask, info), ("Content-Type", f"{media}; charset=utf-8"), ("Vary", "Accept")]
    return Response(204, headers)


async def post_account(gateway: Gateway, ask: Ask) -> Response:
    """204: metadata merged."""
    ask.asker.need_owner()
    change = meta_change(ask.request.headers, gateway.limits, kind="account")
    try:
        await gateway.store.post_account(ask.path.account, change)
    except NotFound:
        await create_account(gateway, ask, change)
    return answer(204)


async def put_account(gateway: Gateway, ask: Ask) -> Response:
    """201 or 202; for the reseller admin."""
    ask.asker.need_reseller_admin()
    change = meta_change(ask.request.headers, gateway.limits, kind="account")
    return answer(201 if await create_account(gateway, ask, change) else 202)


async def delete_account(gateway: Gateway, ask: Ask) -> Response:
    """204: hidden at once, emptied later; for the reseller admin."""
    ask.asker.need_reseller_admin()
    await gateway.store.delete_account(ask.path.account)
    return answer(204)


async def create_account(gateway: Gateway, ask: Ask, change: MetaChange | None = None) -> bool:
    """True when it is new. Raises `BadRequest` (name), `Refusal` 410 while a deleted one of this name is being emptied."""
    check_name("Account", ask.path.account, gateway.limits.max_account_name_length)
    try:
        return await gateway.store.create_account(ask.path.account, change or MetaChange())
    except Conflict as error:
        raise Refusal(410, None, [("X-Account-Status", "Deleted")]).because("account.deleted") from error


async def _begin_account(gateway: Gateway, ask: Ask) -> AccountInfo:
    """The account that its owner has just named for the first time.

    Who only reads it, and a reseller admin who looks at an account that does not exist, sees an empty one and does not make it.
    """
    identity = ask.asker.identity
    if identity is None or ask.path.account not in identity.owned:
        return AccountInfo(name=ask.path.account, created_us=0, put_us=0)
    await create_account(gateway, ask)
    return await gateway.store.account(ask.path.account, fresh=True)


def _account_fields(ask: Ask, info: AccountInfo) -> list[tuple[str, str]]:
    meta = info.meta if ask.asker.is_owner else {name: value for name, value in info.meta.items() if name not in OWNER_META}
    return [
        ("X-Account-Container-Count", str(info.container_count)),
        ("X-Account-Object-Count", str(info.object_count)),
        ("X-Account-Bytes-Used", str(info.bytes_used)),
        ("X-Timestamp", format_timestamp(info.created_us)),
        ("Accept-Ranges", "bytes"),
        *meta_fields("X-Account-Meta-", meta),
    ]
