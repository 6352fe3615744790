"""ShareGPT conversations: texts, from which prompt and output lengths are counted."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from aquasim.workload.lengths import EmpiricalPairs
from aquasim.workload.table import IntArray
from aquasim.workload.traces.source import Options, Rows, TraceError, decode, load, parse_json

CHARACTERS_PER_TOKEN = 4
"""The estimate used without a tokenizer: English text has about four characters per token
(OpenAI, "What are tokens and how to count them?"); code and other languages have fewer."""

_SHAPE = 'a list of {"conversations": [{"from": ..., "value": ...}]} is needed'


def lengths_from_sharegpt(path: str | Path, *, tokenizer: str | Path | None = None) -> EmpiricalPairs:
    """Return the prompt and output lengths, in tokens, of each conversation's first exchange.

    `tokenizer` is the path of a `tokenizer.json`; special tokens are not counted. Without it a length is the
    number of characters / 4, rounded up. Raises TraceError for a file that cannot be read, ValueError when
    the `tokenizers` package is missing.
    """
    path = Path(path)
    rows = read(path, load(path), Options(tokenizer=tokenizer))
    return EmpiricalPairs(rows.prompt.tolist(), rows.output.tolist())


def read(path: Path, data: bytes, options: Options) -> Rows:
    """Read the first human turn that a gpt turn follows, of each conversation; the file has no arrivals."""
    document = parse_json(path, data)
    if not isinstance(document, list):
        raise TraceError.at(path, 1, f"found {type(document).__name__}, {_SHAPE}")
    exchanges = [_first_exchange(path, number, item) for number, item in enumerate(document, 1)]
    pairs = [pair for pair in exchanges if pair is not None]
    if not pairs:
        raise TraceError.at(path, None, "no human turn followed by a gpt turn, at least one is needed")
    notes = []
    if len(pairs) < len(exchanges):
        notes.append(f"{len(exchanges) - len(pairs)} conversations without a human and a gpt turn dropped")
    if options.tokenizer is None:
        notes.append("token counts are estimates, characters / 4: no tokenizer was given")
    prompts, outputs = zip(*pairs, strict=True)
    count = _estimate if options.tokenizer is None else _counter(Path(options.tokenizer))
    return Rows(count(prompts), count(outputs), notes=tuple(notes))


def _first_exchange(path: Path, number: int, item: Any) -> tuple[str, str] | None:
    """Return a conversation's first question and answer that are not empty, None when there are none."""
    turns = item.get("conversations") if isinstance(item, dict) else None
    if not isinstance(turns, list) or not all(_is_turn(turn) for turn in turns):
        raise TraceError.at(path, None, f"conversation {number} is malformed, {_SHAPE}")
    for question, answer in itertools.pairwise(turns):
        if (question["from"], answer["from"]) == ("human", "gpt") and question["value"] and answer["value"]:
            return question["value"], answer["value"]
    return None


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("value"), str) and "from" in turn


def _estimate(texts: tuple[str, ...]) -> IntArray:
    return np.array([-(-len(text) // CHARACTERS_PER_TOKEN) for text in texts], np.int64)


def _counter(path: Path) -> Callable[[tuple[str, ...]], IntArray]:
    """Return a function that counts tokens with the `tokenizer.json` at `path`."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ValueError("a tokenizer needs the tokenizers package: pip install 'aquasim[runtime]'") from None
    # Read by us first, for the same error texts as any other file; the library raises bare Exceptions.
    text = decode(path, load(path))
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:
        raise TraceError.at(path, None, f"not a tokenizer.json: {error}") from None

    def count(texts: tuple[str, ...]) -> IntArray:
        encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        # A text of characters the tokenizer drops has no tokens; a request has at least one.
        return np.array([max(1, len(encoding.ids)) for encoding in encoded], np.int64)

    return count
