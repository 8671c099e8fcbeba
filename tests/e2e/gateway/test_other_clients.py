"""`langchain-openai` and `litellm` as clients, unchanged: plain, asynchronous, streamed, tools.

Both are heavy, so they run in a process of their own, whose warnings and threads are not ours.
"""

import json
import subprocess
import sys

import pytest

from gateway_server import serving
from headrace.config import process_environment
from headrace.testing import Step
from headrace.types import Finished, FinishReason, Started, TextDelta, ToolCallDelta, Usage

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
for answer in (model.invoke("hi"), asyncio.run(model.ainvoke("hi"))):
    found.append([answer.content, answer.tool_calls[0]["args"],
                  answer.usage_metadata["total_tokens"]])
whole = None
for chunk in model.stream("hi"):
    whole = chunk if whole is None else whole + chunk
found.append([whole.content, whole.tool_calls[0]["args"], whole.usage_metadata["total_tokens"]])
responses = ChatOpenAI(base_url=sys.argv[1] + "/v1", api_key="x", model="m", max_retries=0,
                       use_responses_api=True).bind_tools([f])
answer = responses.invoke("hi")
found.append([answer.text if isinstance(answer.text, str) else answer.text(),
              answer.tool_calls[0]["args"], answer.usage_metadata["total_tokens"]])
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


def run(program: str, url: str) -> list[list[object]]:
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
    assert found == [["Hello, world", {"a": 1}, 10]] * 4


@pytest.mark.slow
def test_litellm() -> None:
    with serving(SCRIPT) as gateway:
        found = run(LITELLM, gateway.url)
    assert found == [["Hello, world", {"a": 1}, 10]] * 6
