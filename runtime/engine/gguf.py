"""GGUF files as llama.cpp writes them: metadata, and tensors as numpy arrays of float32. No torch here."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from gguf import GGUFReader

_GLOBAL = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


class GgufFile:
    """A GGUF file, mapped into memory; tensors are dequantised one by one as they are asked for.

    Raises ValueError for a file that cannot be read as GGUF, ImportError where the package gguf is missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._reader = _open(self.path)
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}

    def has(self, tensor: str) -> bool:
        """Tell whether the file holds a tensor of this name."""
        return tensor in self._tensors

    def value(self, key: str, default: Any = None) -> Any:
        """Return a metadata value; without a default a missing one is a ValueError."""
        field = self._reader.get_field(key)
        value = default if field is None else field.contents()
        if value is None:
            raise ValueError(f"{self.path}: key {key} is missing")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        """Return a positive integer."""
        value = self.value(key, default)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{self.path}: key {key} is {value!r}; valid: an integer of at least 1")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a positive number."""
        value = self.value(key, default)
        if not isinstance(value, int | float) or not value > 0:
            raise ValueError(f"{self.path}: key {key} is {value!r}; valid: a number above 0")
        return float(value)

    def one_of(self, key: str, valid: tuple[Any, ...], default: Any = None) -> Any:
        """Return a value that is one of `valid`."""
        value = self.value(key, default)
        if value not in valid:
            listed = ", ".join(repr(item) for item in valid)
            raise ValueError(f"{self.path}: key {key} is {value!r}; valid: {listed}")
        return value

    def rows(self, tensor: str) -> int:
        """Return the rows of a matrix: its outputs."""
        self._need(tensor)
        return int(self._tensors[tensor].shape[-1])  # GGUF lists the innermost dimension first

    def array(self, tensor: str) -> npt.NDArray[np.float32]:
        """Return a tensor in float32, dimensions as in Hugging Face files: [outputs, inputs] or [size]."""
        from gguf.quants import dequantize

        self._need(tensor)
        held = self._tensors[tensor]
        shape = tuple(int(size) for size in reversed(held.shape.tolist()))
        return dequantize(held.data, held.tensor_type).astype(np.float32, copy=False).reshape(shape)

    def _need(self, tensor: str) -> None:
        if tensor not in self._tensors:
            raise ValueError(f"{self.path}: tensor {tensor} is missing")


def gguf_name(name: str) -> str:
    """Return llama.cpp's name of a tensor that Hugging Face files call `name`."""
    if name in _GLOBAL:
        return _GLOBAL[name]
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    part, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{_LAYER[part]}.{kind}"


def unpermute(rows: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Undo the order of rows that llama.cpp gives query and key projections of the llama architecture.

    There the two dimensions that one rotation turns are neighbours within a head; in Hugging Face files, and here,
    they are half a head apart. `rows` is [heads * head_dim, ...] (llama.cpp, convert_hf_to_gguf.py).
    """
    paired = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return np.ascontiguousarray(paired.swapaxes(1, 2)).reshape(rows.shape)


def _open(path: Path) -> "GGUFReader":
    try:
        from gguf import GGUFReader
    except ImportError:
        raise ImportError(f"{path}: needs the package gguf: pip install 'aquasim[runtime]'") from None
    try:
        return GGUFReader(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path}: not a GGUF file of version 2 or 3 ({error})") from None
