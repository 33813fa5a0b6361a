"""The catalog of a token: services and endpoints, their URLs filled in, filtered for projects that have only some of them."""
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, select

from identity.model import endpoint, endpoint_group, project_endpoint, project_endpoint_group, service
from identity.state import Identity

_NAME = re.compile(r"[$%]\((\w+)\)s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One enabled endpoint with its service. region_id may be None."""

    id: str
    interface: str
    region_id: str | None
    url: str
    service_id: str
    service_type: str
    service_name: str


def load_offers(connection: Connection, state: Identity) -> tuple[Offer, ...]:
    """All of them; read again when the counter moved, because endpoints count there too."""
    generation = state.refresh_here(connection)
    if state.catalog is not None and state.catalog[0] == generation:
        kept: Any = state.catalog[1]
        return tuple(kept)
    rows = connection.execute(
        select(endpoint.c.id, endpoint.c.interface, endpoint.c.region_id, endpoint.c.url, service.c.id.label("service_id"),
               service.c.type, service.c.name).join(service, service.c.id == endpoint.c.service_id)
        .where(endpoint.c.enabled.is_(True), service.c.enabled.is_(True)).order_by(service.c.type, service.c.id,
                                                                                   endpoint.c.id)).all()
    offers = tuple(Offer(id=row.id, interface=row.interface, region_id=row.region_id, url=row.url, service_id=row.service_id,
                         service_type=row.type, service_name=row.name or "") for row in rows)
    state.catalog = (generation, offers)
    return offers


def allowed_endpoints(connection: Connection, project_id: str) -> set[str] | None:
    """Ids of the endpoints that a project was tied to, alone or by groups; None: it sees all."""
    tied = project_endpoint.c
    direct = set(connection.execute(select(tied.endpoint_id).where(tied.project_id == project_id)).scalars())
    groups = connection.execute(select(endpoint_group).join(
        project_endpoint_group, project_endpoint_group.c.endpoint_group_id == endpoint_group.c.id)
        .where(project_endpoint_group.c.project_id == project_id)).all()
    if not direct and not groups:
        return None
    for group in groups:
        direct |= {row.id for row in endpoints_of_group(connection, group.filters)}
    return direct


def endpoints_of_group(connection: Connection, filters: Mapping[str, Any]) -> list[Row[Any]]:
    """Rows of endpoint that a group's filters (service_id, region_id, interface, enabled) choose."""
    conditions = [endpoint.c[name] == value for name, value in filters.items() if name in ("service_id", "region_id", "interface")]
    if "enabled" in filters:
        conditions.append(endpoint.c.enabled.is_(bool(filters["enabled"])))
    return list(connection.execute(select(endpoint).where(*conditions)).all())


def make_catalog(connection: Connection, state: Identity, *, project_id: str | None, user_id: str,
                 host: str) -> list[dict[str, Any]]:
    """As a token shows it. An endpoint whose URL needs what the token has not (a project) is left out.

    host: under which the client reached us, for endpoints of listeners that are on every interface.
    """
    allowed = allowed_endpoints(connection, project_id) if project_id is not None else None
    values = {"host": host, "user_id": user_id, **({"project_id": project_id, "tenant_id": project_id} if project_id else {})}
    services: dict[str, dict[str, Any]] = {}
    for offer in load_offers(connection, state):
        if allowed is not None and offer.id not in allowed:
            continue
        url = fill_url(offer.url, values)
        if url is None:
            continue
        entry = services.setdefault(offer.service_id, {"id": offer.service_id, "type": offer.service_type,
                                                       "name": offer.service_name,
                                                       "endpoints": []})
        entry["endpoints"].append({"id": offer.id, "interface": offer.interface, "region_id": offer.region_id,
                                   "region": offer.region_id, "url": url})
    return list(services.values())


def fill_url(url: str, values: Mapping[str, str]) -> str | None:
    """%(project_id)s or $(project_id)s, also tenant_id, user_id, host. None if a value is not there."""
    if any(name not in values for name in _NAME.findall(url)):
        return None
    return _NAME.sub(lambda found: values[found[1]], url)
