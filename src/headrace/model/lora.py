"""Low-rank adapters as modules: each wraps the module whose arithmetic it changes.

    LoRA     y = W x + b + s B A x                    s = alpha / rank, rsLoRA alpha / sqrt(rank)
    DoRA     y = m / |W + s B A| (W x + s B A x) + b  |.| the norm of each row, held constant
    whole    a trained copy of the module

`weight` of a wrapper is the matrix that its forward amounts to, with gradients to A, B and m: what
a loss over chunks of logits takes from an adapted head. `enabled = False` is the base alone. While
`merged` is set the forward is that one matrix; the base's own is kept as it was, so that unmerging
is exact.

Legend: O outputs, I inputs, R rank, V vocabulary, D model.

Sources: Hu et al. 2021 (LoRA), Kalajdzievski 2023 (rsLoRA), Liu et al. 2024 (DoRA; 4.3 on the norm
that gets no gradient); what is computed in which order, and in which type, is PEFT's.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from headrace.model.nf4 import Nf4Linear

Base = nn.Linear | Nf4Linear


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """One module's adapter."""

    rank: int
    alpha: float
    dropout: float = 0.0
    """Share of the inputs that are dropped before A, in training mode while gradients are on."""
    rslora: bool = False
    dora: bool = False

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


class Wrapper(nn.Module):
    """What all adapted modules have in common."""

    base: nn.Module
    enabled: bool
    merged: Tensor | None

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """The trained ones, by their names in PEFT's files."""
        raise NotImplementedError

    def effective(self) -> Tensor:
        """The matrix that base and adapter amount to."""
        raise NotImplementedError

    @property
    def weight(self) -> Tensor:
        """The matrix in use."""
        if self.merged is not None:
            return self.merged
        return self.effective() if self.enabled else self.base_weight

    @property
    def base_weight(self) -> Tensor:
        """The base's matrix, made anew where it is stored in NF4."""
        weight = self.base.weight
        assert isinstance(weight, Tensor)
        return weight


