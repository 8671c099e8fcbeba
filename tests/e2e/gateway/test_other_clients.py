"""`langchain-openai` and `litellm` as clients, unchanged: plain, asynchronous, streamed, tools.

Both are heavy, so they run in a process of their own, whose warnings and threads are not ours.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway_server import serving
from headrace.config import process_environment
from headrace.testing import Step
from headrace.types import (
    ChatRequest,
    Finished,
    FinishReason,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from responses_gateway import keeping, sqlite

SCRIPT: list[Step] = [
    Started(id="x", model="m", created_s=1, prompt_tokens=7),
    TextDelta(text="Hello"),
    TextDelta(text=", world"),
    ToolCallDelta(call=0, id="c1", name="f", arguments='{"a": 1}'),
    Finished(reason=FinishReason.TOOL_CALLS, usage=Usage(prompt_tokens=7, completion_tokens=3)),
]

LANGCHAIN = """
import asyncio, json, sys
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

@tool
def f(a: int) -> str:
    "Adds."
    return str(a)

base = ChatOpenAI(base_url=sys.argv[1] + "/v1", api_key="x", model="m", max_retries=0,
                  stream_usage=True)
model = base.bind_tools([f])
found = []
async def apart():
    fresh = ChatOpenAI(base_url=sys.argv[1] + "/v1", api_key="x", model="m", max_retries=0,
                       use_responses_api=True).bind_tools([f])
    return await model.ainvoke("hi"), await fresh.ainvoke("hi")

waited, said_apart = asyncio.run(apart())
for answer in (model.invoke("hi"), waited):
    found.append([answer.content, answer.tool_calls[0]["args"],
                  answer.usage_metadata["total_tokens"]])
whole = None
for chunk in model.stream("hi"):
    whole = chunk if whole is None else whole + chunk
found.append([whole.content, whole.tool_calls[0]["args"], whole.usage_metadata["total_tokens"]])
responses = ChatOpenAI(base_url=sys.argv[1] + "/v1", api_key="x", model="m", max_retries=0,
                       use_responses_api=True).bind_tools([f])
def said(answer):
    text = answer.text if isinstance(answer.text, str) else answer.text()
    found.append([text, answer.tool_calls[0]["args"], answer.usage_metadata["total_tokens"]])

said(responses.invoke("hi"))
whole = None
for chunk in responses.stream("hi"):
    whole = chunk if whole is None else whole + chunk
said(whole)
said(said_apart)
print(json.dumps(found))
"""

LITELLM = """
import asyncio, json, sys
import litellm

tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
ask = {"messages": [{"role": "user", "content": "hi"}], "api_key": "x", "num_retries": 0,
       "tools": tools}
found = []

def note(answer):
    message = answer.choices[0].message
    call = message.tool_calls[0].function
    found.append([message.content, json.loads(call.arguments), answer.usage.total_tokens])

openai = {"model": "openai/m", "api_base": sys.argv[1] + "/v1", **ask}
anthropic = {"model": "anthropic/m", "api_base": sys.argv[1], **ask}
for how in (openai, anthropic):
    note(litellm.completion(**how))
    note(asyncio.run(litellm.acompletion(**how)))
    chunks = list(litellm.completion(**how, stream=True, stream_options={"include_usage": True}))
    note(litellm.stream_chunk_builder(chunks))
print(json.dumps(found))
"""


LANGCHAIN_MORE = """
import json, sys
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

class Person(BaseModel):
    name: str
    age: int

where = {"base_url": sys.argv[1] + "/v1", "api_key": "x", "model": "m", "max_retries": 0}
found = []
for more in ({}, {"use_responses_api": True}):
    model = ChatOpenAI(**where, **more)
    found.append(model.with_structured_output(Person, method="json_schema").invoke("who?").age)
    found.append(model.with_structured_output(Person, method="json_mode").invoke("json?").name)
    history = [HumanMessage("who?"), model.invoke("who?"), HumanMessage("and?")]
    found.append(json.loads(model.invoke(history).text)["name"])
kept = ChatOpenAI(**where, use_responses_api=True, use_previous_response_id=True)
first = kept.invoke("who?")
kept.invoke([HumanMessage("who?"), first, HumanMessage("and?")])
print(json.dumps(found))
"""

LITELLM_RESPONSES = """
import asyncio, json, sys
import litellm

how = {"model": "openai/m", "api_base": sys.argv[1] + "/v1", "api_key": "x", "num_retries": 0}
first = litellm.responses(input="hi", **how)
second = asyncio.run(litellm.aresponses(input="and?", previous_response_id=first.id, **how))
events = [getattr(event.type, "value", event.type)
          for event in litellm.responses(input="hi", stream=True, **how)]
vector = litellm.embedding(input=["a", "b"], **how)
print(json.dumps([first.output[-1].content[0].text, second.status, events[0], events[-1],
                  len(vector.data), second.usage.total_tokens]))
"""


def run(program: str, url: str) -> list[Any]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, url],
        capture_output=True,
        text=True,
        timeout=240,
        env=process_environment(
            LITELLM_LOCAL_MODEL_COST_MAP="True", LANGSMITH_TRACING="false", PYTHONPATH=""
        ),
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_langchain_openai() -> None:
    with serving(SCRIPT) as gateway:
        found = run(LANGCHAIN, gateway.url)
    assert found == [["Hello, world", {"a": 1}, 10]] * 6


@pytest.mark.slow
def test_litellm() -> None:
    with serving(SCRIPT) as gateway:
        found = run(LITELLM, gateway.url)
    assert found == [["Hello, world", {"a": 1}, 10]] * 6


ANSWER = '{"name": "Ada", "age": 36}'


def json_of(request: Any) -> list[Step]:
    """A person, whoever asks."""
    usage = Usage(prompt_tokens=7, completion_tokens=3)
    return [
        Started(id="x", model="m", created_s=1, prompt_tokens=7),
        TextDelta(text=ANSWER),
        Finished(reason=FinishReason.STOP, usage=usage),
    ]


def test_langchain_openai_structured_output_and_conversations(tmp_path: Path) -> None:
    with keeping(sqlite(tmp_path), keys=False) as gateway:
        gateway.backend._script = json_of
        found = run(LANGCHAIN_MORE, gateway.url)
        asked = [found for found in gateway.backend.requests if isinstance(found, ChatRequest)]
        kinds = {request.format.kind.value for request in asked}
        assert kinds == {"text", "json_object", "json_schema"}
        assert [message.text for message in asked[-1].messages] == ["who?", ANSWER, "and?"]
    assert found == [36, "Ada", "Ada"] * 2


@pytest.mark.slow
def test_litellm_responses_and_embeddings(tmp_path: Path) -> None:
    with keeping(sqlite(tmp_path), keys=False) as gateway:
        gateway.backend._script = json_of
        found = run(LITELLM_RESPONSES, gateway.url)
    assert found == [ANSWER, "completed", "response.created", "response.completed", 2, 10]
