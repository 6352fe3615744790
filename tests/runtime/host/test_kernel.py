"""NEO's requirements N17 and N18 (its kernel): exact for any shape, length, split and number of threads."""

import math
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aquasim.runtime.engine import KvPool, LlamaConfig
from aquasim.runtime.host import HostAttention, native
from aquasim.runtime.host.attention import Kernel

EXACT = 1e-5
"""Of float32 sums against float64 ones, values being about 1; storage is the same in both."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def native_or_skip(*flags: str) -> Any:
    """Return the compiled kernel."""
    try:
        return native.library(*flags)
    except native.NativeError as error:
        pytest.skip(str(error))


class Case:
    """A pool of random pages, NaN where nobody has a token, and a query for each request."""

    def __init__(
        self,
        seed: int,
        lengths: list[int],
        heads: int,
        kv_heads: int,
        dim: int,
        size: int,
        dtype: torch.dtype,
    ) -> None:
        rng = random.Random(seed)
        made = torch.Generator().manual_seed(seed)
        counts = [-(-n // size) for n in lengths]
        order = rng.sample(range(sum(counts) + 3), sum(counts) + 3)
        self.lengths, self.heads = lengths, heads
        self.blocks = [[order.pop() for _ in range(count)] for count in counts]
        self.pool = KvPool(sum(counts) + 3, 2, size, kv_heads, dim, dtype=dtype, fill=math.nan)
        for row, n in zip(self.blocks, lengths, strict=True):
            positions = torch.arange(n)
            slots = self.pool.slots(torch.tensor(row)[positions // size], positions)
            keys, values = (torch.randn(n, kv_heads, dim, generator=made).to(dtype) for _ in range(2))
            self.pool.write(1, slots, keys, values)
        self.queries = 2 * torch.randn(len(lengths), heads, dim, generator=made)

    def run(self, threads: int = 1, kernel: Kernel = "native", segment: int = 256) -> torch.Tensor:
        """Return what a kernel gives."""
        made = HostAttention(self.pool, self.heads, threads=threads, kernel=kernel, segment=segment)
        out = torch.full_like(self.queries, math.nan)
        made.attend(made.plan(self.blocks, self.lengths), 1, self.queries, out)
        made.close()
        return out

    def expected(self) -> torch.Tensor:
        """Return the same in float64, request by request, from the definition."""
        found = []
        for row, n, query in zip(self.blocks, self.lengths, self.queries.double(), strict=True):
            keys, values = (
                part[row].flatten(0, 1)[:n].double() for part in (self.pool.keys(1), self.pool.values(1))
            )
            split = query.view(keys.shape[1], -1, keys.shape[2])
            scores = torch.einsum("hgd,nhd->hgn", split, keys) * keys.shape[2] ** -0.5
            found.append(torch.einsum("hgn,nhd->hgd", scores.softmax(-1), values).flatten(0, 1))
        return torch.stack(found)


@pytest.mark.parametrize("kernel", ["native", "torch"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=5),
    shape=st.sampled_from(
        [(32, 8, 128), (4, 4, 64), (9, 3, 64), (6, 2, 80), (4, 2, 8), (2, 1, 20), (16, 1, 128)]
    ),
    size=st.sampled_from([1, 4, 16, 24]),
    dtype=st.sampled_from(DTYPES),
    threads=st.integers(1, 4),
    segment=st.sampled_from([1, 32, 1000]),
)
def test_n18_any_shape_is_the_definition_in_float64(
    kernel: Kernel, seed: int, lengths: list[int], shape: tuple[int, int, int], size: int, dtype: torch.dtype,
    threads: int, segment: int,
) -> None:  # fmt: skip
    """Random shapes, lengths that end within a block, any split: only written tokens are read, sums are float32's."""
    if kernel == "native":
        native_or_skip()
    case = Case(seed, lengths, *shape, size, dtype)
    assert (case.run(threads, kernel, segment).double() - case.expected()).abs().max() < EXACT


@pytest.mark.parametrize("dtype", DTYPES)
def test_n17_results_do_not_depend_on_threads_or_company_to_the_bit(dtype: torch.dtype) -> None:
    """How a request is cut depends on its length alone: threads and other requests change no bit."""
    native_or_skip()
    case = Case(1, [700, 33, 1, 260], 8, 2, 64, 16, dtype)
    whole = case.run(1)
    assert all(torch.equal(case.run(threads), whole) for threads in (2, 3, 8))
    for row in range(4):
        alone = Case(1, [700, 33, 1, 260], 8, 2, 64, 16, dtype)
        alone.blocks, alone.lengths = [case.blocks[row]], [case.lengths[row]]
        alone.queries = case.queries[row : row + 1]
        alone.pool = case.pool
        assert torch.equal(alone.run(2)[0], whole[row])


@pytest.mark.parametrize("dtype", DTYPES)
def test_n17_results_hardly_depend_on_where_requests_are_cut(dtype: torch.dtype) -> None:
    """Every position of the cuts gives the same within float32's rounding."""
    native_or_skip()
    case = Case(2, [700, 33], 8, 2, 64, 16, dtype)
    results = [case.run(2, segment=segment) for segment in (16, 48, 112, 352, 4096)]
    assert max((result - results[-1]).abs().max().item() for result in results) < EXACT