class LoraLinear(Wrapper):
    """A linear and its low-rank correction, in float32 whatever the base is.

    Args:
        base: Frozen.
        spec: Rank, scale and variant.
        generator: Draws A as PEFT does (Kaiming's uniform, bound 1 / sqrt(I)); B is zero.
    """

    def __init__(self, base: Base, spec: Spec, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.base = base
        self.spec = spec
        self.enabled = True
        self.merged = None
        weight = base.weight
        rows, cols = weight.shape
        device = weight.device
        a_RI = torch.empty(spec.rank, cols)
        nn.init.kaiming_uniform_(a_RI, a=math.sqrt(5), generator=generator)
        self.lora_A = nn.Parameter(a_RI.to(device))
        self.lora_B = nn.Parameter(torch.zeros(rows, spec.rank, device=device))
        self.magnitude: nn.Parameter | None = None
        if spec.dora:
            norm_O = torch.linalg.norm(weight.detach(), dim=1)
            self.magnitude = nn.Parameter(norm_O.to(torch.float32))

    @property
    def linear(self) -> Base:
        base = self.base
        assert isinstance(base, Base)
        return base

    @property
    def bias(self) -> Tensor | None:
        return self.linear.bias

    def own_parameters(self) -> dict[str, nn.Parameter]:
        own = {"lora_A.weight": self.lora_A, "lora_B.weight": self.lora_B}
        if self.magnitude is not None:
            own["lora_magnitude_vector"] = self.magnitude
        return own

    def delta(self) -> Tensor:
        """s B A `[O, I]`."""
        return (self.lora_B @ self.lora_A) * self.spec.scale

    def effective(self) -> Tensor:
        base_OI, delta_OI = self.base_weight, self.delta()
        whole_OI = base_OI + delta_OI
        if self.magnitude is not None:
            norm_O = _row_norm(base_OI, delta_OI.detach())
            whole_OI = (self.magnitude / norm_O)[:, None] * whole_OI
        return whole_OI.to(base_OI.dtype)

    def forward(self, x: Tensor) -> Tensor:
        linear = self.linear
        if self.merged is not None:
            return functional.linear(x, self.merged, linear.bias)
        if not self.enabled:
            return linear(x)
        dropping = self.training and torch.is_grad_enabled() and self.spec.dropout > 0
        if self.magnitude is not None:
            return self._dora(x, dropping=dropping)
        out = linear(x)
        inner = x.to(self.lora_A.dtype)
        if dropping:
            inner = functional.dropout(inner, self.spec.dropout)
        return (out + self._low_rank(inner)).to(out.dtype)

    def _low_rank(self, x: Tensor) -> Tensor:
        inner = functional.linear(functional.linear(x, self.lora_A), self.lora_B)
        return inner * self.spec.scale

    def _dora(self, x: Tensor, *, dropping: bool) -> Tensor:
        assert self.magnitude is not None
        linear = self.linear
        out = linear(x)
        inner = x.to(self.lora_A.dtype)
        if dropping:
            inner = functional.dropout(inner, self.spec.dropout)
            plain = functional.linear(inner, self.base_weight.to(inner.dtype))
        else:
            plain = out if linear.bias is None else out - linear.bias
        with torch.no_grad():
            delta_OI = self.lora_B @ self.lora_A
            base_OI = self.base_weight.to(inner.dtype)
            norm_O = torch.linalg.norm(base_OI + self.spec.scale * delta_OI, dim=1)
        ratio_O = self.magnitude / norm_O
        return (out + (ratio_O - 1) * plain + ratio_O * self._low_rank(inner)).to(out.dtype)


class LoraEmbedding(Wrapper):
    """A table of rows and its low-rank correction; its row of token v is W[v] + s B A[:, v].

    Args:
        base: Frozen.
        spec: Rank and scale; there is no dropout and, for DoRA, a magnitude per model dimension.
        generator: Draws B, normal; A is zero, as in PEFT.
    """

    def __init__(
        self, base: nn.Embedding, spec: Spec, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.base = base
        self.spec = spec
        self.enabled = True
        self.merged = None
        rows, dim = base.weight.shape
        device = base.weight.device
        self.lora_A = nn.Parameter(torch.zeros(spec.rank, rows, device=device))
        b_DR = torch.empty(dim, spec.rank).normal_(generator=generator)
        self.lora_B = nn.Parameter(b_DR.to(device))
        self.magnitude: nn.Parameter | None = None
        if spec.dora:
            norm_D = torch.linalg.norm(base.weight.detach(), dim=0)
            self.magnitude = nn.Parameter(norm_D.to(torch.float32))

    def own_parameters(self) -> dict[str, nn.Parameter]:
        own = {"lora_embedding_A": self.lora_A, "lora_embedding_B": self.lora_B}
        if self.magnitude is not None:
            own["lora_magnitude_vector"] = self.magnitude
        return own

    def delta(self) -> Tensor:
        """s (B A)^T `[V, D]`."""
        return (self.lora_B @ self.lora_A).T * self.spec.scale

    def effective(self) -> Tensor:
        base_VD, delta_VD = self.base_weight, self.delta()
        whole_VD = base_VD + delta_VD
        if self.magnitude is not None:
            whole_VD = (self.magnitude / self._norm()) * whole_VD
        return whole_VD.to(base_VD.dtype)

    def forward(self, ids_T: Tensor) -> Tensor:
        if self.merged is not None:
            return functional.embedding(ids_T, self.merged)
        out_TD = self.base(ids_T)
        if not self.enabled:
            return out_TD
        inner_TD = functional.embedding(ids_T, self.lora_A.T) @ self.lora_B.T * self.spec.scale
        if self.magnitude is None:
            return (out_TD + inner_TD).to(out_TD.dtype)
        ratio_D = self.magnitude / self._norm()
        return (ratio_D * out_TD + ratio_D * inner_TD).to(out_TD.dtype)

    def _norm(self) -> Tensor:
        with torch.no_grad():
            return _row_norm(self.base_weight.T, self.delta().T)


class Whole(Wrapper):
    """A module beside a trained copy of itself, which is what runs.

    Args:
        base: Frozen; a linear, an embedding or a norm, of full precision.
    """

    def __init__(self, base: nn.Module, trained: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.trained = trained
        self.enabled = True
        self.merged = None

    def own_parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.trained.named_parameters())

    def effective(self) -> Tensor:
        weight = self.trained.weight
        assert isinstance(weight, Tensor)
        return weight

    def forward(self, x: Tensor) -> Tensor:
        return self.trained(x) if self.enabled or self.merged is not None else self.base(x)


def _row_norm(base_OI: Tensor, delta_OI: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.linalg.norm(base_OI + delta_OI, dim=1).to(base_OI.dtype)
