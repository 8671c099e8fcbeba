"""The Hugging Face Trainer on a Qwen3 shape and blocks of ids: how long its steps take.

Its defaults, but for what would write or report: no saving, no logging, no progress bar; AdamW,
cosine, gradients clipped to 1, as the others.
"""

import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import (
    Qwen3Config,
    Qwen3ForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)


class _Clock(TrainerCallback):
    def __init__(self) -> None:
        self.stamps: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if not self.stamps:
            self.stamps.append(time.perf_counter())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.stamps.append(time.perf_counter())


class Contestant:
    """Keeps its model; each call of `seconds` trains it on."""

    def __init__(self, config: dict[str, Any], blocks: npt.NDArray[np.int64], batch: int) -> None:
        torch.manual_seed(0)
        self.model = Qwen3ForCausalLM(Qwen3Config(**config, attn_implementation="sdpa"))
        self.blocks: Sequence[dict[str, Any]] = [
            {"input_ids": row, "labels": row} for row in torch.from_numpy(blocks)
        ]
        self.batch = batch

    def seconds(self, steps: int, *, skipped: int) -> float:
        """How long `steps` steps take, after the first few of this call."""
        clock = _Clock()
        with tempfile.TemporaryDirectory() as directory:
            arguments = TrainingArguments(
                output_dir=directory,
                per_device_train_batch_size=self.batch,
                max_steps=steps + skipped,
                learning_rate=1e-3,
                lr_scheduler_type="cosine",
                max_grad_norm=1.0,
                weight_decay=0.1,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
            )
            Trainer(
                model=self.model,
                args=arguments,
                train_dataset=self.blocks,  # pyright: ignore[reportArgumentType]
                data_collator=default_data_collator,
                callbacks=[clock],
            ).train()
        return clock.stamps[-1] - clock.stamps[skipped]
