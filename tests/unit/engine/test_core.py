"""The core: what it refuses, what a fault costs, how large the pool is, what it reports."""

import logging
from pathlib import Path

import pytest
import torch

from engine_traffic import Clock, make_core, request, tiny_decoder, twin
from headrace.config import EngineSettings
from headrace.engine import stacks
from headrace.engine.core import EngineCore, gather, generate_all
from headrace.engine.request import EngineRequest
from headrace.engine.runner import Runner
from headrace.engine.stacks import eager, free_bytes, pool_blocks
from headrace.errors import ConfigError, HeadraceError, InvalidParameter
from headrace.types import FinishReason, TokenEvent, Usage


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (request("a", [1, 61]), "prompt token 1 is 61, but this model's ids are 0 to 60"),
        (request("a", [-1]), "prompt token 0 is -1"),
        (request("a", [1], stop_token_ids=(99,)), "`stop_token_ids` names token 99"),
        (request("a", [1], logit_bias=((61, 1.0),)), "`logit_bias` names token 61"),
        (request("a", [1], seed=None), "`seed` is None"),
        (request("a", [1], stop=("x",)), "`stop` needs a tokenizer"),
    ],
)
def test_what_the_model_cannot_do_is_refused(asked: EngineRequest, text: str) -> None:
    core = make_core()
    with pytest.raises(InvalidParameter, match=text):
        core.submit(asked)
    assert core.stats().counters.refused == 1
    assert not core.has_work


def test_a_fault_ends_the_requests_of_its_step_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    core = make_core(max_running=2)
    for name in "abc":
        core.submit(request(name, [1, 2, 3], max_tokens=4))
    execute = Runner.execute

    def broken(self: Runner, plan: object) -> object:
        raise ValueError("secret detail")

    monkeypatch.setattr(Runner, "execute", broken)
    with caplog.at_level(logging.ERROR):
        failed = core.step()
    assert [(output.id, output.event.finish) for output in failed] == [
        ("a", FinishReason.ERROR),
        ("b", FinishReason.ERROR),
    ]
    assert "ValueError" in (failed[0].event.error or "")
    assert "secret detail" not in (failed[0].event.error or "")
    assert "secret detail" in caplog.text
    assert core.stats().blocks_used == 0
    monkeypatch.setattr(Runner, "execute", execute)
    events = [output.event for _ in range(4) for output in core.step()]
    assert (
        gather(events).choices[0].tokens
        == twin("qwen3", request("c", [1, 2, 3], max_tokens=4), 0).tokens
    )
    core.check_integrity()


