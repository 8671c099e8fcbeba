"""nanoGPT's training loop on its shakespeare-char CPU configuration, written anew from its recipe.

As published (github.com/karpathy/nanoGPT, README and config/train_shakespeare_char.py): GPT-2 with
LayerNorm, GELU, learned positions, no biases, tied head, dropout 0, 4 layers, 4 heads, 128 wide,
context 64, batch 12; random blocks of the text each step; AdamW with betas 0.9 and 0.99, weight
decay 0.1 on matrices; gradients clipped to 1; cosine after a warm-up; on a CPU in float32 without
compilation. What its loop does each step is done here: a batch drawn and copied, one forward and
backward pass over full logits, clipping, the update, `zero_grad(set_to_none=True)`. Evaluation and
logging are left out for all contestants.
"""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

LAYERS, HEADS, WIDTH, CONTEXT, BATCH = 4, 4, 128, 64, 12


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(WIDTH, bias=False)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.before_mlp = nn.LayerNorm(WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        split = self.qkv(self.before_attention(x_BTD)).split(WIDTH, dim=2)
        q, k, v = (x.unflatten(2, (HEADS, -1)).transpose(1, 2) for x in split)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BTD = x_BTD + self.out(attended.transpose(1, 2).flatten(2))
        return x_BTD + self.down(functional.gelu(self.up(self.before_mlp(x_BTD))))


class Gpt(nn.Module):
    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for name, param in self.named_parameters():
            if param.ndim == 2:
                last = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(param, std=0.02 / (math.sqrt(2 * LAYERS) if last else 1))

    def forward(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        x_BTD = self.tokens(ids_BT) + self.positions(torch.arange(ids_BT.shape[1]))
        for block in self.blocks:
            x_BTD = block(x_BTD)
        logits = functional.linear(self.norm(x_BTD), self.tokens.weight)
        return functional.cross_entropy(logits.flatten(0, 1), targets_BT.flatten())


def train(ids: npt.NDArray[np.int64], vocab: int, steps: int) -> Iterator[float]:
    """Yields each step's loss."""
    torch.manual_seed(1337)
    model = Gpt(vocab)
    decayed = [param for param in model.parameters() if param.ndim == 2]
    rest = [param for param in model.parameters() if param.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
        lr=1e-3,
        betas=(0.9, 0.99),
    )
    data = ids.astype(np.uint16)

    def batch() -> tuple[Tensor, Tensor]:
        starts = torch.randint(len(data) - CONTEXT, (BATCH,)).tolist()
        x = torch.stack([torch.from_numpy(data[i : i + CONTEXT].astype(np.int64)) for i in starts])
        y = torch.stack(
            [torch.from_numpy(data[i + 1 : i + 1 + CONTEXT].astype(np.int64)) for i in starts]
        )
        return x, y

    x_BT, y_BT = batch()
    for step in range(steps):
        done = max(0.0, (step - 100) / max(1, steps - 100))
        rate = min(1.0, (step + 1) / 101) * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * rate
        loss = model(x_BT, y_BT)
        x_BT, y_BT = batch()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield loss.item()
