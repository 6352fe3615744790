"""Between text and tokens: the model's own tokenizer, or bytes where it has none."""

from pathlib import Path
from typing import Any, Protocol

HELD = "�"
"""What an unfinished character decodes to."""
LONGEST = 4
"""Tokens that one character can take: its bytes."""


class Tokenizer(Protocol):
    """Turns text into tokens and back."""

    end: tuple[int, ...]
    """Tokens that end an answer."""

    def encode(self, text: str) -> list[int]:
        """Return a text's tokens."""

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens."""


class ByteTokenizer:
    """A token per byte, for models that nobody trained: what they generate means nothing anyway."""

    end: tuple[int, ...] = ()

    def encode(self, text: str) -> list[int]:
        """Return the bytes of a text."""
        return list(text.encode())

    def decode(self, tokens: list[int]) -> str:
        """Return tokens as bytes, modulo 256."""
        return bytes(token % 256 for token in tokens).decode(errors="replace")


class HubTokenizer:
    """A tokenizer of the `tokenizers` library."""

    def __init__(self, inner: Any, end: tuple[int, ...]) -> None:
        self._inner = inner
        self.end = end

    def encode(self, text: str) -> list[int]:
        """Return a text's tokens; special tokens in it are read as such."""
        return list(self._inner.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens, without special ones."""
        return str(self._inner.decode(tokens, skip_special_tokens=True))


def load_tokenizer(weights: Path | None) -> Tokenizer:
    """Return the tokenizer inside a GGUF file, or the tokenizer.json beside safetensors; bytes without weights.

    Raises:
        ValueError: there is none, or one of a kind that is not known.
    """
    if weights is None:
        return ByteTokenizer()
    if weights.suffix == ".gguf":
        return _from_gguf(weights)
    folder = weights if weights.is_dir() else weights.parent
    return _from_folder(folder)


def _from_folder(folder: Path) -> HubTokenizer:
    import json

    from tokenizers import Tokenizer as Inner

    file, config = folder / "tokenizer.json", folder / "config.json"
    if not file.is_file():
        raise ValueError(f"{folder}: no tokenizer.json beside the weights")
    end = json.loads(config.read_text(encoding="utf-8")).get("eos_token_id") if config.is_file() else None
    ends = () if end is None else tuple(end) if isinstance(end, list) else (end,)
    return HubTokenizer(Inner.from_file(str(file)), ends)


def _from_gguf(path: Path) -> HubTokenizer:
    """Read a byte-level BPE (llama.cpp's model "gpt2"), as Llama 3, SmolLM and Qwen have."""
    from tokenizers import AddedToken, decoders, models
    from tokenizers import Tokenizer as Inner

    from aquasim.runtime.engine.gguf import GgufFile

    file = GgufFile(path)
    kind = file.value("tokenizer.ggml.model", "none")
    if kind != "gpt2":
        raise ValueError(f"{path}: its tokenizer is of kind {kind!r}; byte-level BPE ('gpt2') is known")
    tokens, kinds = file.value("tokenizer.ggml.tokens"), file.value("tokenizer.ggml.token_type", [])
    merges = [tuple(merge.split(" ", 1)) for merge in file.value("tokenizer.ggml.merges")]
    inner = Inner(models.BPE({token: id for id, token in enumerate(tokens)}, merges))
    inner.pre_tokenizer = _split(str(file.value("tokenizer.ggml.pre", "default")))
    inner.decoder = decoders.ByteLevel()
    special = [tokens[id] for id, each in enumerate(kinds) if each == CONTROL]
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return HubTokenizer(inner, (int(file.value("tokenizer.ggml.eos_token_id")),))


CONTROL = 3
"""GGUF's type of special tokens."""


def _split(pre: str) -> Any:
    """Return how a text is cut before merging: SmolLM's single digits, else GPT-2's rule."""
    from tokenizers import pre_tokenizers as cut

    bytewise = cut.ByteLevel(add_prefix_space=False)
    return cut.Sequence([cut.Digits(individual_digits=True), bytewise]) if pre == "smollm" else bytewise


class Detokenizer:
    """Text as tokens come: each call returns what is new; unfinished characters are held back.

    Decoding starts a few tokens back, since a token's text can depend on those before it.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._from = self._read = 0

    def push(self, token: int, last: bool = False) -> str:
        """Take a token; return the text that it adds."""
        self._tokens.append(token)
        before = self._tokenizer.decode(self._tokens[self._from : self._read])
        now = self._tokenizer.decode(self._tokens[self._from :])
        if now.endswith(HELD) and not last and len(self._tokens) - self._read < LONGEST:
            return ""
        self._from, self._read = self._read, len(self._tokens)
        return now[len(before) :]


class Stops:
    """Finds stop strings across pieces of text: holds back what may yet become one."""

    def __init__(self, stops: list[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.found = False

    def push(self, text: str, last: bool = False) -> str:
        """Take text; return what may be shown. Nothing more is, once a stop string has come."""
        if self.found:
            return ""
        text = self._held + text
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)]
        keep = 0 if last else self._tail(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _tail(self, text: str) -> int:
        """Return how much of the end of `text` begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[len(text) - length :]) for stop in self._stops):
                return length
        return 0
