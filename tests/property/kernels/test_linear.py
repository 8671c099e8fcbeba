"""Native products against their torch reference, over shapes that fit no tile, group or block."""

from dataclasses import dataclass

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from headrace.kernels import native, tiles
from headrace.kernels.native import Matrix
from native_isas import RUNNABLE, library, needs_native, pool, scratch

pytestmark = needs_native
relaxed = settings(deadline=None)  # the first example starts threads


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    isa: str
    format: str
    group: int
    rows: int
    cols: int
    m: int
    threads: int
    gap: int
    """Floats between rows of x and of out."""
    biased: bool
    seed: int

    def weights(self) -> Tensor:
        return torch.randn(self.rows, self.cols, generator=self._generator(1)).bfloat16()

    def inputs(self) -> Tensor:
        wide = torch.randn(self.m, self.cols + self.gap, generator=self._generator(2))
        return wide[:, : self.cols]

    def bias(self) -> Tensor | None:
        return torch.randn(self.rows, generator=self._generator(3)) if self.biased else None

    def matrix(self) -> Matrix:
        threads = pool(self.isa, self.threads)
        if self.format == "bf16":
            return Matrix.pack(threads, self.weights(), bias=self.bias())
        format: native.QuantizedFormat = "int8" if self.format == "int8" else "int4"
        return Matrix.quantize(
            threads, self.weights(), format=format, group=self.group, bias=self.bias()
        )

    def product(self, matrix: Matrix, x_MI: Tensor, threads: int | None = None) -> Tensor:
        """Into rows with a gap, which stays as it was."""
        wide = torch.full((len(x_MI), self.rows + self.gap), 7.0)
        out = wide[:, : self.rows].zero_()
        chosen = pool(self.isa, threads or self.threads)
        matrix.linear(chosen, scratch(self.isa), x_MI, add_to=out)
        assert (wide[:, self.rows :] == 7).all()
        return out

    def _generator(self, role: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed * 8 + role)


@st.composite
def cases(draw: st.DrawFn, quantized: bool = True, bf16: bool = True) -> Case:
    formats = ["int8", "int4"] * quantized + ["bf16"] * bf16
    format = draw(st.sampled_from(formats))
    return Case(
        isa=draw(st.sampled_from(RUNNABLE)),
        format=format,
        group=0 if format == "bf16" else draw(st.sampled_from([32, 64, 128])),
        rows=draw(st.integers(1, 70)),
        cols=draw(st.integers(1, 400)),
        m=draw(st.one_of(st.integers(1, 30), st.integers(1, 300))),
        threads=draw(st.integers(1, 3)),
        gap=draw(st.sampled_from([0, 1, 5])),
        biased=draw(st.booleans()),
        seed=draw(st.integers(0, 1000)),
    )


def test_a_division_is_rounded_once() -> None:
    generator = torch.Generator().manual_seed(98)  # it has a value one last place from a tie
    torch.randn(1, 390, generator=generator)
    x = torch.nn.functional.pad(torch.randn(54, 390, generator=generator), (0, 26))
    x_MGJ = x.unflatten(1, (13, 32))
    by_MG1 = (127.0 / x_MGJ.abs().amax(-1, keepdim=True).double()).float()
    expected = (x_MGJ * by_MG1).round().to(torch.int8).flatten(1)
    assert torch.equal(tiles.quantize_activations(x, 32).q, expected)


@relaxed
@given(cases(bf16=False))
def test_quantized_products_are_the_references(case: Case) -> None:
    q_OI, scale_OG = tiles.quantize(case.weights(), case.format, case.group)
    expected = tiles.linear(case.inputs(), q_OI, scale_OG, case.group)
    bias = case.bias()
    if bias is not None:
        expected += bias
    out = case.product(case.matrix(), case.inputs())
    if case.isa == "portable":  # no fused multiply-add
        torch.testing.assert_close(
            out, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max())
        )
    else:
        torch.testing.assert_close(out, expected, rtol=0, atol=0)


@relaxed
@given(cases(quantized=False))
def test_bf16_products_are_exact_but_for_float32_sums(case: Case) -> None:
    x, w = case.inputs().bfloat16().double(), case.weights().double()
    bias = case.bias()
    expected = x @ w.T + (0 if bias is None else bias.double())
    out = case.product(case.matrix(), case.inputs())
    terms = x.abs() @ w.abs().T + 1
    assert ((out - expected).abs() <= 3e-6 * terms).all()


@relaxed
@given(cases(), st.integers(1, 3))
def test_a_row_is_the_same_bits_in_any_company(case: Case, threads: int) -> None:
    x, matrix = case.inputs(), case.matrix()
    together = case.product(matrix, x)
    for row in {0, case.m // 2, case.m - 1}:
        alone = case.product(matrix, x[row : row + 1], threads=threads)
        assert torch.equal(together[row : row + 1], alone)


@relaxed
@given(cases())
def test_packing_is_the_references_and_its_inverse(case: Case) -> None:
    matrix, w = case.matrix(), case.weights()
    out = torch.empty(case.rows, case.cols)
    assert library(case.isa).hr_unpack(matrix.struct, out.data_ptr()) == 0
    if case.format == "bf16":
        assert torch.equal(matrix.data, tiles.pack_bf16(w))
        assert torch.equal(tiles.unpack_bf16(matrix.data, case.rows, case.cols), w)
        assert torch.equal(out, w.float())
        return
    q_OI, scale_OG = tiles.quantize(w, case.format, case.group)
    assert torch.equal(matrix.data, tiles.pack(q_OI, scale_OG, case.format, case.group))
    back = tiles.unpack(matrix.data, case.format, case.rows, case.cols, case.group)
    assert torch.equal(back.q, q_OI)
    assert torch.equal(back.scale, scale_OG)
    assert torch.equal(out, tiles.dequantize(q_OI, scale_OG, case.group))


@relaxed
@given(cases(), st.data())
def test_gather_is_rows_of_unpack(case: Case, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, case.rows - 1), min_size=1, max_size=5))
    matrix, wanted = case.matrix(), torch.tensor(rows, dtype=torch.int32)
    out = torch.empty(len(rows), case.cols)
    status = library(case.isa).hr_gather(
        matrix.struct, len(rows), wanted.data_ptr(), out.data_ptr()
    )
    assert status == 0
    assert torch.equal(out, matrix.unpack()[rows])


@settings(max_examples=30, deadline=None)
@given(cases(), st.sampled_from([float("nan"), float("inf"), -float("inf")]), st.data())
def test_what_is_not_finite_stays_in_its_row(case: Case, value: float, data: st.DataObject) -> None:
    x, matrix = case.inputs().contiguous(), case.matrix()
    clean = case.product(matrix, x)
    row = data.draw(st.integers(0, case.m - 1))
    x[row, data.draw(st.integers(0, case.cols - 1))] = value
    out = case.product(matrix, x)
    others = [m for m in range(case.m) if m != row]
    assert torch.equal(out[others], clean[others])
    if case.format == "bf16":
        assert not out[row].isfinite().any()
    else:
        assert out[row].isnan().all()
