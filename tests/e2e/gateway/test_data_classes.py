"""A request's data class, from its header or its key, and where it may go then."""

import json
import urllib.error
import urllib.request
from typing import Any

from gateway_server import Gateway, serving
from headrace.config import DataClassSettings
from headrace.gateway.services import Served, Services
from headrace.providers.residency import Place, Residency, Resident
from headrace.testing import ScriptedBackend, reply
from headrace.types import ModelCard

RULES = Residency({"secret": DataClassSettings(managed=False)})


def ask(server: Gateway, model: str, **headers: str) -> tuple[int, dict[str, Any]]:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    asked = urllib.request.Request(
        f"{server.url}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json", **headers},
    )
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_a_class_forbids_a_managed_api_and_an_unknown_one_everything() -> None:
    api = ScriptedBackend(reply)
    place = Place(provider="claude", managed=True)
    served = Served(
        card=ModelCard(name="api", context_tokens=4096, created_s=1),
        chat=Resident(place, api, RULES),
    )
    with serving(base=Services(models={"api": served}, residency=RULES)) as server:
        assert ask(server, "api")[0] == 200
        status, body = ask(server, "api", **{"x-headrace-data-class": "secret"})
        assert (status, body["error"]["code"]) == (403, "data_class_forbids")
        assert "'secret' may not go to a managed API" in body["error"]["message"]
        status, body = ask(server, "api", **{"x-headrace-data-class": "top-secret"})
        assert (status, body["error"]["code"]) == (400, "invalid_parameter")
        assert "there is: secret" in body["error"]["message"]
        assert len(api.requests) == 1
        assert ask(server, "m", **{"x-headrace-data-class": "secret"})[0] == 200
