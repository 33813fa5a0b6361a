"""What each rule means to an operator: why it said no, and what to do. The names are those that `because` gives in the code.

Texts are formats over the facts of the link and of the request; `tests/unit/cli` holds that every rule has a row.
"""
from __future__ import annotations

from typing import NamedTuple


class Rule(NamedTuple):
    """why: what it decided and on what. advice: what to do about it, "" where nothing is wrong."""

    why: str
    advice: str = ""


_LIMIT = "the client has to send less, or raise {setting} in [limits] and reload (SIGHUP)"
_LOGIN = "log in again: GET /auth/v1.0 with X-Auth-User and X-Auth-Key"
_DEVICES = "bring the devices named here back; `holdfast status` says what each of them needs. Then the client may try again"

RULES: dict[str, Rule] = {
    # who asks
    "auth.token_unknown": Rule("the token does not have the form of this store's tokens", f"is it of another cluster? {_LOGIN}"),
    "auth.token_malformed": Rule("the token begins like ours but is cut short or damaged", f"send it whole; or {_LOGIN}"),
    "auth.token_forged": Rule(
        "the token's signature is not ours: damaged, made up, or from before the token key was changed",
        _LOGIN),
    "auth.token_expired": Rule(
        "the token of {user} expired {expired_s} s ago; tokens live {life_s} s",
        f"{_LOGIN}. Longer ones: token_life_s in [auth]"),
    "auth.key_changed": Rule("the token of {user} was made with a key that has been changed since", _LOGIN),
    "auth.user_gone": Rule("the token's user {user} is no longer configured", "add an [[auth.user]], or log in as another one"),
    "auth.wrong_key": Rule(
        "wrong key for {user}",
        "send the right one, or give the user another key in [[auth.user]]; then SIGHUP"),
    "auth.unknown_user": Rule("there is no user {user}", "users are account:name, as in [[auth.user]]; check the spelling"),
    "auth.no_login": Rule("the login named no user or no key", "send X-Auth-User (account:name) and X-Auth-Key"),
    "auth.needs_tls": Rule(
        "logins over plain HTTP are refused on a public address",
        "set cert and key in [tls]; or insecure_http = true in [tls] if something else encrypts"),
    "token.future": Rule(
        "the token of user {user} was made {ahead_s} s in the future: the clock of identity or that of this node is wrong",
        "set the clocks right, then log in again"),
    "identity.starting": Rule(
        "this worker has not heard of identity yet, so it cannot judge its tokens",
        "the client may try again; if it stays so, `holdfast status` says what keeps identity from starting"),
    "identity.behind": Rule(
        "the token is younger than what this worker has heard of identity ({token}, {known}), and the news did not come in time",
        "the client may try again; if it stays so, look at the load of the control API"),
    "identity.away": Rule(
        "identity has not been heard of for {silent_s} s: what it revoked since is not known, so its tokens are not taken any more",
        "bring identity back: `holdfast status`. Until then tokens of /auth/v1.0 go on; auth_grace_s in [identity] is how long "
        "tokens of identity do"),
    "identity.unsure": Rule(
        "the token of user {user} may be good by what identity knows, but it has not been heard of for {silent_s} s",
        "bring identity back: `holdfast status`"),
    # what they may do
    "account.owner": Rule(
        "only owners of {account} may do this, and {user_or_stranger} is not one",
        "use a user of that account with the group .admin, or a container ACL"),
    "account.closed": Rule(
        "{account} is no account that clients may use: not below a configured reseller prefix, or internal",
        "check the name in the storage URL; prefixes are [[auth.reseller]]"),
    "account.reseller_admin": Rule(
        "only a reseller admin may do this, and {user_or_stranger} is not one",
        "use a user with the group .reseller_admin"),
    "acl.write": Rule(
        "{user_or_stranger} may not write to {container}: its write ACL is {acl_shown}",
        "grant write, as owner: swift post -w {acl_granted} {container_quoted}"),
    "acl.read": Rule(
        "{user_or_stranger} may not read {container}: its read ACL is {acl_shown}",
        "grant read, as owner: swift post -r {acl_granted} {container_quoted}"),
    "acl.listing": Rule(
        "{user_or_stranger} may not list {container}: its read ACL is {acl_shown}",
        "grant it, as owner: swift post -r {acl_listed} {container_quoted} (listing by link needs .rlistings)"),
    "acl.referrer": Rule(
        "the read ACL of {container}, {acl_shown}, does not let in those who come from {referrer}",
        "allow that site, as owner: swift post -r {acl_linked} {container_quoted}; or send a token"),
    "acl.anonymous_write": Rule("nobody writes without a token", _LOGIN),
    "acl.syntax": Rule("the ACL cannot be understood", "elements are account:user, account, .r:HOST, .r:* and .rlistings"),
    "container.hidden": Rule(
        "the container does not exist; strangers are not told so, for that would say which ones do",
        "make it as owner, with an ACL for {user_or_stranger}; or check its name"),
    # what is there
    "account.not_found": Rule("the account does not exist", "its owner makes it with the first container"),
    "account.deleted": Rule("the account was deleted and is being emptied", "use another name"),
    "container.not_found": Rule("the container does not exist", "make it: PUT /v1/ACCOUNT/CONTAINER; or check the name"),
    "container.deleted_under_write": Rule(
        "the container was deleted while the object was written; the object was taken back",
        "make the container again, then send the object again"),
    "container.not_empty": Rule(
        "the container still lists objects",
        "delete them first: swift delete {container_quoted} removes both"),
    "object.not_found": Rule(
        "there is no such object, it was deleted, or it has expired",
        "check the name, in capitals and slashes too"),
    "policy.unknown": Rule("there is no storage policy {policy}", "there are: {policies}"),
    "policy.differs": Rule("the container exists with another storage policy", "leave X-Storage-Policy out; a policy is for life"),
    "not_found": Rule("{what} does not exist"),
    "conflict": Rule("the state does not allow it ({what})"),
    # conditions
    "precondition.if_none_match": Rule(
        "the client asked to write only if nothing is there (If-None-Match: *), and an object with ETag {etag} is",
        "nothing is wrong: another writer was first. Read it, then decide"),
    "precondition.if_match": Rule(
        "the client asked for the state with ETag {wanted}, and the object has {etag}",
        "nothing is wrong: it was changed since. Read it again, then decide"),
    "precondition.if_unmodified_since": Rule("the object was changed after {wanted}", "nothing is wrong: read it again"),
    "precondition.syntax": Rule("this condition is not supported for writing", "use If-None-Match: * or If-Match: ETAG"),
    "precondition_failed": Rule("a condition of the request does not hold"),
    "range": Rule("the range lies outside of the object's {size_bytes} bytes", "ask HEAD for the size first"),
    "expiry.number": Rule("{field} is not a number", "seconds since 1970 (X-Delete-At) or from now on (X-Delete-After)"),
    "expiry.past": Rule("{field} lies in the past", "check the client's clock"),
    # limits
    "limits.name": Rule(
        "{kind} name of {length} bytes, the limit is {limit}",
        _LIMIT.format(setting="max_{kind_lower}_name_length")),
    "limits.header": Rule("a header value of {length} bytes, the limit is {limit}", _LIMIT.format(setting="max_header_size")),
    "limits.meta_name": Rule(
        "a metadata name of {length} bytes, 1 to {limit} are allowed",
        _LIMIT.format(setting="max_meta_name_length")),
    "limits.meta_value": Rule(
        "metadata {name} of {length} bytes, the limit is {limit}",
        _LIMIT.format(setting="max_meta_value_length")),
    "limits.meta_count": Rule("{count} metadata items, the limit is {limit}", _LIMIT.format(setting="max_meta_count")),
    "limits.meta_size": Rule(
        "{length} bytes of metadata in all, the limit is {limit}",
        _LIMIT.format(setting="max_meta_overall_size")),
    "limits.file_size": Rule("the object is larger than one may be ({limit} bytes)", _LIMIT.format(setting="max_file_size")),
    "limits.listing": Rule("a page may have at most {limit} names", "ask for less and use marker"),
    # the request itself
    "names.utf8": Rule(
        "a name or value is not UTF-8, or has a NUL in it",
        "the client has to encode names as UTF-8, then percent-encode"),
    "names.path": Rule("the path is not /v1/ACCOUNT[/CONTAINER[/OBJECT]]", "look for an empty name or a doubled slash in it"),
    "request.invalid": Rule("the request breaks a rule of the API: {reason}", "the client has to send something else"),
    "request.length": Rule("a body needs Content-Length or chunked encoding", "the client has to send one of them"),
    "request.method": Rule("this method is not for this path; allowed: {allowed}", "check method and path"),
    "request.nowhere": Rule("nothing lives at this path", "the Swift API is at /auth/v1.0 and /v1/ACCOUNT/CONTAINER/OBJECT"),
    "request.segments": Rule("large objects made of segments are not served yet", "send the object in one piece"),
    "request.preflight": Rule("no container allows foreign pages (CORS) yet"),
    "api.s3": Rule("the request is signed for the S3 API, which this store does not speak", "use the Swift API"),
    "listing.format": Rule("no format of a listing fits the Accept header", "ask for text/plain, application/json or xml"),
    "copy.names": Rule("source or target of the copy is not named right", "it is CONTAINER/OBJECT, percent-encoded"),
    "copy.body": Rule("a copy takes no body", "send Content-Length: 0"),
    "copy.range": Rule("a copy takes one range"),
    "http.malformed": Rule(
        "these bytes are no HTTP request that can be trusted: {reason}",
        "look at the client, or at what stands between it and the store"),
    "http.slow": Rule("the client did not send its request in time", "look at its network"),
    "http.connections": Rule("too many connections at once", "raise max_connections in [http], or add workers"),
    # the body
    "body.short": Rule(
        "the client sent less than it announced ({got_bytes} of {expected_bytes} bytes)",
        "nothing was stored: send it again"),
    "body.slow": Rule("the client sent too slowly", "nothing was stored: look at its network, send it again"),
    "body.etag": Rule(
        "the body's MD5 is {computed}, the client announced {expected}",
        "damaged on the way, or the wrong ETag was sent: nothing was stored, send it again"),
    "body.damaged": Rule("no undamaged replica could be read", "holdfast status; look for quarantined bodies in the log"),
    # the devices
    "quorum.look": Rule("too few devices could be asked about {path}: {needed} of {replicas} are needed", _DEVICES),
    "quorum.accept": Rule(
        "no decision about {path} in time: {needed} of {replicas} devices have to agree. The write may or may not have taken "
        "effect",
        f"the client has to read before it decides. {_DEVICES}"),
    "quorum.contention": Rule(
        "no decision about {path} in time, for other writers of the same name kept coming first. The write may or may not have "
        "taken effect",
        "the client has to read before it decides; fewer writers at once of one name"),
    "quorum.rows": Rule("too few databases of the listing of {path} answered: {needed} of {replicas} are needed", _DEVICES),
    "quorum.page": Rule("no two databases could agree on a page of the listing of {path}", _DEVICES),
    "quorum.body": Rule("too few devices could take or give the body of {path}", _DEVICES),
    "device.full": Rule("the devices for {path} are full", "delete objects, or make their file systems larger; deletes go on"),
    "overload": Rule("too much to do at the moment ({what})", "fewer requests at once, or faster disks; the client may try again"),
    "bug": Rule(
        "the store has a mistake: {exception} at {where}",
        "the log has the traceback, below this request id; please report it"),
}
FALLBACK = Rule("{rule}: {facts_shown}", "the log may have more, below this request id")
