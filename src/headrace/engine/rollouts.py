"""The engine over a decoder that is being trained, in the same process: roll-outs.

    engine = RolloutEngine(decoder, eos_ids=checkpoint.eos_ids)
    for generated in engine.generate([(prompt, sampling), ...]): ...

Invariant: nothing is copied: it reads the parameters where the optimizer writes them, so that what
it samples is always of the newest weights. Keys and values computed with older ones are never
reused: each call has a prefix cache of its own. Its arithmetic is `model.stack.EagerStack`'s.
"""

from collections.abc import Sequence
from dataclasses import replace

from headrace.config import EngineSettings
from headrace.engine.core import EngineCore, Generated, generate_all
from headrace.engine.request import EngineRequest
from headrace.engine.stacks import eager
from headrace.model.decoder import Decoder
from headrace.types import SamplingParams

_NO_LIMIT = 1 << 62


class RolloutEngine:
    """Batches prompts continuously on the calling thread; nothing else may step it meanwhile.

    Args:
        decoder: The parameters, on any device.
        eos_ids: Tokens that end a completion.
        settings: `kv_cache_bytes`, `max_running`, `max_batch_tokens`: how much runs at once.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        eos_ids: Sequence[int],
        settings: EngineSettings | None = None,
    ) -> None:
        # All prompts are handed over at once: there is no queue whose length could be too much.
        settings = replace(
            settings or EngineSettings(),
            max_queued_requests=_NO_LIMIT,
            max_queued_tokens=_NO_LIMIT,
        )
        built = eager(decoder, settings)
        self.core = EngineCore(built.stack, settings, blocks=built.blocks)
        self._eos_ids = tuple(eos_ids)
        self._calls = 0

    def generate(self, prompts: Sequence[tuple[Sequence[int], SamplingParams]]) -> list[Generated]:
        """Every prompt's choices, in the prompts' order.

        Raises:
            HeadraceError: A prompt that does not fit or a parameter that is not allowed, before
                anything runs for it.
        """
        self._calls += 1
        requests = [
            EngineRequest(
                id=f"{self._calls}/{place}",
                prompt=tuple(prompt),
                sampling=sampling,
                salt=str(self._calls),
                eos_ids=self._eos_ids,
            )
            for place, (prompt, sampling) in enumerate(prompts)
        ]
        answers = generate_all(self.core, requests)
        return [answers[request.id] for request in requests]
