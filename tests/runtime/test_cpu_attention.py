"""Decode attention on the CPU: equal to its definition in float64, whatever the machine does."""

import importlib.util
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from runtime import cpu_attention
from runtime.cpu_attention import append, decode_attention
from schedules.errors import BadInput

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


class Case:
    """Random queries, and a cache in which only the sequences' own rows are numbers."""

    def __init__(self, contexts, heads=8, kv_heads=2, d=64, dtype=torch.float32, size=1.0) -> None:
        g = torch.Generator().manual_seed(len(contexts) + heads + d)
        self.contexts = torch.tensor(contexts)
        self.offsets = torch.cumsum(self.contexts + 2, 0) - self.contexts
        rows = int(self.offsets[-1] + self.contexts[-1]) + 1
        self.q = (size * torch.randn(len(contexts), heads, d, generator=g)).to(dtype)
        self.keys, self.values = (
            torch.full((rows, kv_heads, d), torch.nan).to(dtype) for _ in "kv"
        )
        for own in self.own():
            for cache in (self.keys, self.values):
                cache[own] = torch.randn(cache[own].shape, generator=g).to(dtype)

    def own(self) -> list[slice]:
        """The rows of each sequence."""
        spans = zip(self.offsets.tolist(), self.contexts.tolist(), strict=True)
        return [slice(start, start + n) for start, n in spans]

    def attend(self, threads: int = 1, scale: float | None = None) -> Tensor:
        out = torch.full_like(self.q, torch.nan)
        at = (self.offsets, self.contexts)
        decode_attention(self.q, self.keys, self.values, *at, out, threads, scale)
        return out

    def expected(self, scale: float | None = None) -> Tensor:
        """The definition, in float64."""
        n, heads, d = self.q.shape
        out = torch.empty(n, heads, d, dtype=torch.float64)
        for s, own in enumerate(self.own()):
            k, v = (
                x[own].double().repeat_interleave(heads // x.shape[1], dim=1)
                for x in (self.keys, self.values)
            )
            scores = torch.einsum("hd,chd->hc", self.q[s].double(), k)
            weights = torch.softmax(scores * (d**-0.5 if scale is None else scale), dim=1)
            out[s] = torch.einsum("hc,chd->hd", weights, v)
        return out

    def close(self, out: Tensor, tolerance: float = 2e-5) -> bool:
        """Whether it is right but for rounding to its dtype."""
        expected = self.expected()
        rounding = 0 if out.dtype == torch.float32 else torch.finfo(out.dtype).eps
        error = (out.double() - expected).abs()
        return bool((error <= tolerance + rounding * expected.abs()).all())


widths = st.sampled_from([1, 7, 16, 20, 33, 64, 80, 96, 100, 128, 160])
lengths = st.one_of(st.integers(1, 70), st.integers(1, 1100), st.sampled_from([64, 512, 513, 1024]))


@settings(max_examples=60)
@given(
    st.lists(lengths, min_size=1, max_size=4),
    st.integers(1, 13),
    st.integers(1, 3),
    widths,
    st.sampled_from(DTYPES),
    st.integers(1, 4),
)
def test_equals_the_definition(contexts, group, kv_heads, d, dtype, threads):
    case = Case(contexts, group * kv_heads, kv_heads, d, dtype)
    assert case.close(case.attend(threads))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "d"), [(32, 8, 128), (16, 16, 128), (32, 4, 64)])
