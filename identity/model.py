"""The tables of identity. Times are microseconds since 1970; uniqueness and references are promises of the tables, not of code.

A domain is a project with `is_domain`; domains stand below a hidden row with the id "" (`ROOT`), so that one rule of names,
(domain, name) unique, covers projects and domains. A role that belongs to no domain has the domain "" as well.
"""
from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

ROOT, DEFAULT_DOMAIN = "", "default"
metadata = MetaData(naming_convention={
    "ix": "ix_%(column_0_label)s", "uq": "uq_%(table_name)s_%(column_0_N_name)s", "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s", "pk": "pk_%(table_name)s"})


def _id(name: str = "id") -> Column[str]:
    return Column(name, String(255), primary_key=True)


def _text(name: str, *, nullable: bool = False, size: int = 255) -> Column[str]:
    return Column(name, String(size), nullable=nullable)


def _of(name: str, target: str, *, is_key: bool = False, nullable: bool = False, cascade: bool = True) -> Column[str]:
    """A reference; the row goes with what it refers to, unless cascade is False: then it is in its way."""
    return Column(name, String(255), ForeignKey(target, ondelete="CASCADE" if cascade else "RESTRICT"), primary_key=is_key,
                  nullable=nullable, index=not is_key)


def _flag(name: str) -> Column[bool]:
    return Column(name, Boolean(create_constraint=False), nullable=False)


def _time(name: str, *, nullable: bool = True) -> Column[int]:
    return Column(name, BigInteger, nullable=nullable)


def _json(name: str = "extra") -> Column[dict[str, object]]:
    return Column(name, JSON, nullable=False)


project = Table(
    "project", metadata, _id(), _text("name"), _of("domain_id", "project.id", cascade=False),
    _of("parent_id", "project.id", nullable=True, cascade=False), _flag("is_domain"), _flag("enabled"), Column("description", Text),
    _json("options"), _json(), UniqueConstraint("domain_id", "name"))
project_tag = Table("project_tag", metadata, _of("project_id", "project.id", is_key=True),
                    Column("tag", String(255), primary_key=True))

user = Table(
    "user_account", metadata, _id(), _of("domain_id", "project.id", cascade=False), _text("name"), _flag("enabled"),
    Column("description", Text), Column("email", Text), _text("default_project_id", nullable=True), Column("password_hash", Text),
    _time("password_changed_us"), _time("password_expires_us"), _flag("must_change_password"), _json("options"), _json(),
    Column("failed_count", Integer, nullable=False), _time("failed_us"), _time("last_active_us"), _time("created_us",
                                                                                                        nullable=False),
    Column("source_print", Text), UniqueConstraint("domain_id", "name"))
password_history = Table(
    "password_history", metadata, _id(), _of("user_id", "user_account.id"), Column("password_hash", Text, nullable=False),
    _time("created_us", nullable=False))
group = Table("user_group", metadata, _id(), _of("domain_id", "project.id", cascade=False), _text("name"),
              Column("description", Text),
              _json(), UniqueConstraint("domain_id", "name"))
membership = Table("membership", metadata, _of("group_id", "user_group.id", is_key=True),
                   _of("user_id", "user_account.id", is_key=True), Index("ix_membership_user", "user_id"))

role = Table("role", metadata, _id(), _of("domain_id", "project.id", cascade=False), _text("name"), Column("description", Text),
             _json("options"), _json(), UniqueConstraint("domain_id", "name"))
role_implies = Table("role_implies", metadata, _of("prior_id", "role.id", is_key=True), _of("implied_id", "role.id", is_key=True))
# Actors and targets are of several kinds, so they carry no foreign key: whoever deletes one deletes its assignments with it.
assignment = Table(
    "assignment", metadata, Column("actor_kind", String(8), primary_key=True), _id("actor_id"),
    Column("target_kind", String(8), primary_key=True), _id("target_id"), _of("role_id", "role.id", is_key=True),
    Column("is_inherited", Boolean(create_constraint=False), primary_key=True),
    CheckConstraint("actor_kind IN ('user', 'group')", name="actor"),
    CheckConstraint("target_kind IN ('project', 'domain', 'system')", name="target"),
    Index("ix_assignment_target", "target_kind", "target_id"), Index("ix_assignment_role", "role_id"))

region = Table("region", metadata, _id(), _of("parent_region_id", "region.id", nullable=True, cascade=False),
               Column("description", Text, nullable=False), _json())
service = Table("service", metadata, _id(), _text("type"), _text("name", nullable=True), _flag("enabled"),
                Column("description", Text),
                _json())
endpoint = Table(
    "endpoint", metadata, _id(), _of("service_id", "service.id"), _of("region_id", "region.id", nullable=True, cascade=False),
    _text("interface", size=8), Column("url", Text, nullable=False), _flag("enabled"), _json(),
    CheckConstraint("interface IN ('public', 'internal', 'admin')", name="interface"))
