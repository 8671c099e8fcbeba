"""POST /v1/embeddings over a scripted embedder, with the clients that people use."""

import json
import urllib.request
from collections.abc import Generator
from typing import Any
from urllib.error import HTTPError

import httpx
import numpy as np
import openai
import pytest
from langchain_openai import OpenAIEmbeddings

from gateway_server import Gateway, serving
from headrace.errors import UpstreamError
from headrace.gateway.services import ServedEmbedder, Services
from headrace.testing import HashEmbedder
from headrace.types import Embedded, EmbedRequest, Target

TEXTS = ["the mill by the river", "the mill by the stream", "an unrelated sentence"]


class Broken(HashEmbedder):
    async def embed(self, request: EmbedRequest) -> Embedded:
        raise UpstreamError("it broke")


@pytest.fixture(scope="module")
def embedder() -> HashEmbedder:
    return HashEmbedder(name="e", max_tokens=8)


@pytest.fixture(scope="module")
def slow() -> HashEmbedder:
    return HashEmbedder(name="slow", pause_s=60)


@pytest.fixture(scope="module")
def gateway(embedder: HashEmbedder, slow: HashEmbedder) -> Generator[Gateway]:
    fakes = (embedder, slow, Broken(name="broken"))
    made = {
        fake.card.name: ServedEmbedder(
            embedder=fake, target=Target(provider="", model=fake.card.name)
        )
        for fake in fakes
    }
    with serving(base=Services(models={}, embedders=made)) as running:
        yield running


@pytest.fixture
def client(gateway: Gateway) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="-", max_retries=0) as made:
        yield made


def _post(gateway: Gateway, body: object) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{gateway.url}/v1/embeddings", data=data)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_the_openai_sdk(client: openai.OpenAI, gateway: Gateway) -> None:
    floats = client.embeddings.create(model="e", input=TEXTS, encoding_format="float")
    packed = client.embeddings.create(model="e", input=TEXTS)  # the SDK asks for base64
    assert [item.index for item in floats.data] == [0, 1, 2]
    assert [item.embedding for item in floats.data] == [item.embedding for item in packed.data]
    assert floats.usage.prompt_tokens == floats.usage.total_tokens == 13
    rows = np.array([item.embedding for item in floats.data])
    assert rows[0] @ rows[1] > rows[0] @ rows[2]
    record = gateway.last()
    assert (record.route, record.model, record.finish) == ("/v1/embeddings", "e", "stop")
    assert record.usage.prompt_tokens == 13
    assert record.usage.completion_tokens == 0


def test_one_text_and_ids(client: openai.OpenAI, embedder: HashEmbedder) -> None:
    assert len(client.embeddings.create(model="e", input="one").data) == 1
    assert embedder.requests[-1].inputs == ("one",)
    assert len(client.embeddings.create(model="e", input=[5, 6]).data) == 1
    assert embedder.requests[-1].inputs == ((5, 6),)
    assert len(client.embeddings.create(model="e", input=[[5, 6], [7]]).data) == 2
    assert embedder.requests[-1].inputs == ((5, 6), (7,))


def test_what_is_asked_for_arrives(client: openai.OpenAI, embedder: HashEmbedder) -> None:
    extra = {"input_type": "query", "truncate": True, "deadline_s": 9}
    answer = client.embeddings.create(
        model="e", input=["a " * 20, "b"], dimensions=16, user="u", extra_body=extra
    )
    asked = embedder.requests[-1]
    assert (asked.prompt, asked.truncate, asked.dimensions) == ("query", True, 16)
    assert asked.deadline_s == 9
    assert len(answer.data[0].embedding) == 16
    assert answer.model_extra is not None
    assert answer.model_extra["truncated"] == [0]
    assert answer.usage.prompt_tokens == 9


def test_langchain(gateway: Gateway) -> None:
    made = OpenAIEmbeddings(
        model="e",
        base_url=f"{gateway.url}/v1",
        api_key="-",  # pyright: ignore[reportArgumentType] - it takes strings
        check_embedding_ctx_length=False,  # else it sends ids of OpenAI's own vocabulary
    )
    rows = np.array(made.embed_documents(TEXTS))
    assert rows.shape == (3, 64)
    assert np.allclose(made.embed_query(TEXTS[1]), rows[1], atol=1e-6)


def test_the_list_of_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["m", "e", "slow", "broken"]
    card = client.models.retrieve("e")
    assert card.model_extra is not None
    assert card.model_extra["max_model_len"] == 8


@pytest.mark.parametrize(
    ("change", "status", "param", "message"),
    [
        ({"input": None}, 400, "input", "`input` is missing"),
        ({"input": []}, 400, "input", "at least one text"),
        ({"input": ""}, 400, "input", "empty text"),
        ({"input": ["a", ""]}, 400, "input[1]", "empty text"),
        ({"input": ["a", 3]}, 400, "input[1]", "must be a string"),
        ({"input": [[]]}, 400, "input[0]", "at least one token"),
        ({"input": [-1]}, 400, "input[0]", "-1"),
        ({"input": [True]}, 400, "input[0]", "must be a string"),
        ({"input": {"a": 1}}, 400, "input", "neither a text"),
        ({"input": ["a"] * 2049}, 400, "input", "2049 entries, more than 2048"),
        ({"encoding_format": "hex"}, 400, "encoding_format", "neither float nor base64"),
        ({"dimensions": 0}, 400, "dimensions", "`dimensions` 0"),
        ({"dimensions": "x"}, 400, "dimensions", "integer"),
        ({"truncate": "END"}, 400, "truncate", "true or false"),
        ({"truncate_prompt_tokens": 9}, 400, "truncate_prompt_tokens", "`truncate` true"),
        ({"inputs": "a"}, 400, "inputs", "did you mean `input`?"),
        ({"model": "m"}, 400, "model", "makes no vectors"),
        ({"model": "x"}, 404, "model", "models that make vectors: e, slow, broken"),
        ({"input": "a " * 9}, 400, "input[0]", "9 tokens and the model reads 8"),
        ({"model": "broken"}, 502, None, "it broke"),
    ],
)
def test_refusals(
    gateway: Gateway, change: dict[str, Any], status: int, param: str | None, message: str
) -> None:
    found, answer = _post(gateway, {"model": "e", "input": "a", **change})
    assert found == status, answer
    assert message in answer["error"]["message"]
    assert answer["error"]["param"] == param


def test_a_conversation_with_an_encoder(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="makes vectors; send it to /v1/embeddings"):
        client.chat.completions.create(model="e", messages=[{"role": "user", "content": "hi"}])


def test_a_client_that_leaves_ends_the_work(gateway: Gateway, slow: HashEmbedder) -> None:
    before = slow.cancelled
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{gateway.url}/v1/embeddings", json={"model": "slow", "input": "a"}, timeout=0.3
        )
    gateway.wait(lambda: slow.cancelled == before + 1)
    assert gateway.last().status == 499
