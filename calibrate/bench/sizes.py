"""Which sizes are measured: of the models' products and heads and of a grid, quick or in full, GPU or CPU."""

from dataclasses import dataclass

from aquasim.models import Model, load_model

Heads = tuple[int, int, int]

TINY = Model("tiny", 2, 512, 8, 2, 64, 1536, 8192)
SMALL = Model("small", 16, 2048, 32, 8, 64, 8192, 32000)
MODELS = {model.name: model for model in (TINY, SMALL)}
"""Models for measuring on a CPU, beside those known by name."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Tokens, shapes and bytes to measure. Heads are (query heads, KV heads, head dimension) on one GPU."""

    models: tuple[tuple[Model, int], ...]
    tokens: tuple[int, ...]
    grid: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    heads: tuple[Heads, ...]
    batches: tuple[int, ...]
    lengths: tuple[int, ...]
    new: tuple[int, ...]
    cached: tuple[int, ...]
    sequences: tuple[int, ...]
    memory: tuple[int, ...]
    copy_bytes: tuple[int, ...]
    copy_counts: tuple[int, ...]
    copy_most: int
    all_reduce: tuple[int, ...]

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(outputs, inputs) of the models' products, output heads included."""
        found = [
            (gemm.n, gemm.k) for model, tp in self.models for gemm in (*model.gemms(tp), model.lm_head(tp))
        ]
        return sorted(set(found))


def sizes_for(kind: str, *, quick: bool) -> Sizes:
    """Return the sizes for "cuda" or "cpu"."""
    return {
        ("cuda", False): _cuda,
        ("cuda", True): _cuda_quick,
        ("cpu", False): _cpu,
        ("cpu", True): _cpu_quick,
    }[kind, quick]()


def _cuda() -> Sizes:
    named = (
        ("llama-3.1-8b", 1),
        ("qwen3-14b", 1),
        ("qwen3-32b", 1),
        ("llama-3.1-70b", 2),
        ("llama-3.1-70b", 4),
    )
    return Sizes(
        models=tuple((load_model(name), tp) for name, tp in named),
        tokens=(
            1, 2, 4, 8, 16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024, 1280, 1536,
            2048, 3072, 4096, 8192,
        ),
        grid=((1, 16, 64, 256, 1024, 4096), (1024, 4096, 16384, 65536), (1024, 4096, 16384)),
        heads=((32, 8, 128), (64, 8, 128), (40, 8, 128), (16, 4, 128), (8, 1, 128), (32, 32, 128), (32, 8, 64)),
        batches=(1, 2, 4, 8, 16, 32, 64, 128, 256),
        lengths=(16, 64, 256, 1024, 4096, 16384, 65536),
        new=(16, 64, 128, 256, 512, 1024, 2048, 8192),
        cached=(0, 256, 1024, 4096, 16384, 65536),
        sequences=(1, 8, 32, 64, 128, 256),
        memory=(1 << 28, 1 << 30, 1 << 31),
        copy_bytes=(4096, 16384, 65536, 1 << 18, 1 << 20, 1 << 21, 1 << 23, 1 << 26),
        copy_counts=(1, 16, 64, 256),
        copy_most=1 << 29,
        all_reduce=tuple(4**i for i in range(5, 15)),
    )  # fmt: skip


def _cuda_quick() -> Sizes:
    return Sizes(
        models=((load_model("llama-3.1-8b"), 1),),
        tokens=(1, 8, 32, 64, 128, 256, 512, 1024, 2048, 4096),
        grid=((1, 64, 1024), (1024, 8192), (1024, 8192)),
        heads=((32, 8, 128), (8, 1, 128)),
        batches=(1, 8, 64, 256),
        lengths=(64, 1024, 8192, 32768),
        new=(16, 128, 512, 2048),
        cached=(0, 1024, 16384),
        sequences=(1, 32, 256),
        memory=(1 << 30,),
        copy_bytes=(4096, 65536, 1 << 20, 1 << 23),
        copy_counts=(1, 64),
        copy_most=1 << 27,
        all_reduce=tuple(16**i for i in range(2, 7)),
    )


def _cpu() -> Sizes:
    return Sizes(
        models=((TINY, 1), (SMALL, 1), (SMALL, 2)),
        tokens=(1, 4, 16, 32, 64, 128, 256, 512, 1024),
        grid=((1, 16, 256), (512, 2048, 8192), (512, 2048)),
        heads=((8, 2, 64), (32, 8, 64), (16, 4, 64), (32, 8, 128)),
        batches=(1, 2, 4, 8, 16, 32, 64),
        lengths=(16, 64, 256, 1024, 4096),
        new=(16, 64, 256, 512, 1024),
        cached=(0, 256, 1024, 4096),
        sequences=(1, 8, 32, 64),
        memory=(1 << 26, 1 << 28, 1 << 30),
        copy_bytes=(4096, 16384, 65536, 1 << 18, 1 << 20, 1 << 22, 1 << 24),
        copy_counts=(1, 16, 64, 256),
        copy_most=1 << 27,
        all_reduce=tuple(4**i for i in range(4, 12)),
    )


def _cpu_quick() -> Sizes:
    return Sizes(
        models=((TINY, 1),),
        tokens=(1, 8, 32, 128, 512),
        grid=((1, 64), (256, 1024), (256, 1024)),
        heads=((8, 2, 64),),
        batches=(1, 4, 16),
        lengths=(16, 128, 512, 2048),
        new=(16, 64, 256),
        cached=(0, 128, 512),
        sequences=(1, 8, 32),
        memory=(1 << 24, 1 << 26),
        copy_bytes=(4096, 65536, 1 << 20, 1 << 22),
        copy_counts=(1, 16),
        copy_most=1 << 24,
        all_reduce=(),
    )
