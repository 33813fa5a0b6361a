"""/auth/v1.0: a user and a key become a token and a storage URL."""
from __future__ import annotations

import re

from common.errors import Unauthorized
from proxy.errors import Refusal, answer
from proxy.http.message import Headers, Request, Response
from proxy.swift.access import unauthorized
from proxy.swift.context import Gateway
from proxy.swift.metadata import as_text

_HOST = re.compile(r"(?:[A-Za-z0-9.\-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
LOGIN_PATHS = ("/auth/v1.0", "/auth/v1")


async def log_in(gateway: Gateway, request: Request) -> Response:
    """200 with X-Auth-Token and X-Storage-Url, or 401."""
    if request.scheme == "http" and gateway.settings.refuses_plain_logins:
        raise Refusal(403, "Logins need TLS on this listener; an operator can set tls.insecure_http.").because("auth.needs_tls")
    user_id, key = _credentials(request.headers)
    account = user_id.partition(":")[0]
    if not user_id or not key or ":" not in user_id:
        raise unauthorized("").because("auth.no_login")
    try:
        grant = await gateway.auth.login(user_id, key)
    except Unauthorized as error:
        raise unauthorized(account).after(error) from None
    host = request.host if _HOST.fullmatch(request.host) else gateway.settings.listen    # a cache or a log may show it as a link
    base = gateway.settings.public_url or f"{request.scheme}://{host}"
    return answer(200, "", [
        ("X-Storage-Url", f"{base.rstrip('/')}/v1/{grant.account}"), ("X-Auth-Token", grant.token),
        ("X-Storage-Token", grant.token), ("X-Auth-Token-Expires", str(grant.life_s)), ("Cache-Control", "no-store")])


def _credentials(headers: Headers) -> tuple[str, str]:
    """Both spellings that clients use."""
    user = headers.get("x-auth-user") or headers.get("x-storage-user", "")
    key = headers.get("x-auth-key") or headers.get("x-storage-pass", "")
    return as_text(user), as_text(key)
