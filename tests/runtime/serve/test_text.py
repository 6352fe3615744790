"""Text and tokens: incremental decoding, stop strings, tokenizers of model files."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquasim.runtime.serve.text import ByteTokenizer, Detokenizer, Stops, load_tokenizer


@given(st.text(max_size=60))
def test_text_survives_token_by_token(text: str) -> None:
    """Characters of several bytes come whole: the pieces are the text, none ends within a character."""
    detokenizer, tokens = Detokenizer(ByteTokenizer()), list(text.encode())
    pieces = [detokenizer.push(token, last=i == len(tokens) - 1) for i, token in enumerate(tokens)]
    assert "".join(pieces) == text


@given(st.lists(st.integers(0, 255), max_size=60))
def test_bytes_that_are_no_text_come_out_all_the_same(tokens: list[int]) -> None:
    """Nothing is held back for ever, and nothing raises."""
    detokenizer = Detokenizer(ByteTokenizer())
    pieces = [detokenizer.push(token, last=i == len(tokens) - 1) for i, token in enumerate(tokens)]
    assert len("".join(pieces)) >= len(tokens) / 8


@given(
    st.lists(st.text("abc", max_size=4), max_size=12),
    st.lists(st.text("abc", min_size=1, max_size=3), max_size=3),
)
def test_stop_strings_are_found_across_pieces(pieces: list[str], stops: list[str]) -> None:
    """What is shown is the text before the first stop string in it, however it was cut into pieces."""
    finder = Stops(stops)
    shown = "".join(finder.push(piece, last=i == len(pieces) - 1) for i, piece in enumerate(pieces))
    text = "".join(pieces)
    ends = [text.index(stop) for stop in stops if stop in text]
    assert shown.startswith(text[: min(ends)]) if ends else shown == text
    assert finder.found == bool(ends)
    assert not any(stop in shown for stop in stops)


def test_a_tokenizer_json_beside_the_weights_is_used(tmp_path: Path) -> None:
    """A folder of safetensors with tokenizer.json and config.json: tokens, text, the end of an answer."""
    tokenizers = pytest.importorskip("tokenizers")
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    found = load_tokenizer(tmp_path)
    assert (found.encode("b a a"), found.decode([0, 1]), found.end) == ([1, 0, 0], "a b", (1, 2))


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    """The folder, and what it lacks."""
    with pytest.raises(ValueError, match=r"no tokenizer.json beside the weights"):
        load_tokenizer(tmp_path)
