"""Attention kernels by name: what torch has, and those of engines where they are installed.

Each takes queries [sequences, new, heads, dim] and a cache of keys and values [sequences, tokens, KV heads, dim],
causal with the last query at the last key, and returns a call that computes attention once.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from aquasim.calibrate.bench.bench import Bench
from aquasim.calibrate.bench.timing import Call

Kernel = Callable[[Bench, Any, Any, Any], Call]
PAGE = 16
TOLERANCE = 1e-3


def sdpa(bench: Bench, queries: Any, keys: Any, values: Any) -> Call:
    """Attention of torch: flash attention on GPUs."""
    attend = bench.torch.nn.functional.scaled_dot_product_attention
    q, k, v = (x.transpose(1, 2) for x in (queries, keys, values))
    new, tokens = q.shape[2], k.shape[2]
    options: dict[str, Any] = {"enable_gqa": q.shape[1] != k.shape[1]}
    if new == tokens:
        options["is_causal"] = True
    elif new > 1:
        bias = import_module("torch.nn.attention.bias")
        options["attn_mask"] = bias.causal_lower_right(new, tokens)
    return partial(attend, q, k, v, **options)


def flash_attn(bench: Bench, queries: Any, keys: Any, values: Any) -> Call:
    """FlashAttention 2's own package."""
    package = import_module("flash_attn")
    if queries.shape[1] > 1:
        return partial(package.flash_attn_func, queries, keys, values, causal=True)
    lengths = _filled(bench, keys.shape[0], keys.shape[1])
    return partial(package.flash_attn_with_kvcache, queries, keys, values, cache_seqlens=lengths, causal=True)


def vllm(bench: Bench, queries: Any, keys: Any, values: Any) -> Call:
    """vLLM's flash attention over pages of 16 tokens."""
    package = import_module("vllm.vllm_flash_attn")
    torch = bench.torch
    sequences, new, heads, dim = queries.shape
    tokens = keys.shape[1]
    pages = -(-tokens // PAGE)
    pool = [_paged(bench, cache, pages) for cache in (keys, values)]
    table = torch.arange(sequences * pages, dtype=torch.int32, device=bench.device).view(sequences, pages)
    starts = torch.arange(sequences + 1, dtype=torch.int32, device=bench.device) * new
    run = partial(
        package.flash_attn_varlen_func,
        queries.reshape(sequences * new, heads, dim),
        *pool,
        cu_seqlens_q=starts,
        max_seqlen_q=new,
        seqused_k=_filled(bench, sequences, tokens),
        max_seqlen_k=tokens,
        causal=True,
        block_table=table,
        fa_version=flash_attention_version(bench),
    )
    return lambda: run().view(sequences, new, heads, dim)


def flash_attention_version(bench: Bench) -> int:
    """Return which FlashAttention vLLM takes on this GPU: 3 on Hopper, 2 elsewhere."""
    return 3 if bench.torch.cuda.get_device_capability()[0] == 9 else 2


def flashinfer(bench: Bench, queries: Any, keys: Any, values: Any) -> Call:
    """FlashInfer over pages of 16 tokens."""
    package = import_module("flashinfer")
    torch = bench.torch
    sequences, new, heads, dim = queries.shape
    tokens, kv_heads = keys.shape[1], keys.shape[2]
    pages = -(-tokens // PAGE)
    pool = tuple(_paged(bench, cache, pages) for cache in (keys, values))
    starts = torch.arange(sequences + 1, dtype=torch.int32, device=bench.device)
    table = torch.arange(sequences * pages, dtype=torch.int32, device=bench.device)
    last = _filled(bench, sequences, tokens - (pages - 1) * PAGE)
    space = torch.empty(128 << 20, dtype=torch.uint8, device=bench.device)
    common = {"q_data_type": bench.dtype, "kv_data_type": bench.dtype}
    if new == 1:
        decode = package.BatchDecodeWithPagedKVCacheWrapper(space, "NHD")
        decode.plan(starts * pages, table, last, heads, kv_heads, dim, PAGE, **common)
        return lambda: decode.run(queries[:, 0], pool).unsqueeze(1)
    prefill = package.BatchPrefillWithPagedKVCacheWrapper(space, "NHD")
    prefill.plan(starts * new, starts * pages, table, last, heads, kv_heads, dim, PAGE, causal=True, **common)
    flat = queries.reshape(sequences * new, heads, dim)
    return lambda: prefill.run(flat, pool).view(sequences, new, heads, dim)


def _filled(bench: Bench, rows: int, value: int) -> Any:
    return bench.torch.full((rows,), value, dtype=bench.torch.int32, device=bench.device)


def _paged(bench: Bench, cache: Any, pages: int) -> Any:
    """Return a cache in pages, with room up to a whole number of them."""
    sequences, tokens, kv_heads, dim = cache.shape
    padded = bench.torch.nn.functional.pad(cache, (0, 0, 0, 0, 0, pages * PAGE - tokens))
    return padded.reshape(sequences * pages, PAGE, kv_heads, dim)


KERNELS: dict[str, Kernel] = {"vllm": vllm, "flash_attn": flash_attn, "flashinfer": flashinfer, "sdpa": sdpa}
"""In the order in which they are preferred."""


def pick_kernel(bench: Bench) -> tuple[str, Kernel]:
    """Return the first kernel that is installed and agrees with torch's on a small case."""
    if bench.cuda:
        for name, kernel in KERNELS.items():
            if name != "sdpa" and _agrees(bench, kernel):
                return name, kernel
    return "sdpa", sdpa


def _agrees(bench: Bench, kernel: Kernel) -> bool:
    """Compare decoding and prefill behind cached tokens with torch's results, which are about 0.01."""
    try:
        for new in (1, 48):
            queries, keys, values = (bench.tensor(2, n, h, 128) for n, h in ((new, 8), (80, 2), (80, 2)))
            found = kernel(bench, queries, keys, values)()
            wanted: Any = sdpa(bench, queries, keys, values)()
            if not bench.torch.allclose(found, wanted.transpose(1, 2), atol=TOLERANCE, rtol=0.0):
                return False
            bench.synchronize()
    except Exception:  # not installed, another version's arguments, or not for this GPU
        return False
    return True
