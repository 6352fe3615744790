"""How much KV cache fits beside a model's weights."""

from functools import partial

from aquasim.hardware.profile import Profile
from aquasim.models import Model

GIB = 2**30

# Fitted to the KV blocks that vLLM (early 2026) reported on H100 80 GB at a utilisation of 0.9 for four
# models, TP 1, 2 and 4, each within 0.2 %: driver, CUDA context, kernels and graphs; with more GPUs also
# buffers of NCCL and of vLLM's all-reduce.
CONTEXT_BYTES = round(0.6 * GIB)
PARALLEL_BYTES = round(0.45 * GIB)
_LOGIT_BYTES = 6  # 16 bits, and 32 bits for sampling


def activation_bytes(model: Model, tp: int, tokens: int, sequences: int) -> int:
    """Peak bytes of activations on one GPU in an iteration of `tokens` tokens that samples `sequences`.

    The feed-forward network's inputs and outputs and three hidden vectors per token; logits of every sampled
    sequence.
    """
    inner = model.intermediate // tp * max(1, model.experts_per_token)
    per_token = inner * (3 if model.gated_mlp else 2) + 3 * model.hidden
    return tokens * per_token * model.dtype_bytes + sequences * model.vocab * _LOGIT_BYTES


def kv_bytes(
    profile: Profile,
    model: Model,
    tp: int = 1,
    *,
    utilization: float = 0.9,
    reserve: int | None = None,
    max_tokens: int = 2048,
    max_sequences: int = 256,
) -> int:
    """Bytes left for KV cache on each of `tp` GPUs: HBM x `utilization` - weights - `reserve`.

    `reserve` (bytes) defaults to what an engine of `max_tokens` tokens per iteration and `max_sequences`
    sequences needs for its context, graphs, communication buffers and activations. May be negative.
    """
    if not 0 < utilization <= 1:
        raise ValueError(f"memory utilization must be above 0 and at most 1, is {utilization}")
    if reserve is None:
        fixed = CONTEXT_BYTES + (PARALLEL_BYTES if tp > 1 else 0)
        reserve = fixed + activation_bytes(model, tp, max_tokens, max_sequences)
    return int(profile.memory_bytes * utilization) - model.weight_bytes(tp) - reserve


def kv_blocks(
    profile: Profile,
    model: Model,
    tp: int = 1,
    block_size: int = 16,
    utilization: float = 0.9,
    *,
    reserve: int | None = None,
    max_tokens: int = 2048,
    max_sequences: int = 256,
) -> int:
    """Number of KV blocks of `block_size` tokens that fit on each of `tp` GPUs.

    Raises ValueError if not one block fits, with needed and available GB and the smallest degree that fits.
    """
    if block_size < 1:
        raise ValueError(f"block size must be at least 1 token, is {block_size}")
    left = partial(
        kv_bytes, profile, model,
        utilization=utilization, reserve=reserve, max_tokens=max_tokens, max_sequences=max_sequences,
    )  # fmt: skip
    block_bytes = {degree: block_size * model.kv_bytes_per_token_gpu(degree) for degree in model.tp_degrees()}
    model.check_tp(tp)
    if left(tp) >= block_bytes[tp]:
        return left(tp) // block_bytes[tp]
    available = profile.memory_bytes * utilization
    needed = available - left(tp) + block_bytes[tp]
    fits = [degree for degree, size in block_bytes.items() if degree > tp and left(degree) >= size]
    hint = f"tp={fits[0]} fits" if fits else "no degree up to 8 fits"
    raise ValueError(
        f"model {model.name} does not fit on {profile.name} with tp={tp}: needs {needed / 1e9:.1f} GB "
        f"per GPU, {available / 1e9:.1f} GB available at utilization {utilization:g}; {hint}"
    )
