# mypy: ignore-errors
# ruff: noqa: N803  (constants of a kernel are parameters in Triton)
"""Triton kernels of paged decode attention. Triton's language is not Python, so this file is not type-checked."""

import triton
import triton.language as tl


@triton.jit
def attend_part(
    queries, keys, values, tables, positions, partial, stats,
    scale, query_row, query_head, table_row, block_stride, token_stride, head_stride,
    GROUP: tl.constexpr, ROWS: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr,
    PAGE: tl.constexpr, STEP: tl.constexpr, SPLITS: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """Attend from one KV head's queries of one sequence to one part of its tokens.

    Leaves sums `[sequence, head, part, DIM]` in `partial`, and in `stats` the largest score and the weights' sum.
    """
    sequence, kv_head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    total = tl.load(positions + sequence).to(tl.int32) + 1
    span = tl.cdiv(tl.cdiv(total, SPLITS), STEP) * STEP
    first = part * span
    last = tl.minimum(first + span, total)
    rows, columns = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    heads = kv_head * GROUP + rows
    in_group, in_dim = rows < GROUP, columns < DIM
    mine = in_group[:, None] & in_dim[None, :]
    place = sequence.to(tl.int64) * query_row + heads[:, None] * query_head + columns[None, :]
    query = tl.load(queries + place, mask=mine, other=0.0)
    best = tl.full([ROWS], float("-inf"), tl.float32)
    weight = tl.zeros([ROWS], tl.float32)
    summed = tl.zeros([ROWS, WIDTH], tl.float32)
    for at in range(first, last, STEP):
        tokens = at + tl.arange(0, STEP)
        seen = tokens < last
        block = tl.load(tables + sequence.to(tl.int64) * table_row + tokens // PAGE, mask=seen, other=0)
        row = block.to(tl.int64) * block_stride + (tokens % PAGE) * token_stride + kv_head * head_stride
        key = tl.load(keys + row[None, :] + columns[:, None], mask=seen[None, :] & in_dim[:, None], other=0.0)
        scores = tl.dot(query, key, input_precision="ieee") * scale
        scores = tl.where(seen[None, :], scores, float("-inf"))
        higher = tl.maximum(best, tl.max(scores, 1))
        shrink = tl.exp(best - higher)
        weights = tl.exp(scores - higher[:, None])
        value = tl.load(
            values + row[:, None] + columns[None, :], mask=seen[:, None] & in_dim[None, :], other=0.0
        )
        added = tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        summed = summed * shrink[:, None] + added
        weight = weight * shrink + tl.sum(weights, 1)
        best = higher
    out = (sequence.to(tl.int64) * HEADS + heads) * SPLITS + part
    tl.store(partial + out[:, None] * DIM + columns[None, :], summed, mask=mine)
    tl.store(stats + out * 2, best, mask=in_group)
    tl.store(stats + out * 2 + 1, weight, mask=in_group)


@triton.jit
def join_parts(
    partial, stats, attended, out_row, out_head,
    DIM: tl.constexpr, WIDTH: tl.constexpr, SPLITS: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """Weigh the parts of one sequence and head against each other; empty ones have no weight."""
    sequence, head = tl.program_id(0), tl.program_id(1)
    parts, columns = tl.arange(0, SPLITS), tl.arange(0, WIDTH)
    in_dim = columns < DIM
    row = (sequence.to(tl.int64) * HEADS + head) * SPLITS + parts
    best = tl.load(stats + row * 2)
    share = tl.exp(best - tl.max(best, 0))
    weight = tl.sum(tl.load(stats + row * 2 + 1) * share, 0)
    sums = tl.load(partial + row[:, None] * DIM + columns[None, :], mask=in_dim[None, :], other=0.0)
    result = tl.sum(sums * share[:, None], 0) / weight
    out = sequence.to(tl.int64) * out_row + head * out_head + columns
    tl.store(attended + out, result.to(attended.dtype.element_ty), mask=in_dim)
