"""A decoder -> another over the same parameters, for the engine to sample from.

What a run puts around the layers it trains (lower precision, compiling, computing activations
again) is for whole documents in one pass, not for a cache of keys and values. The twin is made
before that, has none of it, and sees every update because it has no weights of its own.
"""

import copy

from headrace.model.decoder import Decoder


def twin(decoder: Decoder) -> Decoder:
    """Modules of its own, parameters and buffers that are the decoder's."""
    shared = {id(tensor): tensor for tensor in (*decoder.parameters(), *decoder.buffers())}
    return copy.deepcopy(decoder, shared)


def frozen(decoder: Decoder) -> Decoder:
    """A copy that stays as the decoder is now: a reference."""
    return copy.deepcopy(decoder).requires_grad_(False)
