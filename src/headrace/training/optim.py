"""Gradients -> updates: AdamW, or Muon for the layers' matrices and AdamW for the rest.

Muon orthogonalises each momentum matrix by five Newton-Schulz iterations (Jordan et al.,
https://kellerjordan.github.io/posts/muon/; the scale that matches AdamW's root mean square is
arXiv 2502.16982, eq. 4). `torch.optim.Muon` iterates in bfloat16, which a CPU without bfloat16
instructions runs 30 times slower than float32; this one stays in the parameter's own type.
"""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

from headrace.errors import ConfigError
from headrace.training.parallel import own_part, whole
from headrace.training.recipe import Updates

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised; for matrices only."""

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                state: dict[str, Any] = self.state[param]
                if not state:
                    state["momentum"] = torch.zeros_like(param)
                momentum: Tensor = state["momentum"]
                momentum.lerp_(param.grad, 1 - group["momentum"])
                looked_ahead = param.grad.lerp(momentum, group["momentum"])  # Nesterov
                # A matrix that is cut over ranks is orthogonalised whole, by each alike.
                update = own_part(orthogonalised(whole(looked_ahead)), param)
                scale = 0.2 * max(param.shape) ** 0.5
                param.mul_(1 - group["lr"] * group["weight_decay"])
                param.add_(update, alpha=-group["lr"] * scale)
        return loss


def orthogonalised(matrix: Tensor) -> Tensor:
    """About U V^T of the matrix's singular value decomposition."""
    a, b, c = _NEWTON_SCHULZ
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide


def optimizers(
    named: Iterable[tuple[str, nn.Parameter]], updates: Updates
) -> tuple[torch.optim.Optimizer, ...]:
    """The recipe's optimizers over every parameter that is to be trained, each exactly once.

    Raises:
        ConfigError: Nothing is to be trained.
    """
    matrices: list[Tensor] = []
    tables: list[Tensor] = []
    vectors: list[Tensor] = []
    for name, param in named:
        if not param.requires_grad:
            continue
        if param.ndim == 2 and ".layers." in f".{name}":
            matrices.append(param)
        else:
            (tables if param.ndim == 2 else vectors).append(param)
    if not (matrices or tables or vectors):
        raise ConfigError("no parameter requires a gradient; unfreeze some or add an adapter")
    betas, decay = (updates.beta1, updates.beta2), updates.weight_decay
    if updates.optimizer == "adamw":
        groups = [
            {"params": params, "weight_decay": its_decay}
            for params, its_decay in ((matrices + tables, decay), (vectors, 0.0))
            if params
        ]
        return (torch.optim.AdamW(groups, lr=updates.lr, betas=betas, eps=1e-8, fused=True),)
    made: list[torch.optim.Optimizer] = []
    if matrices:
        made.append(Muon(matrices, lr=updates.matrix_lr, weight_decay=decay))
    if tables or vectors:
        made.append(
            torch.optim.AdamW(
                tables + vectors,
                lr=updates.lr,
                betas=betas,
                eps=1e-10,
                weight_decay=0.0,
                fused=True,
            )
        )
    return tuple(made)