def test_shapes_of_real_models(heads, kv_heads, d, dtype):
    case = Case([1, 130, 700, 2500], heads, kv_heads, d, dtype)
    assert case.close(case.attend(threads=2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_for_any_threads_and_neighbours(dtype):
    case = Case([3000, 5, 512, 1300], dtype=dtype)
    together = case.attend()
    for threads in (1, 2, 3, 7, 50):
        assert torch.equal(case.attend(threads), together)
    for s in range(4):
        alone = torch.empty_like(case.q[:1])
        at = (case.offsets[s : s + 1], case.contexts[s : s + 1])
        decode_attention(case.q[s : s + 1], case.keys, case.values, *at, alone, 2)
        assert torch.equal(alone[0], together[s])


def test_large_scores_neither_overflow_nor_vanish():
    case = Case([900, 40], size=300.0)  # scores of thousands
    assert case.close(case.attend(threads=2), tolerance=5e-3)


def test_one_row_outweighs_all_others():
    case = Case([700], heads=4, kv_heads=1, d=32)
    winner = case.own()[0].start + 333
    case.keys[winner] = 1000 * case.q[0].sum(0)
    case.q[0] = case.q[0].sum(0)
    assert torch.equal(case.attend(threads=2)[0], case.values[winner].expand(4, 32))


def test_scale():
    case = Case([77, 600])
    assert (case.attend(scale=0.3).double() - case.expected(scale=0.3)).abs().max() < 2e-5


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_context_of_one_token_gives_its_values(dtype):
    case = Case([1, 1], heads=6, kv_heads=2, d=20, dtype=dtype)
    rows = [own.start for own in case.own()]
    assert torch.equal(case.attend(), case.values[rows].repeat_interleave(3, dim=1))


def test_not_a_number_reaches_the_heads_that_see_it():
    case = Case([100, 100], heads=4, kv_heads=2)
    case.keys[case.own()[0].start + 50, 1] = torch.nan
    out = case.attend()
    assert out[0, 2:].isnan().all()
    assert not out[0, :2].isnan().any()
    assert not out[1].isnan().any()


def test_queries_and_outputs_may_be_parts_of_wider_tensors():
    case = Case([30, 600, 3], heads=4, kv_heads=2, d=16)
    packed, wide = torch.zeros(3, 128), torch.zeros(3, 100)
    packed[:, 10:74] = case.q.flatten(1)
    q, out = packed[:, 10:74].view(3, 4, 16), wide[:, 5:69].view(3, 4, 16)
    decode_attention(q, case.keys, case.values, case.offsets, case.contexts, out, 2)
    assert torch.equal(out, case.attend())
    assert not wide[:, :5].any()
    assert not wide[:, 69:].any()


def test_offsets_and_contexts_may_be_lists():
    case = Case([30, 600])
    out = torch.empty_like(case.q)
    at = (case.offsets.tolist(), case.contexts.tolist())
    decode_attention(case.q, case.keys, case.values, *at, out, 1)
    assert torch.equal(out, case.attend())


def test_no_sequences():
    empty, cache = torch.empty(0, 4, 16), torch.empty(5, 2, 16)
    decode_attention(empty, cache, cache, [], [], empty.clone(), 2)


def test_callers_with_different_threads_run_at_the_same_time():
    cases = [Case([1500, 7, 800], dtype=dtype) for dtype in DTYPES[:2]]
    expected = [case.attend() for case in cases]

    def repeat(i: int) -> bool:
        return all(torch.equal(cases[i].attend(1 + 2 * i), expected[i]) for _ in range(30))

    with ThreadPoolExecutor(2) as callers:
        assert all(callers.map(repeat, range(2)))


# -- without numba, and on other processors ---------------------------------------------------


@pytest.fixture
def without_numba(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("runtime.cpu_attention_numba", "numba"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr("runtime.cpu_attention_numba", raising=False)
    for cached in (cpu_attention.compiled_kernel, cpu_attention.warn_slow):
        cached.cache_clear()
    yield
    for cached in (cpu_attention.compiled_kernel, cpu_attention.warn_slow):
        cached.cache_clear()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("without_numba")
def test_without_numba(dtype):
    case = Case([1, 300], heads=6, kv_heads=2, d=20, dtype=dtype)
    with pytest.warns(RuntimeWarning, match=r"several times slower.*numba"):
        first = case.attend(threads=2)
    with warnings.catch_warnings(action="error"):  # it is said once
        assert torch.equal(case.attend(threads=2), first)
    assert case.close(first)
    with pytest.raises(BadInput, match="sequence 1 has 301 rows"):
        decode_attention(case.q, case.keys[:-1], case.values[:-1], case.offsets, [1, 301], first, 1)


def test_without_instructions_for_float16(monkeypatch):
    kernel = cpu_attention.compiled_kernel()
    monkeypatch.setattr(kernel, "HALF", False)
    case = Case([40], dtype=torch.float16)
    cpu_attention.warn_slow.cache_clear()
    with pytest.warns(RuntimeWarning, match="no instructions for float16"):
        assert case.close(case.attend())


OTHER_PROCESSOR = """
import sys
sys.path[:0] = sys.argv[1:]
import runtime.cpu_attention
assert "numba" not in sys.modules, "importing alone loads numba"
import torch
import test_cpu_attention as tests
for shape in ((13, 1, 33), (8, 2, 128), (3, 3, 100)):
    case = tests.Case([1, 700, 64], *shape, torch.bfloat16)
    assert case.close(case.attend(2)), shape
from runtime.cpu_attention_simd import DOT_BFLOAT16, LANES
print(LANES, DOT_BFLOAT16)
"""


def test_processors_with_vectors_of_256_bits(pytestconfig):
    from runtime.cpu_attention_simd import FEATURES

    needed = ["avx", "avx2", "bmi", "bmi2", "f16c", "fma", "sse4.2"]
    if not all(FEATURES.get(each) for each in needed):
        pytest.skip("this processor is another")
    features = ",".join(f"+{each}" for each in needed)
    forced = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": features}
    root = pytestconfig.rootpath
    command = [sys.executable, "-c", OTHER_PROCESSOR, str(root), str(root / "tests" / "runtime")]
    done = subprocess.run(command, env=forced, capture_output=True, text=True)
    assert done.stdout == "8 False\n", done.stderr


# -- parts ------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=12), st.integers(1, 9))
def test_plan_covers_all_chunks_in_even_parts(contexts, threads):
    kernel = cpu_attention.compiled_kernel()
    lengths = np.array(contexts)
    offsets = np.cumsum(lengths) - lengths
    wrong, first, bounds, bases = kernel.plan(offsets, lengths, lengths.sum(), threads)
    chunks = [min(kernel.CHUNK, n - at) for n in contexts for at in range(0, n, kernel.CHUNK)]
    assert wrong == -1
    assert first[-1] == bounds[-1] == len(chunks)
    assert len(bounds) - 1 == len(bases) - 1 == min(threads, len(chunks))
    parts = [sum(chunks[a:b]) for a, b in pairwise(bounds)]
    even = sum(chunks) / len(parts)
    assert all(part < even + kernel.CHUNK for part in parts)
    assert (np.diff(bases) >= 2).all()


def test_elements_are_converted_as_pytorch_does():
    from numba import njit

    from runtime.cpu_attention_simd import get, put

    @njit
    def convert(source, kind_of_source, target, kind, n):
        for i in range(n):
            put(target, kind, i, get(source, kind_of_source, i))

    bits = torch.arange(-(2**31), 2**31, 99_991).int()  # all exponents, infinity and NaN
    singles = torch.cat([bits.view(torch.float32), torch.tensor([torch.inf, 65520.0, 1e-40])])
    for dtype in DTYPES[1:]:
        halves, back = torch.empty(len(singles), dtype=dtype), torch.empty_like(singles)
        kinds = cpu_attention.KINDS[torch.float32], cpu_attention.KINDS[dtype]
        convert(singles.data_ptr(), kinds[0], halves.data_ptr(), kinds[1], len(singles))
        convert(halves.data_ptr(), kinds[1], back.data_ptr(), kinds[0], len(singles))
        torch.testing.assert_close(halves, singles.to(dtype), rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(back, halves.float(), rtol=0, atol=0, equal_nan=True)


def test_a_failure_in_a_helping_thread_is_raised_when_all_have_ended():
    ended = []

    def work(i: int) -> None:
        if i == 1:
            raise ValueError("broken")
        ended.append(i)

    with pytest.raises(ValueError, match="broken"):
        cpu_attention.in_parallel(work, 4)
    assert sorted(ended) == [0, 2, 3]


def test_benchmark(pytestconfig):
    path = pytestconfig.rootpath / "benchmarks" / "cpu_attention.py"
    spec = importlib.util.spec_from_file_location("benchmarks_cpu_attention", path)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    measured = benchmark.measure("bfloat16", (8, 2, 64), 100, threads=1, repeats=1, n_bytes=1e5)
    assert set(measured) == {"reading_gb_per_s", "kernel_gb_per_s", "torch_gb_per_s", "ratio"}
    assert all(value > 0 for value in measured.values())


# -- append -----------------------------------------------------------------------------------


def test_append_writes_the_last_row_of_each_sequence():
    case = Case([3, 1, 8], heads=4, kv_heads=2, d=16)
    newest = [own.stop - 1 for own in case.own()]
    keys, values = case.keys.clone(), case.values.clone()
    packed = torch.randn(3, 100)
    new_k, new_v = (packed[:, at : at + 32].view(3, 2, 16) for at in (4, 50))
    append(keys, values, new_k, new_v, case.offsets, case.contexts)
    assert torch.equal(keys[newest], new_k)
    assert torch.equal(values[newest], new_v)
    others = [row for row in range(len(keys)) if row not in newest]
    torch.testing.assert_close(keys[others], case.keys[others], equal_nan=True)


# -- bad input --------------------------------------------------------------------------------


def tensors(**changed: Tensor) -> dict[str, Tensor]:
    given = {"q": torch.zeros(2, 4, 16), "keys": torch.zeros(9, 2, 16)}
    given |= {"values": torch.zeros(9, 2, 16), "out": torch.zeros(2, 4, 16)}
    given |= {"offsets": torch.tensor([0, 5]), "contexts": torch.tensor([5, 4])}
    return given | changed


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"q": torch.zeros(2, 4, 16, dtype=torch.float64)}, "q must be .* not of torch.float64"),
        ({"keys": torch.zeros(9, 32)}, "keys must be .* 3 dimensions"),
        ({"keys": torch.zeros(9, 2, 16, device="meta")}, "on the CPU.* on meta"),
        ({"out": torch.zeros(2, 4, 8)}, r"out has shape \(2, 4, 8\), but must have \(2, 4, 16\)"),
        ({"out": torch.zeros(2, 4, 16).half()}, r"out \(torch.float16\) must have the dtype of q"),
        ({"values": torch.zeros(8, 2, 16)}, r"values has shape \(8, 2, 16\)"),
        ({"values": torch.zeros(9, 2, 16).half()}, "that of keys"),
        ({"q": torch.zeros(2, 5, 16), "out": torch.zeros(2, 5, 16)}, "5 heads .* 2 KV heads"),
        (
            {"keys": torch.zeros(9, 2, 8), "values": torch.zeros(9, 2, 8)},
            "4 heads of width 16 cannot attend to 2 KV heads of width 8",
        ),
        ({"keys": torch.zeros(9, 4, 16)[:, ::2]}, "keys and values must be contiguous"),
        ({"q": torch.zeros(2, 4, 32)[:, :, ::2]}, "heads of a sequence must be contiguous"),
        ({"out": torch.zeros(1, 4, 16).expand(2, 4, 16)}, "heads of a sequence must be contig"),
        ({"offsets": torch.tensor([0])}, "there are 2 queries, 1 offsets and 2 contexts"),
        ({"offsets": torch.tensor([0.0, 5.0])}, "offsets must be one integer for each sequence"),
        ({"contexts": torch.tensor([5, 5])}, "sequence 1 has 5 rows from row 5 on.* has 9 rows"),
        ({"contexts": torch.tensor([0, 4])}, "sequence 0 has 0 rows"),
        ({"offsets": torch.tensor([-1, 5])}, "sequence 0 has 5 rows from row -1 on"),
    ],
)
def test_bad_input_is_named(changed, message):
    with pytest.raises(BadInput, match=message):
        decode_attention(**tensors(**changed), threads=1)


def test_at_least_one_thread():
    with pytest.raises(BadInput, match="threads must be at least 1, not 0"):
        decode_attention(**tensors(), threads=0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"new_k": torch.zeros(2, 2, 8)}, r"new_k has shape \(2, 2, 8\)"),
        ({"new_v": torch.zeros(3, 2, 16)}, r"new_v has shape \(3, 2, 16\)"),
        ({"new_v": torch.zeros(2, 2, 16).half()}, "new_v is torch.float16, but the cache is"),
        ({"contexts": [5, 9]}, "sequence 1 has 9 rows"),
    ],
)
def test_append_refuses_what_does_not_fit(changed, message):
    given = tensors(new_k=torch.zeros(2, 2, 16), new_v=torch.zeros(2, 2, 16)) | changed
    del given["q"], given["out"]
    with pytest.raises(BadInput, match=message):
        append(**given)
