"""elementwise.h compiled by itself, for each instruction set that runs here, against float64."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from headrace.kernels import library

FLAGS = {
    "avx512": "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512bf16 -mavx512vbmi "
    "-mavx2 -mfma -mf16c",
    "avx2": "-mavx2 -mfma -mf16c",
    "portable": "",
}
HEADERS = Path(library.__file__).with_name("native")
FACE = Path(__file__).with_name("elementwise_face.cpp")
SIZES = [1, 7, 16, 33, 64, 80, 1000]


@pytest.fixture(scope="module", params=FLAGS)
def face(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., None]:
    """Calls a function of the compiled face with tensors and numbers."""
    compiler = shutil.which("c++")
    isa = next(isa for isa in library.ISAS if isa.name == request.param)
    if compiler is None or (isa.machines and os.uname().machine not in isa.machines):
        pytest.skip("no C++ compiler, or another kind of processor")
    if missing := set(isa.flags) - library.cpu_flags():
        pytest.skip(f"this processor lacks {missing}")
    out = tmp_path_factory.mktemp("face") / f"{isa.name}.so"
    options = ["-O2", "-std=c++20", "-fPIC", "-shared", "-fno-math-errno", f"-I{HEADERS}"]
    flags = FLAGS[isa.name].split()
    subprocess.run([compiler, *options, *flags, str(FACE), "-o", str(out)], check=True)
    loaded = ctypes.CDLL(str(out))

    def call(name: str, *arguments: Tensor | int | float) -> None:
        loaded[f"face_{name}"](*(_argument(argument) for argument in arguments))

    return call


def _argument(value: Tensor | float) -> ctypes.c_void_p | ctypes.c_int | ctypes.c_float:
    if isinstance(value, Tensor):
        assert value.dtype == torch.float32
        assert value.is_contiguous()
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_int(value) if isinstance(value, int) else ctypes.c_float(value)


def test_power2_keeps_its_bound(face: Callable[..., None]) -> None:
    x = torch.linspace(-126, 127, 16 * 20_000).clamp(-126, 127)
    y = torch.empty_like(x)
    face("power2", len(x), x, y)
    assert ((y.double() / torch.exp2(x.double())) - 1).abs().max() <= 2.5e-7
    whole = torch.arange(-120, 120, dtype=torch.float32)
    found = torch.empty_like(whole)
    face("power2", len(whole), whole, found)
    assert torch.equal(found, torch.exp2(whole))


def test_power2_at_the_ends(face: Callable[..., None]) -> None:
    x = torch.tensor([float("-inf"), -1e30, -127.0, float("nan")] * 4)
    y = torch.empty_like(x)
    face("power2", 16, x, y)
    assert (y[:3] == 2.0**-126).all()
    assert y[3].isnan()


@pytest.mark.parametrize("size", SIZES)
def test_rms_norm(face: Callable[..., None], size: int) -> None:
    x, weight = torch.randn(2, size)
    guarded = torch.full((size + 3,), 7.0)
    face("rms_norm", x, weight, size, 1e-5, guarded)
    expected = torch.nn.functional.rms_norm(x.double(), (size,), weight.double(), 1e-5)
    torch.testing.assert_close(guarded[:size].double(), expected, rtol=1e-6, atol=1e-6)
    assert (guarded[size:] == 7).all()
    face("rms_norm", x, weight, size, 1e-5, x)
    assert torch.equal(x, guarded[:size])


@pytest.mark.parametrize("head_dim", [2, 16, 48, 64, 80, 128])
def test_rotate(face: Callable[..., None], head_dim: int) -> None:
    x, angle = torch.randn(head_dim + 3), torch.randn(head_dim // 2)
    first, second = x[:head_dim].double().chunk(2)
    cos, sin = angle.double().cos(), angle.double().sin()
    expected = torch.cat((first * cos - second * sin, second * cos + first * sin, x[head_dim:]))
    face("rotate", x, angle.cos(), angle.sin(), head_dim)
    torch.testing.assert_close(x.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_silu_multiply(face: Callable[..., None], size: int) -> None:
    gate, up = 5 * torch.randn(2, size)
    gate[0] = -200.0  # beyond what 2^x can represent
    guarded = torch.full((size + 3,), 7.0)
    face("silu_multiply", gate, up, size, guarded)
    expected = torch.nn.functional.silu(gate.double()) * up.double()
    torch.testing.assert_close(guarded[:size].double(), expected, rtol=1e-6, atol=1e-6)
    assert (guarded[size:] == 7).all()
