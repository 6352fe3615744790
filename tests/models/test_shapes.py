"""Published shapes and what follows from them."""

import pytest

from aquasim.models import Gemm, Model, load_model, model_names

PARAMETERS = {
    "Llama-2-7B": 6_738_415_616,
    "Llama-2-13B": 13_015_864_320,
    "Llama-2-70B": 68_976_648_192,
    "Llama-3.1-8B": 8_030_261_248,
    "Llama-3.1-70B": 70_553_706_496,
    "CodeLlama-34B": 33_743_970_304,
    "Mistral-7B": 7_241_732_096,
    "Mistral-7B-v0.3": 7_248_023_552,
    "Mixtral-8x7B": 46_702_792_704,
    "Qwen3-14B": 14_768_307_200,
    "Qwen3-32B": 32_762_123_264,
    "Mistral-Nemo-12B": 12_247_782_400,
    "Yi-34B": 34_388_917_248,
    "Qwen2-7B": 7_615_616_512,
    "Qwen2-72B": 72_706_203_648,
    "Qwen2.5-7B": 7_615_616_512,
    "BLOOM-176B": 176_247_271_424,
    "OPT-30B": 29_974_540_288,
    "Llama-mini": 12_587_904,  # ours: nothing is published
}

KV_KIB = {
    "CodeLlama-34B": 192,
    "Llama-3.1-70B": 320,
    "Llama-3.1-8B": 128,
    "Mistral-7B": 128,
    "Mixtral-8x7B": 128,
    "Llama-2-7B": 512,
    "Llama-2-13B": 800,
    "OPT-30B": 1344,
    "Qwen3-14B": 160,
}


def test_every_known_model_has_its_published_parameter_count() -> None:
    """The exact number of parameters follows from the shape."""
    assert {name: load_model(name).parameters for name in model_names()} == PARAMETERS


@pytest.mark.parametrize(("name", "kib"), KV_KIB.items())
def test_kv_bytes_per_token(name: str, kib: int) -> None:
    """One token's keys and values take the published KiB over all layers."""
    assert load_model(name).kv_bytes_per_token == kib * 1024


@pytest.mark.parametrize("name", model_names())
def test_weights_on_one_gpu_are_all_parameters(name: str) -> None:
    """Without tensor parallelism a GPU holds every parameter once."""
    model = load_model(name)
    assert model.weight_bytes(1) == model.parameters * model.dtype_bytes


@pytest.mark.parametrize("name", model_names())
def test_shards_hold_the_model_and_little_more(name: str) -> None:
    """Shards sum to at least the model; only norms, routers and positions are there more than once."""
    model = load_model(name)
    for tp in model.tp_degrees():
        total = tp * model.weight_bytes(tp)
        assert model.weight_bytes(1) <= total <= model.weight_bytes(1) * 1.01


@pytest.mark.parametrize("name", model_names())
def test_products_hold_all_weights_of_a_layer(name: str) -> None:
    """The linear layers of all GPUs, the embedding and the head are within 1 % of the parameters."""
    model = load_model(name)
    for tp in model.tp_degrees():
        layer = sum(
            gemm.n * gemm.k * gemm.per_layer * (model.experts if gemm.name.startswith("expert") else 1)
            for gemm in model.gemms(tp)
        )
        head = model.lm_head(tp)
        total = tp * (model.layers * layer + head.n * head.k)
        total += 0 if model.tied_embeddings else model.vocab * model.hidden
        assert total == pytest.approx(model.parameters, rel=0.01)


def test_products_of_a_grouped_query_model() -> None:
    """Query, key and value projections are one product, gate and up another, each split over the GPUs."""
    assert load_model("llama-3.1-70b").gemms(2) == [
        Gemm("qkv", 5120, 8192, 1),
        Gemm("output", 8192, 4096, 1),
        Gemm("gate_up", 28672, 8192, 1),
        Gemm("down", 8192, 14336, 1),
    ]


def test_products_of_a_mixture_of_experts() -> None:
    """The router is whole on each GPU, every expert is split."""
    names = {gemm.name: (gemm.n, gemm.k) for gemm in load_model("mixtral-8x7b").gemms(2)}
    assert names["router"] == (8, 4096)
    assert names["expert_gate_up"] == (14336, 4096)
    assert names["expert_down"] == (4096, 7168)


def test_kv_heads_are_replicated_beyond_their_number() -> None:
    """With more GPUs than KV heads each GPU holds one, so the cache does not shrink further."""
    model = Model("small", 2, 1024, 16, 2, 64, 4096, 32000)
    assert [model.kv_bytes_per_token_gpu(tp) for tp in (1, 2, 4, 8)] == [1024, 512, 512, 512]


@pytest.mark.parametrize(
    ("name", "tp", "text"),
    [
        ("llama-3.1-8b", 3, "model Llama-3.1-8B: tensor parallel degree 3 is not one of 1, 2, 4, 8"),
        ("llama-2-13b", 16, "model Llama-2-13B: tensor parallel degree 16 is not one of 1, 2, 4, 8"),
    ],
)
def test_impossible_split(name: str, tp: int, text: str) -> None:
    """A degree that is not supported is refused by name."""
    with pytest.raises(ValueError, match="tensor parallel") as caught:
        load_model(name).weight_bytes(tp)
    assert str(caught.value) == text


def test_heads_that_do_not_divide() -> None:
    """A split that would cut a head in two is refused."""
    model = Model("odd", 2, 1024, 12, 12, 64, 4096, 32000)
    with pytest.raises(ValueError, match=r"^model odd: heads 12 does not divide by tp=8$"):
        model.check_tp(8)
    assert model.tp_degrees() == [1, 2, 4]


def test_impossible_shapes() -> None:
    """A shape that cannot be is refused, with the value in the text."""
    with pytest.raises(ValueError, match="layers must be at least 1, is 0"):
        Model("none", 0, 1024, 16, 16, 64, 4096, 32000)
    with pytest.raises(ValueError, match="heads 16 is no multiple of kv_heads 3"):
        Model("none", 2, 1024, 16, 3, 64, 4096, 32000)
    with pytest.raises(ValueError, match="3 experts per token of 2 experts"):
        Model("none", 2, 1024, 16, 16, 64, 4096, 32000, experts=2, experts_per_token=3)
