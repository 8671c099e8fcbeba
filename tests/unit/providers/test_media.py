"""Images, files and sounds: byte for byte to a provider that has them, else refused by their path.

From the body of each surface, through its decoder, to the body of each provider's API.
"""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from headrace.errors import UnsupportedParameter
from headrace.providers.anthropic_requests import message_body
from headrace.providers.bedrock import converse_body
from headrace.providers.gemini import content_body
from headrace.providers.openai_requests import chat_body
from headrace.types import ChatRequest
from headrace.wire import anthropic_messages, openai_chat, responses_request

DATA = base64.b64encode(bytes(range(256))).decode()
URL = "https://example.com/a.png"
PNG, PDF = f"data:image/png;base64,{DATA}", f"data:application/pdf;base64,{DATA}"


def chat(part: dict[str, Any]) -> ChatRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": [part]}]}
    return openai_chat.decode(json.dumps(body).encode()).request


def responses(part: dict[str, Any]) -> ChatRequest:
    body = {"model": "m", "input": [{"role": "user", "content": [part]}]}
    return responses_request.decode(json.dumps(body).encode()).request


def messages(part: dict[str, Any]) -> ChatRequest:
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": [part]}]}
    return anthropic_messages.decode(json.dumps(body).encode()).request


def base64_source(kind: str) -> dict[str, Any]:
    return {"type": "base64", "media_type": kind, "data": DATA}


MEDIA: dict[str, list[ChatRequest]] = {
    "image": [
        chat({"type": "image_url", "image_url": {"url": PNG}}),
        responses({"type": "input_image", "image_url": PNG}),
        messages({"type": "image", "source": base64_source("image/png")}),
    ],
    "image at a URL": [
        chat({"type": "image_url", "image_url": {"url": URL}}),
        responses({"type": "input_image", "image_url": URL}),
        messages({"type": "image", "source": {"type": "url", "url": URL}}),
    ],
    "file": [
        chat({"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}}),
        responses({"type": "input_file", "filename": "a.pdf", "file_data": PDF}),
        messages({"type": "document", "source": base64_source("application/pdf")}),
    ],
    "file at a URL": [
        responses({"type": "input_file", "file_url": URL}),
        messages({"type": "document", "source": {"type": "url", "url": URL}}),
    ],
    "sound": [chat({"type": "input_audio", "input_audio": {"format": "wav", "data": DATA}})],
}
PROVIDERS: dict[str, tuple[Callable[[ChatRequest], dict[str, Any]], set[str]]] = {
    "openai": (
        lambda request: chat_body(request, model="m", return_token_ids=False),
        {"image", "image at a URL", "file", "sound"},
    ),
    "anthropic": (
        lambda request: message_body(request, model="m", max_output_tokens=9),
        {"image", "image at a URL", "file", "file at a URL"},
    ),
    "gemini": (content_body, {"image", "image at a URL", "file", "file at a URL", "sound"}),
    "bedrock": (converse_body, {"image", "file"}),
}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("medium", MEDIA)
def test_it_goes_on_byte_for_byte_or_is_refused_by_name(provider: str, medium: str) -> None:
    build, has = PROVIDERS[provider]
    for request in MEDIA[medium]:
        if medium in has:
            sent = json.dumps(build(request))
            assert (URL if medium.endswith("URL") else DATA) in sent
            continue
        with pytest.raises(UnsupportedParameter) as caught:
            build(request)
        assert "messages[0].content[0]" in (caught.value.param or "")
        assert "send" in caught.value.message
