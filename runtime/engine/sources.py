"""Where tensors come from, by their Hugging Face names: random numbers, safetensors files, a GGUF file."""

import json
import zlib
from pathlib import Path
from typing import Any, Protocol

import torch

from aquasim.runtime.engine.config import LlamaConfig
from aquasim.runtime.engine.gguf import GgufFile, gguf_name, unpermute

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


class Source(Protocol):
    """Gives whole tensors one by one; ranks cut out what they hold."""

    def get(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Return the tensor called `name`, of exactly this shape; ValueError in one line otherwise."""
        ...

    def rope_factors(self) -> torch.Tensor | None:
        """Return what rotary frequencies are divided by, `[head_dim / 2]`; None: by nothing."""
        ...


class RandomSource:
    """Weights by seed and name, the same whatever is asked for first; bits differ between CPU and GPU.

    Projections keep the scale of what goes in. Embeddings are small beside what the layers add, or tied ones would
    answer each token with itself; queries and keys are large enough for attention to choose, so that what comes out
    depends on the whole prompt.
    """

    def __init__(self, config: LlamaConfig, seed: int, device: str | torch.device) -> None:
        self.config = config
        self.seed = seed
        self.device = torch.device(device)

    def get(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """See Source."""
        gain = 2.0 if ".q_" in name or ".k_" in name else 1.0
        if "norm" in name:
            return torch.full(shape, gain, device=self.device)
        generator = torch.Generator(self.device)
        generator.manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))  # the CPU's takes 32 bits only
        inputs = shape[-1] if len(shape) == 2 else self.config.hidden
        return torch.randn(shape, generator=generator, device=self.device).mul_(gain * inputs**-0.5)

    def rope_factors(self) -> torch.Tensor | None:
        """See Source."""
        return None


class SafetensorsSource:
    """One `.safetensors` file, or a folder with `model.safetensors` or its index and parts."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._files: dict[Path, Any] = {}
        self._where = self._locate()

    def get(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """See Source."""
        if name not in self._where:
            raise ValueError(f"{self.path}: tensor {name} is missing")
        tensor: torch.Tensor = self._open(self._where[name]).get_tensor(name)
        return _shaped(self.path, name, tensor, shape)

    def rope_factors(self) -> torch.Tensor | None:
        """See Source."""
        return None

    def _locate(self) -> dict[str, Path]:
        """Return the file of each tensor."""
        index = self.path / _INDEX
        if index.exists():
            try:
                names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{index}: key weight_map is missing or unreadable ({error})") from None
            return {name: self.path / file for name, file in names.items()}
        file = self.path / _SINGLE if self.path.is_dir() else self.path
        return dict.fromkeys(self._open(file).keys(), file)

    def _open(self, file: Path) -> Any:
        if file not in self._files:
            try:
                from safetensors import SafetensorError, safe_open
            except ImportError:
                raise ImportError(f"{file}: needs safetensors: pip install 'aquasim[runtime]'") from None
            try:
                self._files[file] = safe_open(str(file), framework="pt")
            except (OSError, SafetensorError) as error:
                raise ValueError(f"{file}: cannot be read as safetensors ({error})") from None
        return self._files[file]


class GgufSource:
    """A GGUF file, dequantised to float32."""

    def __init__(self, path: str | Path, config: LlamaConfig) -> None:
        self.file = GgufFile(path)
        self.config = config
        self._permuted = self.file.value("general.architecture") == "llama"

    def get(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """See Source."""
        rows = self.file.array(gguf_name(name))
        heads = {".q_proj.": self.config.heads, ".k_proj.": self.config.kv_heads}
        for part, count in heads.items():
            if self._permuted and part in name:
                rows = unpermute(rows, count)
        return _shaped(self.file.path, name, torch.tensor(rows), shape)

    def rope_factors(self) -> torch.Tensor | None:
        """See Source."""
        name = "rope_freqs.weight"
        return torch.tensor(self.file.array(name)) if self.file.has(name) else None


def _shaped(path: Path, name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{path}: tensor {name} is {tuple(tensor.shape)}; valid for its config: {shape}")
    return tensor
