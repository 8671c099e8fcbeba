"""The estimate counts what a step really allocates, and its advice fits."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from headrace.data.pack import PackedBatch
from headrace.errors import ConfigError
from headrace.model import adapters
from headrace.model.adapters import Adapter
from headrace.model.config import ModelConfig
from headrace.model.decoder import Decoder
from headrace.training import fit, memory
from headrace.training.ledger import Ledger
from headrace.training.memory import Workload
from headrace.training.task import NextToken

T = 600
CONFIG = ModelConfig(
    family="qwen3",
    vocab_size=2048,
    hidden_size=128,
    intermediate_size=384,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=T,
    qk_norm=True,
    tie_word_embeddings=True,
)
Method = Literal["none", "lora", "dora", "qlora"]


def measured(adapter: Adapter) -> int:
    """The most bytes of tensors that a real forward and backward pass has at a time."""
    with Ledger() as ledger:
        decoder = Decoder(CONFIG)
        decoder.init_weights(0)
        if adapter.method != "none":
            adapters.attach(decoder, adapters.plan(CONFIG, adapter))
        decoder.train()
        ids = np.arange(T, dtype=np.int64) % CONFIG.vocab_size
        batch = PackedBatch(
            ids_T=ids,
            targets_T=ids,
            pos_T=np.arange(T, dtype=np.int64) % 300,
            doc_T=np.arange(T, dtype=np.int64) // 300,
            weight_T=np.ones(T, np.float32),
        )
        ledger.restart()
        NextToken().loss(decoder, batch).sum.backward()
        return ledger.peak


@pytest.mark.parametrize("method", ["none", "lora", "dora", "qlora"])
def test_a_dry_run_counts_what_a_real_one_allocates(method: Method) -> None:
    adapter = Adapter(method=method, rank=8)
    real = measured(adapter)
    work = Workload(config=CONFIG, adapter=adapter, batch_tokens=T, device="cuda")
    found = memory.estimate(work)
    states = found.parts["optimizer"]
    assert found.phase in ("loss", "backward begins")
    assert abs((found.peak_bytes - states) / real - 1) < 0.03
    assert sum(found.parts.values()) == found.peak_bytes


def test_each_part_is_what_it_is_said_to_be() -> None:
    parameters = sum(p.numel() for p in Decoder(CONFIG).parameters())
    small = Workload(config=CONFIG, adapter=Adapter(), batch_tokens=8)
    full = memory.estimate(small, process_bytes=7)
    assert full.phase in ("update", "backward ends")
    # The rotary table is a buffer beside the parameters.
    assert full.parts["weights"] == pytest.approx(4 * parameters, rel=0.01)
    assert full.parts["gradients"] == 4 * parameters
    assert full.parts["optimizer"] == 8 * parameters
    assert full.parts["process"] == 7
    assert (
        memory.estimate(replace(small, optimizer="muon")).parts["optimizer"]
        < 0.7 * full.parts["optimizer"]
    )
    qlora = memory.estimate(
        Workload(config=CONFIG, adapter=Adapter(method="qlora", rank=2), batch_tokens=8)
    )
    embedding = 4 * CONFIG.vocab_size * CONFIG.hidden_size
    assert qlora.parts["weights"] == pytest.approx(
        embedding + (parameters - embedding / 4) * 0.516, rel=0.02
    )
    assert qlora.parts["optimizer"] == 2 * qlora.parts["adapters"]


# bfloat16 heads through float32 norms: the meta device remarks on it.
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
def test_thrift_takes_less() -> None:
    work = Workload(config=CONFIG, adapter=Adapter(method="lora"), batch_tokens=T)
    plain = memory.estimate(work, process_bytes=0).parts["activations"]

    def activations(**changes: object) -> int:
        made = replace(work, **changes)  # pyright: ignore[reportArgumentType]
        return memory.estimate(made, process_bytes=0).parts["activations"]

    assert activations(checkpoint_activations=True) < 0.6 * plain
    assert activations(precision="bfloat16") < 0.9 * plain
    assert activations(batch_tokens=T // 2) < 0.6 * plain
    last = replace(work, adapter=Adapter(method="lora", targets="layers.5.self_attn.q_proj"))
    assert memory.estimate(last, process_bytes=0).parts["adapters"] > 0
    more = memory.estimate(replace(work, passes=2), process_bytes=0)
    assert more.parts["gradients"] == more.parts["adapters"]


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    work = Workload(config=CONFIG, adapter=Adapter(), batch_tokens=4 * T)
    needed = fit.check(work, row_tokens=2 * T, available=1 << 40)
    own = needed.peak_bytes - needed.parts["process"]
    with pytest.raises(ConfigError, match=r"needs about .* GiB .*activations.*free") as caught:
        fit.check(work, row_tokens=2 * T, available=int(0.6 * own))
    message = caught.value.message
    assert "what would fit: --set compute.checkpoint_activations=true" in message
    assert "--set rows.batch_tokens=1200 (" in message
    assert "--adapter lora (" not in message  # activations are nearly all of it
    with pytest.raises(ConfigError, match=r"nothing fits here: the least is --adapter qlora .*400"):
        fit.check(work, row_tokens=4 * T, available=1 << 20)


def test_memory_of_a_control_group_is_what_is_left_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = tmp_path
    (group / "memory.max").write_text("1000\n")
    (group / "memory.current").write_text("900\n")
    (group / "memory.stat").write_text("anon 500\ninactive_file 300\n")
    monkeypatch.setattr(fit, "_CGROUP", group)
    assert fit.available_bytes("cpu") == 400
    (group / "memory.max").write_text("max\n")
    assert fit.available_bytes("cpu") > 1 << 20


def test_the_ledger_counts_views_once_and_what_is_freed_no_more() -> None:
    with Ledger() as ledger:
        one = torch.zeros(1000)
        two = one.view(10, 100)
        assert ledger.live == 4000
        del one
        assert ledger.live == 4000
        three = two + 1
        del two, three
        assert ledger.live == 0
        assert ledger.peak == 8000
