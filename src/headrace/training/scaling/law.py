"""L(N, D) = E + A / N^a + B / D^b: what it predicts, and the best use of a compute budget.

Legend: N parameters, D training tokens, L held-out loss in nats a token, C training FLOPs.

Source: Hoffmann et al. 2022, arXiv 2203.15556, equations 2 and 4; training costs C = 6 N D FLOPs
(Kaplan et al. 2020, arXiv 2001.08361, section 2.1), which leaves attention scores out.
"""

from dataclasses import dataclass

FLOPS_PER_PARAMETER_TOKEN = 6.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One trained model."""

    parameters: float
    tokens: float
    loss: float
    name: str = ""

    @property
    def flops(self) -> float:
        return FLOPS_PER_PARAMETER_TOKEN * self.parameters * self.tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimum:
    """The size and the tokens that a budget is best spent on."""

    flops: float
    parameters: float
    tokens: float
    loss: float

    @property
    def tokens_per_parameter(self) -> float:
        return self.tokens / self.parameters


@dataclass(frozen=True, kw_only=True, slots=True)
class Law:
    """The five constants."""

    E: float
    """Loss that neither size nor data removes."""
    A: float
    a: float
    B: float
    b: float

    def loss(self, parameters: float, tokens: float) -> float:
        """The predicted held-out loss."""
        return self.E + self.A / parameters**self.a + self.B / tokens**self.b

    def optimum(self, flops: float) -> Optimum:
        """The minimum of the loss on 6 N D = `flops`, in closed form."""
        ratio = (self.a * self.A / (self.b * self.B)) ** (1 / (self.a + self.b))
        pairs = flops / FLOPS_PER_PARAMETER_TOKEN
        parameters = ratio * pairs ** (self.b / (self.a + self.b))
        tokens = pairs / parameters
        return Optimum(
            flops=flops,
            parameters=parameters,
            tokens=tokens,
            loss=self.loss(parameters, tokens),
        )

    @property
    def size_exponent(self) -> float:
        """The best N grows as C to this power; the best D as C to one minus it."""
        return self.b / (self.a + self.b)
