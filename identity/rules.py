"""Who may do what in identity, unless an operator's policy file says otherwise.

The names are those that operators know from OpenStack. Four kinds of callers: administrators (role admin, unless their project
confines it), readers of the whole system, readers and managers of one domain, and owners of what is theirs. A manager of a domain
gives away the roles manager, member and reader only, and manages no user, group or project that is privileged, nor users and groups
with roles in other domains: what that is says identity/privilege.py.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping

_ADMIN = "rule:admin_required"
_READERS = "rule:rule_all_readers"


def _in_domain(role: str, attribute: str) -> str:
    return f"(role:{role} and domain_id:%({attribute})s)"


def _domain_things() -> Iterator[tuple[str, str]]:
    """Users, groups and projects: read by readers of their domain, changed by its managers."""
    for one, many in (("user", "users"), ("group", "groups"), ("project", "projects")):
        home = f"target.{one}.domain_id"
        is_reached = f"'False':%(target.{one}.is_privileged)s"
        if one != "project":
            is_reached += f" and 'False':%(target.{one}.has_roles_elsewhere)s"
        manages = f"(role:manager and domain_id:%({home})s and {is_reached})"
        yield f"identity:list_{many}", f"{_READERS} or {_in_domain('reader', 'target.domain_id')}"
        yield f"identity:get_{one}", f"{_READERS} or {_in_domain('reader', home)}"
        for action in ("create", "update", "delete"):
            yield f"identity:{action}_{one}", f"{_ADMIN} or {manages}"


def _plain_things() -> Iterator[tuple[str, str]]:
    """What belongs to the system: administrators change it, readers of the system see it."""
    names = {"service": "services", "endpoint": "endpoints", "policy": "policies", "endpoint_group": "endpoint_groups",
             "consumer": "consumers"}
    for one, many in names.items():
        yield f"identity:list_{many}", _READERS
        yield f"identity:get_{one}", _READERS
        for action in ("create", "update", "delete"):
            yield f"identity:{action}_{one}", _ADMIN
    for name in ("create_region", "update_region", "delete_region", "create_registered_limits", "update_registered_limit",
                 "delete_registered_limit", "create_limits", "update_limit", "delete_limit", "create_role", "update_role",
                 "delete_role", "create_domain_role", "update_domain_role", "delete_domain_role", "create_implied_role",
                 "delete_implied_role", "create_domain_config", "update_domain_config", "delete_domain_config",
                 "create_domain", "update_domain", "delete_domain", "add_endpoint_to_project", "remove_endpoint_from_project",
                 "add_endpoint_group_to_project", "remove_endpoint_group_from_project"):
        yield f"identity:{name}", _ADMIN
    for name in ("list_domain_roles", "get_domain_role", "list_implied_roles", "get_implied_role", "check_implied_role",
                 "list_role_inference_rules", "get_domain_config", "get_domain_config_default", "check_endpoint_in_project",
                 "list_endpoints_for_project", "list_projects_for_endpoint", "list_endpoint_groups_for_project",
                 "list_endpoints_associated_with_endpoint_group", "list_projects_associated_with_endpoint_group",
                 "get_endpoint_group_in_project", "list_revoke_events", "list_trusts"):
        yield f"identity:{name}", _READERS
    for name in ("list_regions", "get_region"):
        yield f"identity:{name}", "@"


def _grants() -> Iterator[tuple[str, str]]:
    """In its own domain a manager gives the harmless roles to those that have no others."""
    is_inside = " and ".join((
        "role:manager", "('manager':%(target.role.name)s or 'member':%(target.role.name)s or 'reader':%(target.role.name)s)",
        "'None':%(target.role.domain_id)s",
        "((domain_id:%(target.project.domain_id)s and 'False':%(target.project.is_privileged)s) or "
        "(domain_id:%(target.domain.id)s and 'False':%(target.domain.is_privileged)s))",
        "((domain_id:%(target.user.domain_id)s and 'False':%(target.user.is_privileged)s) or "
        "(domain_id:%(target.group.domain_id)s and 'False':%(target.group.is_privileged)s))"))
    is_reader = ("(role:reader and (domain_id:%(target.project.domain_id)s or domain_id:%(target.domain.id)s) and "
                 "(domain_id:%(target.user.domain_id)s or domain_id:%(target.group.domain_id)s))")
    for name in ("create_grant", "revoke_grant"):
        yield f"identity:{name}", f"{_ADMIN} or ({is_inside})"
    for name in ("check_grant", "list_grants"):
        yield f"identity:{name}", f"{_READERS} or {is_reader}"
    for actor in ("user", "group"):
        for action in ("create", "revoke"):
            yield f"identity:{action}_system_grant_for_{actor}", _ADMIN
        yield f"identity:check_system_grant_for_{actor}", _READERS
        yield f"identity:list_system_grants_for_{actor}", _READERS
    yield "identity:list_role_assignments", f"{_READERS} or {_in_domain('reader', 'target.domain_id')}"
    yield "identity:list_role_assignments_for_tree", f"{_READERS} or (role:manager and project_id:%(target.project.id)s)"


def _own_things() -> Iterator[tuple[str, str]]:
    """What belongs to a user."""
    owner = "user_id:%(target.user.id)s"
    for name in ("list_access_tokens", "get_access_token", "delete_access_token", "list_access_token_roles",
                 "get_access_token_role"):
        yield f"identity:{name}", f"{_ADMIN} or {owner}"
    for name in ("list_application_credentials", "get_application_credential", "list_access_rules", "get_access_rule"):
        yield f"identity:{name}", f"{_READERS} or {owner}"
    yield "identity:create_application_credential", owner
    yield "identity:delete_application_credential", f"{_ADMIN} or {owner}"
    yield "identity:delete_access_rule", f"{_ADMIN} or {owner}"
    credential = "user_id:%(target.credential.user_id)s"
    for name in ("create_credential", "list_credentials", "get_credential", "update_credential", "delete_credential",
                 "ec2_create_credential", "ec2_list_credentials", "ec2_get_credential", "ec2_delete_credential"):
        yield f"identity:{name}", f"{_ADMIN} or {credential}"
    people = "user_id:%(target.trust.trustor_user_id)s or user_id:%(target.trust.trustee_user_id)s"
    yield "identity:create_trust", "user_id:%(target.trust.trustor_user_id)s"
    yield "identity:delete_trust", f"{_ADMIN} or user_id:%(target.trust.trustor_user_id)s"
    for name in ("get_trust", "list_roles_for_trust", "get_role_for_trust", "list_trusts_for_trustor"):
        yield f"identity:{name}", f"{_READERS} or {people}"


def _rules() -> Iterator[tuple[str, str]]:
    yield "rule_all_readers", "rule:admin_required or rule:system_reader"
    yield from _domain_things()
    yield from _plain_things()
    yield from _grants()
    yield from _own_things()
    yield "identity:get_user", (f"{_READERS} or {_in_domain('reader', 'target.user.domain_id')} or user_id:%(target.user.id)s")
    yield "identity:get_project", (f"{_READERS} or {_in_domain('reader', 'target.project.domain_id')} "
                                   "or project_id:%(target.project.id)s")
    for name in ("list_user_projects", "list_groups_for_user"):
        yield f"identity:{name}", f"{_READERS} or {_in_domain('reader', 'target.user.domain_id')} or user_id:%(target.user.id)s"
    for name in ("list_users_in_group", "check_user_in_group"):
        yield f"identity:{name}", f"{_READERS} or {_in_domain('reader', 'target.group.domain_id')}"
    for name in ("add_user_to_group", "remove_user_from_group"):
        yield f"identity:{name}", (f"{_ADMIN} or (role:manager and domain_id:%(target.group.domain_id)s and "
                                   "domain_id:%(target.user.domain_id)s and 'False':%(target.user.is_privileged)s and "
                                   "'False':%(target.group.is_privileged)s and "
                                   "'False':%(target.group.has_roles_elsewhere)s)")
    yield "identity:list_domains", f"{_READERS} or {_in_domain('reader', 'target.domain_id')}"
    yield "identity:get_domain", (f"{_READERS} or domain_id:%(target.domain.id)s or project_domain_id:%(target.domain.id)s")
    for name in ("list_roles", "get_role"):
        yield f"identity:{name}", f"{_READERS} or role:manager"
    for name in ("list_project_tags", "get_project_tag"):
        yield f"identity:{name}", (f"{_READERS} or {_in_domain('reader', 'target.project.domain_id')} "
                                   "or project_id:%(target.project.id)s")
    for name in ("update_project_tags", "create_project_tag", "delete_project_tag", "delete_project_tags"):
        yield f"identity:{name}", (f"{_ADMIN} or (role:manager and domain_id:%(target.project.domain_id)s and "
                                   "'False':%(target.project.is_privileged)s) or "
                                   "(role:manager and project_id:%(target.project.id)s)")
    yield "identity:get_limit", (f"{_READERS} or project_id:%(target.limit.project_id)s or "
                                 "domain_id:%(target.limit.domain_id)s or project_domain_id:%(target.limit.domain_id)s")
    for name in ("validate_token", "check_token"):
        yield f"identity:{name}", f"{_READERS} or rule:service_role or user_id:%(target.token.user_id)s"
    yield "identity:revoke_token", f"{_ADMIN} or user_id:%(target.token.user_id)s"
    for name in ("ec2_tokens", "s3_tokens"):
        yield f"identity:{name}", f"{_ADMIN} or rule:service_role"
    yield "identity:authorize_request_token", "@"


DEFAULTS: Mapping[str, str] = dict(_rules())
