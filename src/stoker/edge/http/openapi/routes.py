"""The routes of the API's description: the document, and a page that shows it, with nothing from elsewhere.

Both are public. Does not know what the description says.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from importlib.resources import files

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stoker.model.limits import Limits

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src '{script}'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SCRIPT = re.compile(b"<script>(.*?)</script>", re.DOTALL)


class OpenApiRoutes:
    """The description of this server's API. It is made when it is first asked for, beside the event loop."""

    def __init__(self, limits: Limits, version: str) -> None:
        self._limits = limits
        self._version = version
        self._made: asyncio.Future[bytes] | None = None

    def routes(self) -> list[Route]:
        """Return both routes."""
        return [
            Route("/openapi.json", self.document, methods=["GET"]),
            Route("/docs", self.page, methods=["GET"]),
        ]

    async def document(self, request: Request) -> Response:
        """`GET /openapi.json`."""
        if self._made is None:
            self._made = asyncio.ensure_future(asyncio.to_thread(self._make))
        return self._answer(await asyncio.shield(self._made), "application/json", {})

    def _make(self) -> bytes:
        # Not at the top: a server that nobody asks for it starts without what it says.
        from stoker.edge.http.openapi.document import make_document
        from stoker.edge.http.openapi.table import OPERATIONS, TAGS

        return msgspec.json.encode(make_document(OPERATIONS, TAGS, self._limits, self._version))

    async def page(self, request: Request) -> Response:
        """`GET /docs`: it asks for the document itself and may load nothing else."""
        page = (files(__package__) / "docs.html").read_bytes()
        headers = {"Content-Security-Policy": _policy(page), "X-Content-Type-Options": "nosniff"}
        return self._answer(page, "text/html; charset=utf-8", headers)

    def _answer(self, body: bytes, media: str, headers: dict[str, str]) -> Response:
        return Response(body, 200, {**headers, "Cache-Control": "no-cache"}, media)


def _policy(page: bytes) -> str:
    """Return what a browser is to hold the page to: no script but its own, no other address."""
    script = _SCRIPT.search(page)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1]).digest()).decode()
    return _POLICY.format(script=f"sha256-{digest}")
