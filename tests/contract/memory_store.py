"""A whole store in two dictionaries: what every other `Store` has to behave like."""
from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

from common.errors import BodyTooLarge, ChecksumMismatch, Conflict, NotFound
from proxy.model import AccountInfo, ContainerEntry, ContainerInfo, ObjectEntry, ObjectInfo, Subdir, Target

INLINE_BYTES_MAX = 65_536
PIECE_BYTES = 100_000


@dataclass
class _Container:
    info: ContainerInfo
    objects: dict = field(default_factory=dict)          # name -> (ObjectInfo without body, bytes)


@dataclass
class _Account:
    info: AccountInfo
    is_deleted: bool = False
    containers: dict = field(default_factory=dict)


class MemoryStore:
    def __init__(self, clock, *, default_policy=0):
        self.clock = clock
        self.default_policy = default_policy
        self.accounts = {}
        self.open_bodies = 0                               # readers that were neither finished nor closed
        self._last_us = 0

    def _tick(self):
        self._last_us = max(self.clock.now_us(), self._last_us + 1)
        return self._last_us

    # accounts

    def _account(self, name):
        found = self.accounts.get(name)
        if found is None or found.is_deleted:
            raise NotFound(what="account")
        return found

    async def account(self, name, *, fresh=False):
        found = self._account(name)
        containers = [self._figures(c) for c in found.containers.values()]
        return replace(found.info, container_count=len(containers), object_count=sum(c.object_count for c in containers),
                       bytes_used=sum(c.bytes_used for c in containers))

    async def create_account(self, name, change):
        found = self.accounts.get(name)
        if found is not None and found.is_deleted:
            raise Conflict(what="account")
        if found is not None:
            await self.post_account(name, change)
            return False
        now = self._tick()
        self.accounts[name] = _Account(merge(AccountInfo(name=name, created_us=now, put_us=now), change, now))
        return True

    async def post_account(self, name, change):
        found = self._account(name)
        found.info = merge(found.info, change, self._tick())

    async def delete_account(self, name):
        self._account(name).is_deleted = True

    async def list_account(self, name, page):
        rows = {}
        for found in self._account(name).containers.values():
            info = self._figures(found)
            rows[info.name] = ContainerEntry(info.name, info.object_count, info.bytes_used, info.put_us)
        return await self.account(name), list_rows(rows, page)

    # containers

    def _container(self, account, name):
        found = self._account(account).containers.get(name)
        if found is None:
            raise NotFound(what="container")
        return found

    def _figures(self, found):
        live = [info for name in found.objects if (info := self._live(found, name)) is not None]
        return replace(found.info, object_count=len(live), bytes_used=sum(info.size_bytes for info in live))

    async def container(self, account, name, *, fresh=False):
        return self._figures(self._container(account, name))

    async def put_container(self, account, name, change, *, policy):
        containers = self._account(account).containers
        found = containers.get(name)
        if found is not None and policy not in (None, found.info.policy):
            raise Conflict(what="policy")
        if found is not None:
            await self.post_container(account, name, change)
            return False
        now = self._tick()
        info = ContainerInfo(account=account, name=name, instance=now, created_us=now, put_us=now,
                             policy=self.default_policy if policy is None else policy)
        containers[name] = _Container(merge(info, change, now))
        return True

    async def post_container(self, account, name, change):
        found = self._container(account, name)
        found.info = merge(found.info, change, self._tick())

    async def delete_container(self, account, name):
        if any(self._live(self._container(account, name), n) for n in self._container(account, name).objects):
            raise Conflict(what="container")
        del self._account(account).containers[name]

    async def list_container(self, account, name, page):
        found = self._container(account, name)
        rows = {}
        for key in found.objects:
            info = self._live(found, key)
            if info is not None:
                d = info.descriptor
                rows[key] = ObjectEntry(key, info.size_bytes, d.etag, d.content_type, d.extra.get("post_us", d.created_us))
        return self._figures(found), list_rows(rows, page)

    # objects

    def _live(self, found, name):
        info, _ = found.objects.get(name, (None, b""))
        if info is not None and 0 < info.descriptor.delete_at_s <= self.clock.now_us() // 1_000_000:
            return None
        return info

    async def look(self, account, container, name):
        found = self._container(account, container)
        return Target(container=self._figures(found), current=self._live(found, name), state=(found, name))

    async def get_object(self, account, container, name, *, want_body):
        found = self._container(account, container)
        info = self._live(found, name)
        if info is None:
            raise NotFound(what="object")
        body = found.objects[name][1]
        return self._figures(found), replace(info, body=body if want_body and len(body) <= INLINE_BYTES_MAX else None)

    async def read_body(self, info, offset, count):
        _, account, container, name = info.path.split("/", 3)
        body = self.accounts[account].containers[container].objects[name][1]
        self.open_bodies += 1
        try:
            for start in range(offset, offset + count, PIECE_BYTES):
                yield body[start:min(start + PIECE_BYTES, offset + count)]
        finally:
            self.open_bodies -= 1

    async def put_object(self, target, descriptor, body, *, condition, expected_etag, size_max):
        found, name = target.state
        data = body.take_ready()
        if data is None:
            data = b""
            while piece := await body.read_chunk():
                data += piece
                if len(data) > size_max:
                    break
        if len(data) > size_max:
            raise BodyTooLarge(limit_bytes=size_max)
        etag = hashlib.md5(data).hexdigest()
        if expected_etag not in (None, etag):
            raise ChecksumMismatch(expected=expected_etag, computed=etag)
        if condition is not None:
            condition(self._live(found, name))
        path = f"/{found.info.account}/{found.info.name}/{name}"
        stored = replace(descriptor, created_us=self._tick(), etag=etag)
        info = ObjectInfo(path=path, size_bytes=len(data), descriptor=stored)
        found.objects[name] = (info, data)
        return info

    async def post_object(self, target, change):
        found, name = target.state
        info = self._live(found, name)
        if info is None:
            raise NotFound(what="object")
        found.objects[name] = (replace(info, descriptor=change(info.descriptor)), found.objects[name][1])
        return True

    async def delete_object(self, target, condition):
        found, name = target.state
        info = self._live(found, name)
        if condition is not None:
            condition(info)
        if info is None:
            raise NotFound(what="object")
        del found.objects[name]
        return info


def merge(info, change, now_us):
    """Account or container after a `MetaChange`."""
    meta = {name: value for name, value in {**info.meta, **change.meta}.items() if value}
    headers = {name: value for name, value in {**info.headers, **change.headers}.items() if value}
    if change.check is not None:
        change.check(meta)
    return replace(info, meta=meta, headers=headers, put_us=now_us)


def list_rows(rows, page):
    """A page by the plainest means there are: look at every name, in order."""
    prefix, delimiter = page.prefix, page.delimiter
    if page.path is not None:
        prefix, delimiter = (page.path.rstrip("/") + "/" if page.path else ""), "/"
    low, high = (page.end_marker, page.marker) if page.reverse else (page.marker, page.end_marker)
    out = []
    for name in sorted(rows, key=str.encode, reverse=page.reverse):
        if not name.startswith(prefix) or (low and name <= low) or (high and name >= high):
            continue
        cut = name.find(delimiter, len(prefix)) if delimiter else -1
        folder = name[:cut + len(delimiter)] if cut >= 0 else None
        if page.path is not None:
            if name != prefix and folder in (None, name):
                out.append(rows[name])
        elif folder is None:
            out.append(rows[name])
        elif folder != page.marker and Subdir(folder) not in out:
            out.append(Subdir(folder))
    return out[:page.limit]
