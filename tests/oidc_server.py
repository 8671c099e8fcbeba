"""OpenID Connect servers for tests: one of PyPI, the certified one of npm, and one that lies.

`mock_provider` is `oidc-provider-mock` (on Authlib), of the test extra. `certified_provider` is
npm's `oidc-provider`, certified by the OpenID Foundation, where `npm install -g oidc-provider` was
done.
`Liar` signs whatever a test wants, for what no honest server would say.
"""

import base64
import contextlib
import hmac
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from service import free_port

CLIENT = "headrace"
SECRET = "s3cret of the client"


@contextlib.contextmanager
def mock_provider() -> Generator[str]:
    """The issuer's address."""
    port = free_port()
    command = [sys.executable, "-m", "oidc_provider_mock", "--host", "127.0.0.1"]
    with _process([*command, "--port", str(port)], port):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def certified_provider(directory: Path, redirect: str) -> Generator[str]:
    """The issuer's address; skips where node or the package is absent."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("no node: this one runs npm's oidc-provider")
    root = subprocess.run([npm, "root", "-g"], capture_output=True, text=True, check=True)
    package = Path(root.stdout.strip()) / "oidc-provider" / "lib" / "index.js"
    if not package.is_file():
        pytest.skip("no oidc-provider: npm install -g oidc-provider")
    port = free_port()
    script = directory / "provider.mjs"
    script.write_text(
        _PROVIDER.replace("PACKAGE", json.dumps(package.as_uri()))
        .replace("PORT", str(port))
        .replace("REDIRECT", json.dumps(redirect))
        .replace("CLIENT", json.dumps(CLIENT))
        .replace("SECRET", json.dumps(SECRET))
    )
    with _process([node, str(script)], port):
        yield f"http://127.0.0.1:{port}"


_PROVIDER = """
import Provider from PACKAGE;
const provider = new Provider("http://127.0.0.1:PORT", {
  clients: [{
    client_id: CLIENT, client_secret: SECRET, redirect_uris: [REDIRECT],
    grant_types: ["authorization_code"], response_types: ["code"],
  }],
  claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name", "groups"] },
  conformIdTokenClaims: false,
  pkce: { required: () => true },
  findAccount: (ctx, id) => ({
    accountId: id,
    claims: () => ({
      sub: id, email: `${id}@acme.example`, email_verified: true, name: id, groups: ["eng", "ops"],
    }),
  }),
});
provider.listen(PORT, "127.0.0.1");
"""


@contextlib.contextmanager
def _process(command: list[str], port: int) -> Generator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while True:
            assert process.poll() is None, "the server ended"
            with contextlib.suppress(httpx.HTTPError):
                url = f"http://127.0.0.1:{port}/.well-known/openid-configuration"
                if httpx.get(url, timeout=2).status_code == 200:
                    break
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(timeout=10)


class Person:
    """A browser before a certified or mock provider's pages: follows, fills in, submits."""

    def __init__(self) -> None:
        self.http = httpx.Client(timeout=10)

    def __enter__(self) -> "Person":
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def go(self, url: str, *, login: str, until: str) -> str:
        """Follow redirects and answer forms until one sends us to an address that begins so."""
        answer = self.http.get(url)
        for _ in range(20):
            if answer.is_redirect:
                where = str(answer.url.join(answer.headers["location"]))
                if where.startswith(until):
                    return where
                answer = self.http.get(where)
                continue
            form = re.search(r"<form[^>]*>.*?</form>", answer.text, re.S)
            assert answer.status_code == 200, answer.text[:2000]
            assert form is not None, answer.text[:2000]
            action = re.search(r'action="([^"]*)"', form.group().split(">")[0])
            fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', form.group()))
            fields |= {"sub": login, "login": login, "password": "x"}
            where = str(answer.url.join(action.group(1)) if action else answer.url)
            answer = self.http.post(where, data=fields)
        raise AssertionError("it never ends")


class Liar:
    """An issuer that says what it is told to: `say` is in the next token."""

    def __init__(self) -> None:
        self.keys = {"one": rsa.generate_private_key(public_exponent=65537, key_size=2048)}
        self.published = ["one"]
        self.say: dict[str, Any] = {}
        self.nonce: str | None = None
        self.token: str | None = None
        """Answered as it is; None = one is made."""
        self.forms: list[dict[str, str]] = []
        self.asked: list[str] = []
        self.down = False
        self.url = ""

    def add_key(self, id: str, *, publish: bool = True) -> None:
        self.keys[id] = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        if publish:
            self.published = [id]

    def claims(self, **more: Any) -> dict[str, Any]:
        now = int(time.time())
        base = {
            "iss": self.url,
            "sub": "u1",
            "aud": CLIENT,
            "iat": now,
            "exp": now + 300,
            "email": "ann@acme.example",
            "email_verified": True,
        }
        return {name: value for name, value in {**base, **more}.items() if value is not None}

    def sign(self, claims: Mapping[str, Any], *, key: str = "one", **header: Any) -> str:
        return jwt.encode(
            dict(claims), self.keys[key], algorithm="RS256", headers={"kid": key, **header}
        )

    def unsigned(self, claims: Mapping[str, Any], **header: str) -> str:
        """With a header that says that nobody signed it."""
        parts = ({"alg": "none", **header}, dict(claims))
        return ".".join([*(_b64(json.dumps(part).encode()) for part in parts), ""])

    def confuse(self, claims: Mapping[str, Any], *, key: str = "one") -> str:
        """Signed by HMAC, with the public key as the secret, as it may be had of the issuer."""
        secret = (
            self.keys[key]
            .public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        parts = ({"alg": "HS256", "typ": "JWT", "kid": key}, dict(claims))
        signed = ".".join(_b64(json.dumps(part).encode()) for part in parts)
        return f"{signed}.{_b64(hmac.digest(secret, signed.encode(), 'sha256'))}"

    def public(self, id: str) -> dict[str, Any]:
        return {
            **json.loads(RSAAlgorithm.to_jwk(self.keys[id].public_key())),
            "kid": id,
            "use": "sig",
            "alg": "RS256",
        }

    def answer(self, path: str, form: dict[str, str] | None) -> tuple[int, Any]:
        self.asked.append(path)
        if self.down:
            return 503, {"error": "down"}
        if path == "/.well-known/openid-configuration":
            return 200, {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/jwks",
            }
        if path == "/jwks":
            return 200, {"keys": [self.public(id) for id in self.published]}
        if path == "/token" and form is not None:
            self.forms.append(form)
            claims = self.claims(**{"nonce": self.nonce, **self.say})
            return 200, {"token_type": "Bearer", "id_token": self.token or self.sign(claims)}
        return 404, {"error": "nothing here"}


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@contextlib.contextmanager
def lying() -> Generator[Liar]:
    """A `Liar` that answers."""
    liar = Liar()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say(*liar.answer(self.path, None))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            form["authorization"] = self.headers.get("authorization", "")
            self._say(*liar.answer(self.path, form))

        def _say(self, status: int, body: Any) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    liar.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield liar
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
