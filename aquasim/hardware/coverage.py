"""Which of a model's kernels lie outside what a profile was measured on."""

from math import log2

from aquasim.hardware.grid import Grid
from aquasim.hardware.profile import Profile
from aquasim.models import Gemm, Model

_SMALL = 256  # outputs


def unmeasured(profile: Profile, model: Model, tp: int = 1) -> list[str]:
    """Return one line for each kind of kernel of `model` on `tp` GPUs that `profile` extrapolates.

    A profile fitted to a few models lists the shapes it was measured at; between and beyond them it takes the
    share of the peak of their neighbours. One fitted to a filled grid covers all that lies inside, and products
    of more outputs, which are more of the same tiles. Products too small to matter (a router) are passed over.
    Empty if nothing is extrapolated. Raises ValueError if the model cannot be split over `tp` GPUs.
    """
    model.check_tp(tp)
    if "rates" in profile.blocks:
        return []
    found = [_products(profile, model, tp), _decode(profile, model, tp), _prefill(profile, model, tp)]
    return [f"{profile.name}: {line}" for line in found if line]


def _products(profile: Profile, model: Model, tp: int) -> str | None:
    products = [*model.gemms(tp), model.lm_head(tp)]
    missed = [product for product in products if not _covered(profile, product)]
    if not missed:
        return None
    shapes = ", ".join(f"{product.name} {product.n} x {product.k}" for product in missed)
    return f"products of {model.name} with tp={tp} were not measured (outputs x inputs): {shapes}"


def _covered(profile: Profile, product: Gemm) -> bool:
    shapes = profile.blocks["gemm"].get("shapes")
    if product.n < _SMALL:
        return True
    return (
        [product.n, product.k] in shapes if shapes is not None else _inside(profile.gemm.axes[2], product.k)
    )


def _decode(profile: Profile, model: Model, tp: int) -> str | None:
    dim = _head_dim(profile.decode_attention, model.head_dim)
    kv_heads, group = model.kv_heads_gpu(tp), model.heads // tp // model.kv_heads_gpu(tp)
    heads = profile.blocks["decode_attention"][str(dim)].get("heads")
    axes = profile.decode_attention[dim].axes
    inside = _inside(axes[0], group) and (len(axes) < 4 or _inside(axes[1], kv_heads))
    if dim == model.head_dim and ([group, kv_heads] in heads if heads is not None else inside):
        return None
    return (
        f"decode attention of {model.name} with tp={tp} was not measured: {kv_heads} KV heads of "
        f"{model.head_dim}, {group} queries each"
    )


def _prefill(profile: Profile, model: Model, tp: int) -> str | None:
    dim = _head_dim(profile.prefill_attention, model.head_dim)
    group = model.heads // tp // model.kv_heads_gpu(tp)
    groups = profile.blocks["prefill_attention"]["by_head_dim"][str(dim)].get("groups")
    inside = group in groups if groups is not None else _inside(profile.prefill_attention[dim].axes[0], group)
    if dim == model.head_dim and inside:
        return None
    return (
        f"prefill attention of {model.name} with tp={tp} was not measured: heads of {model.head_dim}, "
        f"{group} to a KV head"
    )


def _head_dim(dims: dict[int, Grid], head_dim: int) -> int:
    """Return the measured head dimension that stands in for `head_dim`: the next larger one, else the largest."""
    return min((dim for dim in dims if dim >= head_dim), default=max(dims))


def _inside(axis: tuple[float, ...], value: float) -> bool:
    return axis[0] <= log2(value) <= axis[-1]
