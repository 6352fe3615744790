"""Models known by name, with the shapes their authors published (config.json on the Hugging Face hub), and ours."""

from aquasim.models.shape import Model

MODELS = {
    model.name.lower(): model
    for model in (
        Model("Llama-2-7B", 32, 4096, 32, 32, 128, 11008, 32000),
        Model("Llama-2-13B", 40, 5120, 40, 40, 128, 13824, 32000),
        Model("Llama-2-70B", 80, 8192, 64, 8, 128, 28672, 32000),
        Model("Llama-3.1-8B", 32, 4096, 32, 8, 128, 14336, 128256, max_position=131072),
        Model("Llama-3.1-70B", 80, 8192, 64, 8, 128, 28672, 128256, max_position=131072),
        Model("CodeLlama-34B", 48, 8192, 64, 8, 128, 22016, 32000, max_position=16384),
        Model("Mistral-7B", 32, 4096, 32, 8, 128, 14336, 32000, max_position=32768, sliding_window=4096),
        Model("Mistral-7B-v0.3", 32, 4096, 32, 8, 128, 14336, 32768, max_position=32768),
        Model(
            "Mixtral-8x7B", 32, 4096, 32, 8, 128, 14336, 32000, experts=8, experts_per_token=2,
            max_position=32768,
        ),
        Model("Mistral-Nemo-12B", 40, 5120, 32, 8, 128, 14336, 131072, max_position=131072),
        Model("Yi-34B", 60, 7168, 56, 8, 128, 20480, 64000),
        Model("Qwen2-7B", 28, 3584, 28, 4, 128, 18944, 152064, max_position=32768, qkv_bias=True),
        Model("Qwen2-72B", 80, 8192, 64, 8, 128, 29568, 152064, max_position=32768, qkv_bias=True),
        Model("Qwen2.5-7B", 28, 3584, 28, 4, 128, 18944, 152064, max_position=32768, qkv_bias=True),
        Model("Qwen3-14B", 40, 5120, 40, 8, 128, 17408, 151936, max_position=40960, qk_norm=True),
        Model("Qwen3-32B", 64, 5120, 64, 8, 128, 25600, 151936, max_position=40960, qk_norm=True),
        # ALiBi, no table of positions: 2 stands for the norm of the embedding, as many parameters as 2 of them.
        Model(
            "BLOOM-176B", 70, 14336, 112, 112, 128, 57344, 250880, gated_mlp=False, tied_embeddings=True,
            max_position=2048, positions=2, biases=True,
        ),
        Model(
            "OPT-30B", 48, 7168, 56, 56, 128, 28672, 50272, gated_mlp=False, tied_embeddings=True,
            max_position=2048, positions=2050, biases=True,
        ),
        # Ours, for runs on any machine: nobody trained it. Llama's build and proportions, 13 million parameters.
        Model("Llama-mini", 6, 384, 6, 2, 64, 1024, 8192, tied_embeddings=True, max_position=2048),
    )
}  # fmt: skip

ALIASES = {
    "meta-llama/llama-2-7b-hf": "llama-2-7b",
    "meta-llama/llama-2-7b-chat-hf": "llama-2-7b",
    "meta-llama/llama-2-13b-hf": "llama-2-13b",
    "meta-llama/llama-2-13b-chat-hf": "llama-2-13b",
    "meta-llama/llama-2-70b-hf": "llama-2-70b",
    "meta-llama/llama-2-70b-chat-hf": "llama-2-70b",
    "meta-llama/llama-3.1-8b": "llama-3.1-8b",
    "meta-llama/llama-3.1-8b-instruct": "llama-3.1-8b",
    "meta-llama/meta-llama-3.1-8b": "llama-3.1-8b",
    "meta-llama/meta-llama-3.1-8b-instruct": "llama-3.1-8b",
    "meta-llama/llama-3.1-70b": "llama-3.1-70b",
    "meta-llama/llama-3.1-70b-instruct": "llama-3.1-70b",
    "meta-llama/meta-llama-3.1-70b": "llama-3.1-70b",
    "meta-llama/meta-llama-3.1-70b-instruct": "llama-3.1-70b",
    "codellama/codellama-34b-hf": "codellama-34b",
    "codellama/codellama-34b-instruct-hf": "codellama-34b",
    "mistralai/mistral-7b-v0.1": "mistral-7b",
    "mistralai/mistral-7b-instruct-v0.1": "mistral-7b",
    "mistralai/mistral-7b-v0.3": "mistral-7b-v0.3",
    "mistralai/mistral-7b-instruct-v0.3": "mistral-7b-v0.3",
    "mistralai/mixtral-8x7b-v0.1": "mixtral-8x7b",
    "mistralai/mixtral-8x7b-instruct-v0.1": "mixtral-8x7b",
    "mistralai/mistral-nemo-base-2407": "mistral-nemo-12b",
    "mistralai/mistral-nemo-instruct-2407": "mistral-nemo-12b",
    "01-ai/yi-34b": "yi-34b",
    "qwen/qwen2-7b": "qwen2-7b",
    "qwen/qwen2-72b": "qwen2-72b",
    "qwen/qwen2.5-7b": "qwen2.5-7b",
    "qwen/qwen2.5-7b-instruct": "qwen2.5-7b",
    "qwen/qwen3-14b": "qwen3-14b",
    "qwen/qwen3-32b": "qwen3-32b",
    "facebook/opt-30b": "opt-30b",
}
