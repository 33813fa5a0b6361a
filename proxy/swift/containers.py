"""Handlers of containers. Only the owner of the account makes, changes and removes them; ACLs open them for reading."""
from __future__ import annotations

from common.errors import NotFound
from common.timestamp import format_timestamp, last_modified
from proxy.errors import Refusal, answer
from proxy.http.message import Response
from proxy.model import ContainerInfo
from proxy.swift.accounts import create_account
from proxy.swift.constraints import check_name
from proxy.swift.context import Ask, Gateway
from proxy.swift.listing import choose_format, listing_answer, parse_page
from proxy.swift.metadata import ACLS, OWNER_META, meta_change, meta_fields


async def get_container(gateway: Gateway, ask: Ask) -> Response:
    """200 or 204 with the objects."""
    account, name = ask.path.account, ask.path.container
    if not ask.asker.is_reader:
        await _need_listing(gateway, ask)
    media = choose_format(ask.request)
    page = parse_page(ask.request, gateway.limits.container_listing_limit)
    info, entries = await gateway.store.list_container(account, name, page)
    return listing_answer(media, _container_fields(gateway, ask, info), kind="container", name=name, entries=entries)


async def head_container(gateway: Gateway, ask: Ask) -> Response:
    """204 with metadata and figures."""
    if not ask.asker.is_reader:
        await _need_listing(gateway, ask)
    media = choose_format(ask.request)
    info = await gateway.store.container(ask.path.account, ask.path.container, fresh=True)
    headers = _container_fields(gateway, ask, info)
    headers += (("Content-Type", f"{media}; charset=utf-8"), ("Vary", "Accept"))
    return Response(204, headers)


async def put_container(gateway: Gateway, ask: Ask) -> Response:
    """201 for a new container, 202 for one that was there."""
    ask.asker.need_owner()
    account, name = ask.path.account, ask.path.container
    check_name("Container", name, gateway.limits.max_container_name_length)
    change = meta_change(ask.request.headers, gateway.limits, kind="container")
    policy = _parse_policy(gateway, ask)
    try:
        is_new = await gateway.store.put_container(account, name, change, policy=policy)
    except NotFound:
        await create_account(gateway, ask)
        is_new = await gateway.store.put_container(account, name, change, policy=policy)
    return answer(201 if is_new else 202)


async def post_container(gateway: Gateway, ask: Ask) -> Response:
    """204: metadata merged."""
    ask.asker.need_owner()
    change = meta_change(ask.request.headers, gateway.limits, kind="container")
    await gateway.store.post_container(ask.path.account, ask.path.container, change)
    return answer(204)


async def delete_container(gateway: Gateway, ask: Ask) -> Response:
    """204, or 409 while objects are in it."""
    ask.asker.need_owner()
    await gateway.store.delete_container(ask.path.account, ask.path.container)
    return answer(204)


async def _need_listing(gateway: Gateway, ask: Ask) -> None:
    """Raises unless an ACL allows the listing."""
    try:
        info = await gateway.store.container(ask.path.account, ask.path.container)
    except NotFound:
        raise ask.asker.hidden() from None
    ask.asker.need_read(info, is_listing=True)


def _parse_policy(gateway: Gateway, ask: Ask) -> int | None:
    """Index of the policy asked for; None: what the container has, or the default."""
    name = ask.request.headers.get("x-storage-policy")
    if not name:
        return None
    policy = gateway.settings.policy_named(name)
    if policy is None:
        raise Refusal(400, f"Invalid X-Storage-Policy {name!r}").because(
            "policy.unknown", policy=name, policies=[policy.name for policy in gateway.settings.policies])
    return policy.index


def _container_fields(gateway: Gateway, ask: Ask, info: ContainerInfo) -> list[tuple[str, str]]:
    is_owner = ask.asker.is_owner
    fields = [
        ("X-Container-Object-Count", str(info.object_count)),
        ("X-Container-Bytes-Used", str(info.bytes_used)),
        ("X-Timestamp", format_timestamp(info.created_us)),
        ("Last-Modified", last_modified(info.put_us)),
        ("Accept-Ranges", "bytes"),
    ]
    policy = gateway.settings.policy_name(info.policy)
    if policy is not None:
        fields.append(("X-Storage-Policy", policy))
    if is_owner:
        fields += [(name.title(), info.headers[name]) for name in ACLS if info.headers.get(name)]
    meta = info.meta if is_owner else {name: value for name, value in info.meta.items() if name not in OWNER_META}
    return fields + meta_fields("X-Container-Meta-", meta)