endpoint_group = Table("endpoint_group", metadata, _id(), _text("name"), Column("description", Text), _json("filters"))
project_endpoint = Table("project_endpoint", metadata, _of("project_id", "project.id", is_key=True),
                         _of("endpoint_id", "endpoint.id", is_key=True))
project_endpoint_group = Table("project_endpoint_group", metadata, _of("project_id", "project.id", is_key=True),
                               _of("endpoint_group_id", "endpoint_group.id", is_key=True))

credential = Table(
    "credential", metadata, _id(), _of("user_id", "user_account.id"), _text("project_id", nullable=True), _text("type"),
    _text("access_digest", nullable=True), Column("sealed", Text, nullable=False), _text("app_credential_id",
        nullable=True), _text("trust_id", nullable=True), _json(),
    Index("ix_credential_project", "project_id"), UniqueConstraint("access_digest"))
policy = Table("policy", metadata, _id(), _text("type"), Column("blob", Text, nullable=False), _json())

trust = Table(
    "trust", metadata, _id(), _of("trustor_user_id", "user_account.id"), _of("trustee_user_id", "user_account.id"),
    _of("project_id", "project.id", nullable=True), _flag("impersonation"), _time("expires_us"), Column("remaining_uses", Integer),
    Column("redelegation_count", Integer, nullable=False), _of("redelegated_trust_id", "trust.id",
                                                               nullable=True), _time("deleted_us"),
    CheckConstraint("remaining_uses >= 0", name="uses"))
trust_role = Table("trust_role", metadata, _of("trust_id", "trust.id", is_key=True), _of("role_id", "role.id", is_key=True))

app_credential = Table(
    "app_credential", metadata, _id(), _of("user_id", "user_account.id"), _of("project_id", "project.id"), _text("name"),
    Column("description", Text), Column("secret_hash", Text, nullable=False), _time("expires_us"), _flag("unrestricted"),
    _text("parent_id", nullable=True),                   # with whose token it was made; it ends with that one
    Index("ix_app_credential_parent_id", "parent_id"), UniqueConstraint("user_id", "name"))
app_credential_role = Table("app_credential_role", metadata, _of("app_credential_id", "app_credential.id", is_key=True),
                            _of("role_id", "role.id", is_key=True))
access_rule = Table(
    "access_rule", metadata, _id(), _of("user_id", "user_account.id"), _text("service"), _text("path", size=1024),
    _text("method", size=16), UniqueConstraint("user_id", "service", "path", "method"))
app_credential_access_rule = Table(
    "app_credential_access_rule", metadata, _of("app_credential_id", "app_credential.id", is_key=True),
    _of("access_rule_id", "access_rule.id", is_key=True, cascade=False))

consumer = Table("consumer", metadata, _id(), Column("description", Text), Column("sealed", Text, nullable=False), _json())
request_token = Table(
    "request_token", metadata, _id(), Column("sealed", Text, nullable=False), _of("consumer_id", "consumer.id"),
    _of("project_id", "project.id"), _text("verifier", nullable=True), _text("user_id", nullable=True), _json("role_ids"),
    _time("expires_us", nullable=False))
access_token = Table(
    "access_token", metadata, _id(), Column("sealed", Text, nullable=False), _of("consumer_id", "consumer.id"),
    _of("user_id", "user_account.id"), _of("project_id", "project.id"), _json("role_ids"), _time("expires_us"))
oauth_nonce = Table("oauth_nonce", metadata, _id(), _time("expires_us", nullable=False))

domain_option = Table(
    "domain_option", metadata, _of("domain_id", "project.id", is_key=True), Column("section", String(255), primary_key=True),
    Column("name", String(255), primary_key=True), Column("sealed", Text, nullable=False))

registered_limit = Table(
    "registered_limit", metadata, _id(), _of("service_id", "service.id", cascade=False), _text("region_id", nullable=True),
    _text("region_key"), _text("resource_name"), Column("default_limit", BigInteger, nullable=False), Column("description", Text),
    UniqueConstraint("service_id", "region_key", "resource_name"))
project_limit = Table(
    "project_limit", metadata, _id(), _of("registered_limit_id", "registered_limit.id", cascade=False),
    _of("project_id", "project.id", nullable=True), _of("domain_id", "project.id", nullable=True), _text("owner_key"),
    Column("resource_limit", BigInteger, nullable=False), Column("description", Text), UniqueConstraint("registered_limit_id",
                                                                                                        "owner_key"))

# What ends tokens before their time. number: of the counter `auth` when it happened, which orders events and tokens with no clock.
revocation = Table(
    "revocation", metadata, Column("number", BigInteger, primary_key=True, autoincrement=False), _text("kind",
                                                                                                       size=32), _text("value"),
    _time("revoked_us", nullable=False))
totp_used = Table("totp_used", metadata, _of("credential_id", "credential.id", is_key=True),
                  Column("step", BigInteger, nullable=False))
counter = Table("counter", metadata, _id("name"), Column("value", BigInteger, nullable=False))
