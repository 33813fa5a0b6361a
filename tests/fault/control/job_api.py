"""Run by test_two_api_processes.py: an API process of boxes, with its workers. Prints its port.

    python job_api.py URL DIRECTORY
"""
from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path

from aiohttp import web
from sqlalchemy import select

from common.clock import SystemClock
from common.errors import NotFound, Unauthorized
from control import errors
from control.app import Service, make_app
from control.context import Context
from control.db import Database
from control.policy import Policy
from control.routes import Answer, Route, RouteTable
from control.schema import BodySchema
from control.workflow import Quota, origin_of, submit
from tests.job_sample import QUOTAS, Boxes, box, make_engine, make_store


class Tokens:
    """One token is good."""

    async def authenticate(self, token, service_token):
        if token != "good":
            raise Unauthorized()
        return Context(user_id="u", project_id="p", roles=frozenset({"member"}))


def create(connection, call):
    call.enforce()
    store, boxes = call.state
    box_id = uuid.uuid4().hex
    submit(connection, store, boxes.create, box_id, args={"size": call.body["size"]},
           origin=origin_of(request_id=call.request_id, method=call.method, path=call.path, context=call.context),
           quota=Quota(quotas=QUOTAS, project_id="p", amounts={"boxes": 1}), create={"project_id": "p", "size": call.body["size"]})
    return Answer(body={"id": box_id})


def show(connection, call):
    call.enforce()
    row = connection.execute(select(box).where(box.c.id == call.params["box_id"])).first()
    if row is None:
        raise NotFound(what="box", name=call.params["box_id"])
    return {"id": row.id, "status": row.status, "fault": row.fault}


def delete(connection, call):
    call.enforce()
    store, boxes = call.state
    submit(connection, store, boxes.erase, call.params["box_id"],
           origin=origin_of(request_id=call.request_id, method=call.method, path=call.path, context=call.context))


ROUTES = (Route("POST", "/boxes", create, "all", 202, BodySchema({"type": "object", "required": ["size"]})),
          Route("GET", "/boxes/{box_id}", show, "all"), Route("DELETE", "/boxes/{box_id}", delete, "all", 202))


async def live(url: str, root: Path) -> None:
    """Until it is killed."""
    database, boxes = Database(url), Boxes(root)
    store = make_store(database)
    engine = make_engine(database, boxes, store=store)
    await engine.start()
    service = Service(name="box", type="box", routes=RouteTable(ROUTES), database=database, errors=errors.COMPUTE,
                      clock=SystemClock(), policy=Policy({"all": "@"}), tokens=Tokens(), state=(store, boxes))
    runner = web.AppRunner(make_app(service))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(live(sys.argv[1], Path(sys.argv[2])))
