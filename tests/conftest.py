"""Shared fixtures. No test reaches beyond loopback: a socket to anywhere else raises."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Before torch is imported anywhere, and for the processes that tests start: tiny models on several
# OpenMP threads spend their time waiting for each other as soon as another process is busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before triton is imported: without a GPU its kernels run as numpy.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# CI repeats itself, so that a red build is the change's doing; every other run explores.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise RuntimeError(f"a test reached for the network: {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data sets beside the checkout; a test that needs them skips where they are absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no data sets beside this checkout")
    return SHARED_DATA
