"""Guard in front of MLflow's page: whoever lacks the token, and whatever comes from another site, is refused."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode, urlsplit

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

_TOKEN = "token"
"""Name of the token in an address, as Jupyter has it."""
_HOSTS = ("127.0.0.1", "localhost", "::1")
_REFUSAL = (
    "403 Forbidden: this page is for the user who started it. Open the address that `kit ui` printed, with its token; "
    "a program sends the token as MLFLOW_TRACKING_TOKEN.\n"
)
# The page's own choices, in the form in which it keeps them: KEY_vVERSION (React hook useLocalStorage, MLflow 3.17).
# Its banner of usage data, its reports of clicks, and the assistant that unfolds at the first visit are off; pages for
# training are on.
_CHOICES = {
    "mlflow.telemetry.info.alert.dismissed_v1": "true",
    "mlflow.settings.telemetry.enabled_v1": "false",
    "mlflow.workflowType_v1": '"machine_learning"',
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.assistant.panelOpen_v1": "false",
}


class Guard:
    """ASGI application that passes the owner's requests on to MLflow, and refuses all others with 403.

    The owner is whoever has the token: in the address that was printed, once, which becomes a cookie; then in that
    cookie; or, for MLflow's client, as a bearer token.

    Args:
        app: MLflow's application.
        token: Token that lets in.
        port: Port of the server, which names the cookie: browsers share cookies among all ports of a host.
        index: HTML of MLflow's page.
        landing: Function that returns the place on the page that the printed address leads to, such as
            ``/#/experiments/1/runs``; called in a thread.
        choices: Function that returns choices of the page that depend on what the store holds; called in a thread.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: str,
        port: int,
        index: str,
        landing: Callable[[], str],
        choices: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._app = app
        self._token = token
        self._cookie = f"kit-ui-{port}"
        self._index = index
        self._landing = landing
        self._choices = choices

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        from starlette.requests import HTTPConnection
        from starlette.responses import HTMLResponse, PlainTextResponse

        if scope["type"] != "http":
            # MLflow has no web sockets. Closed before it is accepted, one is answered with 403.
            await send({"type": "websocket.close", "code": 1008})
            return
        request = HTTPConnection(scope)
        reads = scope["method"] in ("GET", "HEAD")
        answer: Response | None = None
        if not is_loopback(request.headers.get("host", "")) or is_foreign(request):
            answer = PlainTextResponse(_REFUSAL, 403)
        elif reads and self._is_token(request.query_params.get(_TOKEN, "")):
            answer = await self._welcome(request)
        elif not self._is_owner(request):
            answer = PlainTextResponse(_REFUSAL, 403)
        elif reads and scope["path"] == "/":
            answer = HTMLResponse(with_choices(self._index, await asyncio.to_thread(self._choices)))
        await (answer or self._app)(scope, receive, send)

    async def _welcome(self, request: HTTPConnection) -> Response:
        """Turn the token in an address into a cookie, and lead to the address without it."""
        from starlette.responses import RedirectResponse

        rest = [(name, value) for name, value in request.query_params.multi_items() if name != _TOKEN]
        # One slash: two would begin the name of another host.
        target = "/" + quote(request.scope["path"].lstrip("/"))
        if rest:
            target += f"?{urlencode(rest)}"
        if target == "/":
            target = await asyncio.to_thread(self._landing)
        answer = RedirectResponse(target, 303, {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})
        # No script reads it, no other site's page sends it, and it goes when the browser is closed.
        answer.set_cookie(self._cookie, self._token, path="/", httponly=True, samesite="strict")
        return answer

    def _is_owner(self, request: HTTPConnection) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(given.strip()):
            return True
        return self._is_token(request.cookies.get(self._cookie, ""))

    def _is_token(self, given: str) -> bool:
        # In a time that does not depend on how much of it is right.
        return secrets.compare_digest(given.encode(), self._token.encode())


def is_loopback(host: str) -> bool:
    """Check whether a ``Host`` header names this machine itself.

    A web site can have its own name lead to 127.0.0.1 (DNS rebinding); its pages then send that name.
    """
    try:
        return urlsplit(f"//{host}").hostname in _HOSTS
    except ValueError:
        return False


def is_foreign(request: HTTPConnection) -> bool:
    """Check whether a page of another origin makes a browser send a request.

    A server on another port of this machine, which may be another user's, counts as the same site for cookies, so
    that the browser would send the owner's cookie along.
    """
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != request.headers.get("host", "").lower():
        return True
    # Following a link is no harm; scripts, images, forms and frames of other origins are refused.
    from_outside = request.headers.get("sec-fetch-site") in ("same-site", "cross-site")
    follows_link = request.headers.get("sec-fetch-mode") == "navigate" and (
        request.headers.get("sec-fetch-dest") == "document"
    )
    return from_outside and not follows_link


def with_choices(index: str, more: Mapping[str, str]) -> str:
    """Put choices that a person has not made yet into MLflow's page, before its own scripts run."""
    # Names in a store may be anybody's: none of them ends the script.
    choices = json.dumps({**_CHOICES, **more}).replace("<", "\\u003c")
    script = (
        f"for (const [name, value] of Object.entries({choices}))"
        " if (localStorage.getItem(name) === null) localStorage.setItem(name, value);"
    )
    return index.replace("<head>", f"<head><script>{script}</script>", 1)
