"""The engine on native kernels: tokens and log-probabilities of a request are the same bits alone,
in a batch, from the cache, after a preemption and in chunks of any size."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_traffic import request
from headrace.config import EngineSettings, ModelSettings
from headrace.engine.core import Generated, generate_all
from headrace.engine.request import EngineRequest
from headrace.engine.stacks import choose
from headrace.errors import ConfigError
from native_models import bf16_decoder, native_core, needs_native

STEM = tuple(range(20, 75))


def answer(found: Generated) -> list[tuple[object, ...]]:
    return [(choice.tokens, choice.logprobs, choice.finish) for choice in found.choices]


@st.composite
def requests(draw: st.DrawFn, at: int) -> EngineRequest:
    stem = STEM[: draw(st.sampled_from([0, 16, 33, 55]))]
    tail = draw(st.lists(st.integers(0, 130), min_size=1, max_size=20))
    return request(
        f"r{at}",
        (*stem, *tail),
        seed=draw(st.integers(0, 2)),
        temperature=draw(st.sampled_from([0.0, 0.0, 0.8])),
        top_p=draw(st.sampled_from([1.0, 0.9])),
        n=draw(st.sampled_from([1, 1, 2])),
        max_tokens=draw(st.sampled_from([1, 6, 18])),
        logprobs=2,
        prompt_logprobs=draw(st.sampled_from([None, None, 1])),
    )


@needs_native
@pytest.mark.parametrize(
    ("family", "quantization", "kv_dtype"),
    [("llama", "none", "auto"), ("qwen3", "int8", "int8"), ("mistral", "int4", "auto")],
)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_traffic_gives_each_its_solo_answer(
    family: str, quantization: str, kv_dtype: str, data: st.DataObject
) -> None:
    asked = [data.draw(requests(at)) for at in range(data.draw(st.integers(1, 6)))]
    core = native_core(
        family,
        quantization=quantization,
        kv_dtype=kv_dtype,
        blocks=data.draw(st.integers(14, 40), label="blocks"),
        max_batch_tokens=data.draw(st.sampled_from([3, 17, 64]), label="budget"),
    )
    together = generate_all(core, asked)
    core.check_integrity()
    assert core.stats().blocks_used == 0
    solo = native_core(family, quantization=quantization, kv_dtype=kv_dtype)
    for one in asked:
        alone = generate_all(solo, [one])[one.id]
        assert answer(together[one.id]) == answer(alone)
        assert together[one.id].prompt_logprobs == alone.prompt_logprobs


@needs_native
def test_preempted_and_cached_answers_are_the_same_bits() -> None:
    batch = [request(str(at), STEM[at : at + 9], max_tokens=60, logprobs=0) for at in range(4)]
    tight = native_core("llama", blocks=12, max_batch_tokens=16)
    crowded = generate_all(tight, batch)
    assert tight.stats().counters.preemptions > 0
    roomy = native_core("llama", blocks=64)
    calm = generate_all(roomy, batch)
    again = generate_all(roomy, batch)
    for name in crowded:
        assert answer(crowded[name]) == answer(calm[name]) == answer(again[name])


@needs_native
def test_what_runs_says_its_name() -> None:
    assert native_core("qwen3").kernels.startswith("native ")
    name = native_core("qwen3", quantization="int8", kv_dtype="int8").kernels
    assert name.endswith("int8 g32, int8 KV")


@pytest.mark.parametrize(
    ("model", "engine", "text"),
    [
        ({}, {"kernels": "cuda"}, "engine.kernels = 'cuda' is not one of auto, native, torch"),
        ({}, {"kv_dtype": "fp8"}, "engine.kv_dtype = 'fp8' is not one of"),
        ({"quantization": "int2"}, {}, "model.quantization = 'int2' is not one of"),
        ({"quantization_group": 48}, {}, "quantization_group = 48 is not one of 32, 64, 128"),
        (
            {},
            {"kernels": "torch", "kv_dtype": "int8"},
            "kv_dtype = 'int8' needs the native kernels, but engine.kernels = 'torch'",
        ),
        ({}, {"kernels": "native", "block_tokens": 8}, "block_tokens = 8 is not a multiple of 16"),
    ],
)
def test_what_cannot_be_had_is_refused(
    model: dict[str, object], engine: dict[str, object], text: str
) -> None:
    if "block_tokens" in engine and needs_native.args[0]:
        pytest.skip("without a library that is the first obstacle")
    with pytest.raises(ConfigError, match=text):
        choose(
            bf16_decoder("llama"),
            ModelSettings(**model),  # pyright: ignore[reportArgumentType]
            EngineSettings(**engine),  # pyright: ignore[reportArgumentType]
            threads=1,
        )