def test_bad_logits_end_their_own_request(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [
        request("scored", [9, 2, 3], max_tokens=2, prompt_logprobs=0),
        request("bad", [9, 5], max_tokens=2),
        request("good", [1, 2, 3], max_tokens=2),
    ]
    decoder = tiny_decoder("qwen3")
    true = decoder.hidden

    def poisoned(ids_T: torch.Tensor, pos_T: torch.Tensor, attend: object) -> torch.Tensor:
        hidden_TD = true(ids_T, pos_T, attend)  # pyright: ignore[reportArgumentType]
        hidden_TD[ids_T == 9] = torch.nan  # only a prompt's first row in "scored"
        hidden_TD[ids_T == 5] = torch.nan
        return hidden_TD

    monkeypatch.setattr(decoder, "hidden", poisoned)
    found = generate_all(make_core(), asked)
    for name in ("scored", "bad"):
        assert found[name].choices[0].finish is FinishReason.ERROR
        assert "not finite" in (found[name].choices[0].error or "")
    assert found["good"].choices[0].finish is FinishReason.LENGTH


def test_stop_strings_end_a_choice_through_the_tokenizer() -> None:
    # A tokenizer that spells id i as chr(97 + i % 26) is all that the watch needs.
    class Decoding:
        byte_fallback = False
        lead = None

    class Letters:
        decoding = Decoding()
        vocab_size = 61

        def token_bytes(self, token: int) -> bytes:
            return bytes([97 + token % 26])

        def is_special(self, token: int) -> bool:
            return False

    plain = request("a", [1, 2, 3], max_tokens=12)
    tokens = twin("qwen3", plain, 0).tokens
    text = "".join(chr(97 + token % 26) for token in tokens)
    stop = text[4:6]
    settings = EngineSettings(block_tokens=4, kv_cache_bytes=1 << 20)
    built = eager(tiny_decoder("qwen3"), settings)
    core = EngineCore(
        built.stack,
        settings,
        blocks=built.blocks,
        tokenizer=Letters(),  # pyright: ignore[reportArgumentType]
    )
    [choice] = generate_all(core, [request("a", [1, 2, 3], max_tokens=12, stop=(stop,))])[
        "a"
    ].choices
    assert (choice.finish, choice.stop) == (FinishReason.STOP, stop)
    assert choice.tokens == tokens[: text.index(stop) + 2]


def test_cancel_and_deadline_through_the_core() -> None:
    clock = Clock()
    core = make_core(clock=clock)
    core.submit(request("a", [1, 2, 3], max_tokens=50))
    core.submit(request("b", [1, 2, 3], max_tokens=50, deadline_s=101.0))
    core.step()
    assert core.stats().running == 2
    [output] = core.cancel("a")
    assert (output.id, output.event.finish) == ("a", FinishReason.ABORT)
    assert core.cancel("a") == []
    clock.now_s = 102.0
    [output] = core.step()
    assert (output.id, output.event.finish) == ("b", FinishReason.DEADLINE)
    assert not core.has_work
    stats = core.stats()
    assert (stats.blocks_used, stats.blocks_free, stats.blocks_total) == (0, 64, 64)


def test_penalties_count_each_token_once_across_a_preemption() -> None:
    core = make_core(blocks=9, max_batch_tokens=12)
    asked = [
        request(str(at), range(at, at + 6), max_tokens=20, frequency_penalty=0.8,
                repetition_penalty=1.3)
        for at in range(4)
    ]  # fmt: skip
    for name, found in generate_all(core, asked).items():
        assert found.choices[0].tokens == twin("qwen3", asked[int(name)], 0).tokens
    assert core.stats().counters.preemptions > 0


# --- the pool's size --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "free", "blocks"),
    [
        (EngineSettings(block_tokens=16, kv_cache_bytes=1000), 0, 6),
        (EngineSettings(block_tokens=16), 0, 7),  # one context of 100 tokens
        (EngineSettings(block_tokens=16), 64 * 16 * 10, 16),  # a quarter of what is free
        (
            EngineSettings(block_tokens=16, max_running=3),
            1 << 40,
            21,
        ),  # three contexts are enough for three
    ],
)
def test_pool_size(settings: EngineSettings, free: int, blocks: int) -> None:
    found = pool_blocks(
        settings, block_bytes=10 * settings.block_tokens, context_tokens=100, free_bytes=free
    )
    assert found == blocks


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            EngineSettings(block_tokens=16, kv_cache_bytes=100),
            "holds no block; one of 16 tokens takes 160 bytes",
        ),
        (EngineSettings(block_tokens=12), "block_tokens = 12 is not a power of two"),
        (EngineSettings(block_tokens=0), "block_tokens = 0"),
        (EngineSettings(max_running=0), "max_running = 0 is below 1"),
        (EngineSettings(max_batch_tokens=0), "max_batch_tokens = 0 is below 1"),
    ],
)
def test_sizes_with_which_nothing_runs(settings: EngineSettings, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        pool_blocks(
            settings, block_bytes=10 * settings.block_tokens, context_tokens=100, free_bytes=1 << 30
        )


def test_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert free_bytes(cpu) > 1 << 20

    def missing(self: Path) -> str:
        raise FileNotFoundError

    def of_cuda(device: torch.device) -> tuple[int, int]:
        return (5, 9)

    monkeypatch.setattr(torch.cuda, "mem_get_info", of_cuda)
    assert free_bytes(torch.device("cuda:1")) == 5
    monkeypatch.setattr(Path, "read_text", missing)
    assert free_bytes(cpu) == stacks._ASSUMED_FREE_BYTES
    monkeypatch.setattr(Path, "read_text", lambda self: "MemTotal: 5 kB\n")
    assert free_bytes(cpu) == stacks._ASSUMED_FREE_BYTES


# --- collecting -------------------------------------------------------------------------------


def test_broken_event_streams_are_noticed() -> None:
    with pytest.raises(HeadraceError, match="without usage"):
        gather([TokenEvent(tokens=(1,))])
    with pytest.raises(HeadraceError, match="choice 0 never finished"):
        gather([TokenEvent(tokens=(1,), usage=Usage())])


def test_same_seed_same_answer_whatever_runs_beside() -> None:
    asked = request("x", [4, 4, 4], seed=9, temperature=1.0, n=2, max_tokens=10)
    alone = generate_all(make_core(), [asked])["x"]
    others = [request(str(at), [at], seed=at, temperature=1.0, max_tokens=12) for at in range(9)]
    beside = generate_all(make_core(), [*others, asked])["x"]
    assert [c.tokens for c in alone.choices] == [c.tokens for c in beside.choices]
