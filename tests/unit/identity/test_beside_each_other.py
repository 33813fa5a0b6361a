"""Two changes at the same moment: none is lost, and none counts for what the other has taken away.

One transaction holds the counter of changes and has done its work; the request under test comes while it is not committed.
"""
from __future__ import annotations

import pytest
from sqlalchemy import delete, event, func, insert, select, update

from identity.model import assignment, group, project, project_tag, role, user


@pytest.mark.parametrize("gone", ["user", "group", "project"])
async def test_nothing_is_granted_beside_the_deletion_of_whom_or_where(make_cloud, beside, gone):
    async with make_cloud() as cloud:
        made = {kind: (await cloud.make(kind, name=f"a {kind}"))["id"] for kind in ("user", "group", "project")}
        table = {"user": user, "group": group, "project": project}[gone]
        actor = "group" if gone == "group" else "user"
        path = f"/v3/projects/{made['project']}/{actor}s/{made[actor]}/roles/{await cloud.role('member')}"
        answer = await beside(cloud, lambda connection: connection.execute(delete(table).where(table.c.id == made[gone])),
                              cloud.as_admin("PUT", path))
        assert answer.status == 404
        left = select(func.count()).select_from(assignment).where(
            (assignment.c.actor_id == made[actor]) | (assignment.c.target_id == made["project"]))
        assert await cloud.state.database.read(lambda connection: connection.execute(left).scalar()) == 0


@pytest.mark.parametrize("kind", ["user", "project", "domain", "role"])
async def test_options_and_attributes_set_at_the_same_moment_are_all_kept(make_cloud, beside, kind):
    async with make_cloud() as cloud:
        made = (await cloud.make(kind, name="x"))["id"]
        table = {"user": user, "role": role}.get(kind, project)
        other, name, value = ({"lock_password": True}, "multi_factor_auth_rules", [["password"]]) if kind == "user" else (
            {"of_another": True}, "immutable", False)
        answer = await beside(cloud, lambda connection: connection.execute(
            update(table).where(table.c.id == made).values(options=other, extra={"first": "1"})),
            cloud.as_admin("PATCH", f"/v3/{kind}s/{made}", {kind: {"options": {name: value}, **(
                {} if kind != "user" else {"second": "2"})}}))
        assert answer.status == 200, answer
        row = await cloud.state.database.read(lambda connection: connection.execute(select(table).where(table.c.id == made)).one())
        assert row.options == {**other, name: value}
        assert row.extra == {"first": "1", **({} if kind != "user" else {"second": "2"})}


@pytest.mark.parametrize("kind", ["user", "project", "role", "group"])
async def test_what_a_change_does_not_name_is_not_written(make_cloud, kind):
    async with make_cloud() as cloud:
        made = (await cloud.make(kind, name="x"))["id"]
        table = {"user": user, "role": role, "group": group}.get(kind, project)
        statements = []

        def listen(connection, cursor, statement, *_):
            statements.append(statement)

        event.listen(cloud.state.database.engine, "before_cursor_execute", listen)
        assert (await cloud.as_admin("PATCH", f"/v3/{kind}s/{made}", {kind: {"description": "d"}})).status == 200
        (one,) = [text for text in statements if text.startswith(f"UPDATE {table.name} ")]
        assert "options" not in one and "extra" not in one


async def test_tags_added_at_the_same_moment_are_both_there(make_cloud, beside):
    async with make_cloud() as cloud:
        made = (await cloud.make("project", name="p"))["id"]
        answer = await beside(cloud, lambda connection: connection.execute(insert(project_tag).values(project_id=made, tag="x")),
                              cloud.as_admin("PUT", f"/v3/projects/{made}/tags/y"))
        assert answer.status == 201
        assert (await cloud.as_admin("GET", f"/v3/projects/{made}/tags")).body["tags"] == ["x", "y"]
