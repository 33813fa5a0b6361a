"""What a token that was handed out may not do: one of a trust, of an application credential, of an OAuth access token."""
from __future__ import annotations

from common.errors import Forbidden
from control.app import Call


def refuse_delegated(call: Call) -> None:
    """What makes new ways in needs a login of the user, no token that was handed out. Raises `Forbidden`."""
    if call.context.trust_id or getattr(call.context.token, "access_token_id", None):
        raise Forbidden(reason="A token that was delegated cannot do this.").because("delegation.token")


def is_handed_out(call: Call) -> bool:
    """Whether the caller's token stands for its user in part only: one of a trust, an application credential, an access token."""
    return bool(call.context.trust_id or call.context.app_credential_id or getattr(call.context.token, "access_token_id", None))


def refuse_handed_out(call: Call) -> None:
    """Such a token has roles of its user; what the user owns is not part of them. Raises `Forbidden`."""
    if is_handed_out(call):
        raise Forbidden(reason="A token that was delegated cannot do this.").because("delegation.token")
