"""Counts the bytes of tensors that come and go, on the meta device too.

    with Ledger() as ledger, torch.device("meta"):
        ...
        ledger.live, ledger.peak

Views count once, with what they look at; what an operation allocates inside and frees before it
returns is not seen.
"""

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Ledger(TorchDispatchMode):
    """Everything that operations return inside the block, until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        """Bytes that exist now."""
        self.peak = 0
        """The most that existed at a time since `restart`."""
        self._seen: dict[int, weakref.ref[Any]] = {}

    def restart(self) -> None:
        """Begin to look for the peak anew."""
        self.peak = self.live

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self._note(out)
        elif isinstance(out, tuple | list):
            for item in out:
                if isinstance(item, Tensor):
                    self._note(item)
        return out

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._seen:
            return

        def freed(_: object) -> None:
            self.live -= size
            del self._seen[key]

        self._seen[key] = weakref.ref(storage, freed)
        self.live += size
        self.peak = max(self.peak, self.live)