def test_scores_that_grow_and_grow_stay_finite() -> None:
    """A softmax over scores from -400 to 400, the greatest last: sums are scaled down as it goes, none overflows."""
    native_or_skip()
    case = Case(3, [200], 2, 1, 16, 16, torch.float32)
    place = case.pool.keys(1)[case.blocks[0]].flatten(0, 1)
    for n in range(200):
        place[n] = (n - 100) * 4.0 * case.queries[0, 0] / case.queries[0, 0].square().sum() * 16**0.5
    case.pool.keys(1)[case.blocks[0]] = place.view(len(case.blocks[0]), 16, 1, 16)
    found = case.run(1, segment=64)
    assert torch.isfinite(found).all()
    assert (found[0, 0].double() - case.expected()[0, 0]).abs().max() < 1e-4


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_a_number_shows(dtype: torch.dtype) -> None:
    """A page of NaN among a request's makes its result NaN: nothing that should be read is left out."""
    native_or_skip()
    for where in ("keys", "values"):
        case = Case(4, [300, 40], 4, 2, 64, 16, dtype)
        getattr(case.pool, where)(1)[case.blocks[0][7]] = math.nan
        found = case.run(2)
        assert torch.isnan(found[0]).all()
        assert torch.isfinite(found[1]).all()


def test_halves_need_no_instructions_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversions by bits give what the processor's own give: every float16 there is, subnormal ones included."""
    library = native_or_skip("-DPORTABLE")
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)]
    case = Case(5, [16], 1, 1, 64, 16, torch.float16)
    monkeypatch.setattr(native, "library", lambda: library)
    case.queries[:] = 0.0  # all tokens weigh the same
    for at in range(0, len(every) - 64, 64 * 97):
        part = torch.from_numpy(every[at : at + 64].copy())
        case.pool.keys(1)[case.blocks[0][0]] = 0.0
        case.pool.values(1)[case.blocks[0][0]] = part
        assert torch.equal(case.run()[0, 0].half(), part)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [2, 4, 6, 8, 14, 16, 30])
def test_registers_of_half_the_size_give_the_same(
    heads: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a processor's own instructions, groups of 1 to 15 queries and odd sizes: the definition in float64."""
    library = native_or_skip("-DPORTABLE")
    monkeypatch.setattr(native, "library", lambda: library)
    for dim in (20, 64, 128):
        case = Case(8, [33, 300, 1], heads, 2, dim, 16, dtype)
        assert (case.run(2).double() - case.expected()).abs().max() < EXACT


@pytest.mark.parametrize("compiler", ["/nowhere/cc", "/bin/false"])
def test_without_a_compiler_torch_computes_and_says_so(
    compiler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning that names the compiler; the results are the same."""
    case = Case(6, [50], 4, 2, 8, 4, torch.float32)
    expected = case.expected()
    monkeypatch.setenv("CC", compiler)
    native.library.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match=compiler):
            found = case.run(kernel="auto")
        with pytest.raises(native.NativeError, match=compiler):
            case.run(kernel="native")
    finally:
        native.library.cache_clear()
    assert (found.double() - expected).abs().max() < EXACT


@pytest.fixture
def cache(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty cache folder of the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    yield tmp_path
    native.library.cache_clear()


def test_the_kernel_is_compiled_once(cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second process finds the first one's library; a folder that cannot be written is an error of one line."""
    native_or_skip()
    (built,) = (cache / "aquasim" / "kernels").iterdir()
    before = built.stat().st_mtime_ns
    native.library.cache_clear()
    monkeypatch.setattr(native, "_compile", lambda *args: pytest.fail("compiled again"))
    native.library()
    assert built.stat().st_mtime_ns == before
    if os.geteuid():
        monkeypatch.undo()
        native.library.cache_clear()
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
        with pytest.raises(native.NativeError, match="cannot be written"):
            native.library()


def test_n19_ranks_attend_to_their_own_kv_heads() -> None:
    """Two ranks with half of the KV heads each, on threads of their own: side by side what one rank gives."""
    native_or_skip()
    config = LlamaConfig(vocab=8, hidden=64, layers=2, heads=8, kv_heads=4, head_dim=8, intermediate=8)
    case = Case(7, [90, 17, 300], 8, 4, 8, 16, torch.float32)
    whole, parts = case.run(), []
    for rank in range(2):
        shard = config.shard(rank, 2)
        part = Case(7, [90, 17, 300], 8, 4, 8, 16, torch.float32)
        mine = slice(shard.first_kv_head, shard.first_kv_head + shard.kv_heads)
        part.pool = KvPool.of(config, case.pool.blocks, 16, world=2)
        part.pool.data.copy_(case.pool.data[..., mine, :])
        part.blocks, part.heads = case.blocks, shard.heads
        part.queries = case.queries[:, rank * shard.heads : (rank + 1) * shard.heads].contiguous()
        assert part.pool.block_bytes == case.pool.block_bytes // 2
        parts.append(part.run(threads=1 + rank))
    assert (torch.cat(parts, dim=1) - whole).abs().max() < EXACT


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"heads": 3}, "3 heads over 2 KV heads"),
        ({"threads": 0}, "threads is 0"),
        ({"segment": 0}, "segment is 0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(change: dict[str, Any], part: str) -> None:
    """One line with the value."""
    pool = KvPool(4, 1, 4, 2, 8)
    with pytest.raises(ValueError, match=part):
        HostAttention(pool, **{"heads": 4, **change})


def test_a_length_beyond_its_blocks_is_refused() -> None:
    """Before anything is read."""
    made = HostAttention(KvPool(4, 1, 4, 2, 8), 4, kernel="torch")
    for tokens in (0, 9):
        with pytest.raises(ValueError, match=f"row 1 has {tokens} tokens, its 2 blocks hold 8"):
            made.plan([[0], [1, 2]], [3, tokens])
