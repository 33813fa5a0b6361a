"""What the rules of the control plane mean to an operator: rows as in `cli/explain_rules.py`, which holds them together.

`tests/unit/cli` holds that every rule that control and identity name has a row.
"""
from __future__ import annotations

from cli.explain_rules import Rule

_LOGIN = "log in again: `openstack token issue`"
_NEW_APP_CREDENTIAL = "its owner can make another one: `openstack application credential create`"
_CLOCK = "set the clocks right on both sides"

CONTROL_RULES: dict[str, Rule] = {
    # tokens
    "token.missing": Rule("the request has no token (X-Auth-Token), and this operation needs one", _LOGIN),
    "token.malformed": Rule("the token is too long or not text: none of ours", _LOGIN),
    "token.forged": Rule("the token was not made with a key that this node has: damaged, of another cloud, or its key was dropped",
                         _LOGIN),
    "token.format": Rule("the token is of a format ({format}) that this version does not know", _LOGIN),
    "token.expired": Rule("the token of user {user} has expired", f"{_LOGIN}. Longer ones: token_life_s in [identity]"),
    "token.revoked": Rule("the token of user {user} was revoked: by a logout, a new password, or because something was disabled",
                          _LOGIN),
    "token.user": Rule("user {user} is disabled or gone", "`openstack user set --enable USER`"),
    "token.domain": Rule("domain {domain} is disabled or gone", "`openstack domain set --enable DOMAIN`"),
    "token.project": Rule("project {project} is disabled, gone, or not a project", "`openstack project set --enable PROJECT`"),
    "token.no_role": Rule("user {user} has no role in {scope}", "`openstack role add --user USER --project PROJECT member`"),
    "token.trust": Rule("trust {trust} was deleted, has expired, or one of its people is disabled",
                        "its trustor can make another one"),
    "token.app_credential": Rule("application credential {app_credential} is gone or has expired", _NEW_APP_CREDENTIAL),
    "token.access_rules": Rule(
        "application credential {app_credential} has access rules, and none of them allows this request", _NEW_APP_CREDENTIAL),
    "token.access_token": Rule("the OAuth access token is gone or has expired", "the consumer has to be authorized again"),
    # logins
    "login.unknown_user": Rule("there is no such user", "check name and domain: `openstack user list`"),
    "login.wrong_password": Rule("wrong password for user {user}", "`openstack user set --password-prompt USER` gives a new one"),
    "login.locked": Rule(
        "user {user} is locked after {failures} wrong passwords",
        "wait for lockout_s of [identity], or give a new password: `openstack user set --password-prompt USER`"),
    "login.disabled": Rule("user {user} is disabled", "`openstack user set --enable USER`"),
    "login.expired": Rule("the password has expired", "the user can change it: `openstack user password set`"),
    "login.must_change": Rule("the password has to be changed before it is used", "`openstack user password set`"),
    "login.changed": Rule("the password of user {user} was changed while the login ran", _LOGIN),
    "login.factors": Rule("user {user} needs several methods at once (multi_factor_auth_rules)", "send all of one rule"),
    "login.method": Rule("the method {method} is not known", "password, token, totp, application_credential or oauth1"),
    "login.users_differ": Rule("the methods of the login name different users", "name one user"),
    "login.plain": Rule(
        "logins over plain HTTP are refused on a public address",
        "set cert and key in [tls]; or insecure_http = true in [tls] if something else encrypts"),
    "login.scope": Rule("an application credential or access token has its scope already, and the login named one",
                        "leave the scope out"),
    "login.app_credential": Rule("wrong id, name or secret of an application credential", _NEW_APP_CREDENTIAL),
    "login.rescope": Rule(
        "a token of an application credential, a trust or OAuth cannot be exchanged for another one", "log in as the user"),
    "login.totp": Rule("the passcode is wrong, too old, or the user has no secret for one", "look at the clock of the device"),
    "login.totp_used": Rule("the passcode of user {user} was used before", "wait for the next one, 30 s at most"),
    "login.trust": Rule("trust {trust} cannot be used by this user", "only its trustee can, and while it lasts"),
    "login.trust_used": Rule("trust {trust} has no uses left", "its trustor can make another one"),
    # what one may do
    "administrator.last": Rule("nobody could have logged in as an administrator after this",
                               "`openstack role add` to another user first"),
    "policy": Rule(
        "the rule {name} says no: {expression}. The caller has the roles {roles} in project {project}",
        "give a role that the rule names, or change the rule in STATE/policy/identity.yaml"),
    "delegation.token": Rule("a token of a trust or of OAuth cannot make new credentials", "log in as the user"),
    "delegation.expiry": Rule(
        "what an application credential makes cannot outlive it", "ask for an earlier time, or log in as the user"),
    "delegation.access_rules": Rule(
        "what an application credential makes is no wider than its own access rules", "choose among them, or log in as the user"),
    "delegation.app_credential": Rule(
        "a restricted application credential cannot make trusts or application credentials",
        "log in as the user; or make one with --unrestricted, which is worth as much as the password"),
    "delegation.project": Rule("a token of an application credential makes ec2 credentials for its own project only",
                               "log in as the user"),
    "delegation.roles": Rule("somebody wanted to give away a role that they do not have", "ask for less, or get the role first"),
    "delegation.trust": Rule("the trust does not allow to be passed on", "its trustor can make one with --redelegation-count"),
    "ec2.no_role": Rule("user {user} has no role in project {project}",
                        "`openstack role add --user USER --project PROJECT member`"),
    # signatures
    "ec2.unknown_key": Rule("there is no S3 or EC2 key with this access key", "`openstack ec2 credentials list`"),
    "ec2.unusable_key": Rule("the stored secret of this key of user {user} signs nothing", "delete the key and make another"),
    "ec2.signature": Rule("the signature does not match the secret of user {user}", "compare the secret; and look for a proxy that "
                                                                                 "changes the request"),
    "ec2.clock": Rule("the request was signed more than 15 minutes ago or ahead", _CLOCK),
    "oauth.header": Rule("there is no usable OAuth Authorization header", "see RFC 5849"),
    "oauth.consumer": Rule("the consumer is unknown, or does not fit to the token", "`openstack consumer list`"),
    "oauth.clock": Rule("the request was signed {seconds} s off", _CLOCK),
    "oauth.signature": Rule("the signature does not match the secrets of consumer {consumer}", "compare the secrets"),
    "oauth.nonce": Rule("this nonce was used before", "the client has to use a new one for each request"),
    "oauth.request_token": Rule("the request token is unknown, expired or not authorized", "begin again"),
    "oauth.access_token": Rule("the access token is unknown or has expired", "the consumer has to be authorized again"),
    # what was sent
    "request.schema": Rule("the body does not have the form of this operation; field: {field}", "compare with the API reference"),
    "password.regex": Rule("the new password does not match password_regex of [identity]", "choose another one"),
    "password.history": Rule("the new password is one of the last ones (password_history of [identity])", "choose another one"),
    # jobs and states
    "state.wrong": Rule("{what} {id} is {status}, and the operation wants it to be {allowed}; it is held by job {job}",
                        "wait until that job has ended: `holdfast jobs` shows its step"),
    "job.step": Rule("step {step} of {kind} failed, after it was begun {tries} times",
                     "take away the reason, then ask for the operation again; the log has more under the request id"),
    "job.worker_ended": Rule("the process that ran step {step} of {kind} ended each time, {times} times",
                             "look for crashes of the control API in the log and in dmesg (out of memory?)"),
    "job.unknown_step": Rule("the job was begun by a version that had a step {step} of {kind}, which this one has not",
                             "finish jobs before an upgrade, or go back to that version"),
    "job.undo_left": Rule("what step {step} had made could not be taken back: {reason}", "remove it by hand"),
    "job.live": Rule("the job that it began, {kind}, is at step {step}, held by {owner}",
                     "wait; `holdfast jobs` shows how it goes on"),
    "job.done": Rule("the job that it began, {kind}, is done"),
    "job.failed": Rule("the job that it began, {kind}, failed, and nothing more is known", "ask for the operation again"),
    "job.missing": Rule("{what} {id} was {status} and no job was at it (its job was {job}): a restored database, or a hand in its "
                        "tables", "nothing, if it got a new job; else ask for the operation again"),
}
