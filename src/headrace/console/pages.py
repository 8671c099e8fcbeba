"""What the service is (model names, auth, version) becomes its pages and their static files.

`/` talks to a model, `/spend` shows what was spent and what budgets have left, `/requests` what
became of each request. The last two read the same API that programs use, with the person's own
session or key, so they show nobody more than that does.

Invariants: everything comes from this origin, and the Content-Security-Policy says so; no script or
style stands in the page itself; the page holds no secret. Files are read once, at build, so a
request names a key of a table and never a path.

Source of the header values: OWASP HTTP Headers cheat sheet.
"""

import hashlib
import mimetypes
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

_HERE = Path(__file__).parent

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        " object-src 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PageInfo:
    """What the page says about the service it talks to."""

    models: tuple[str, ...]
    """Names as `/v1/models` lists them; the first is preselected."""
    auth: bool
    """True where requests need an API key; the page then asks for one."""
    version: str
    login: bool = False
    """True where people may log in with their issuer instead."""
    books: bool = False
    """True where there is a ledger to show."""
    traces: bool = False
    """True where requests leave traces."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Page:
    path: str
    template: str
    name: str


_PAGES = (
    _Page(path="/", template="chat.html", name="Chat"),
    _Page(path="/spend", template="spend.html", name="Spend"),
    _Page(path="/requests", template="requests.html", name="Requests"),
)
PATHS = tuple(page.path for page in _PAGES)
"""Of the pages, without what is below `/static/`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asset:
    body: bytes
    media_type: str
    etag: str


def build(info: Callable[[], PageInfo]) -> ASGIApp:
    """The pages as one application; it serves `PATHS` and `/static/*` and is mounted at the root.

    Args:
        info: Asked at every view of the page, so what it says is what is served now.
    """
    templates = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    assets = {path.name: _read(path) for path in sorted((_HERE / "static").iterdir())}

    def view(page: _Page) -> Callable[[Request], Awaitable[Response]]:
        template = templates.get_template(page.template)

        async def shown(request: Request) -> Response:
            return Response(
                template.render(info=info(), pages=_PAGES, here=page),
                media_type="text/html",
                headers={**SECURITY_HEADERS, "cache-control": "no-store"},
            )

        return shown

    async def static_file(request: Request) -> Response:
        asset = assets.get(request.path_params["name"])
        if asset is None:
            return PlainTextResponse("not found\n", status_code=404, headers=SECURITY_HEADERS)
        headers = {**SECURITY_HEADERS, "cache-control": "no-cache", "etag": asset.etag}
        if request.headers.get("if-none-match") == asset.etag:
            return Response(status_code=304, headers=headers)
        return Response(asset.body, media_type=asset.media_type, headers=headers)

    return Starlette(
        routes=[
            *(Route(page.path, view(page), methods=["GET"]) for page in _PAGES),
            Route("/static/{name}", static_file, methods=["GET"]),
        ]
    )


def _read(path: Path) -> _Asset:
    body = path.read_bytes()
    # Fixed for the two that browsers insist on: the system's MIME table may say otherwise.
    fixed = {".js": "text/javascript", ".css": "text/css"}
    media_type = fixed.get(path.suffix) or mimetypes.guess_type(path.name)[0]
    return _Asset(
        body=body,
        media_type=media_type or "application/octet-stream",
        etag=f'"{hashlib.sha256(body).hexdigest()[:32]}"',
    )
