"""Every trace format on files written here: what is read from them."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from aquasim.workload import (
    AtOnce,
    ClosedLoop,
    FixedGap,
    Poisson,
    TraceError,
    Workload,
    lengths_from_sharegpt,
    read_trace,
)

Write = Callable[..., Path]

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
2023-11-16 18:17:05.0000000,110,0"""

MOONCAKE = """{"timestamp": 0, "input_length": 1030, "output_length": 5, "hash_ids": [0, 1, 2]}
{"timestamp": 3000, "input_length": 600, "output_length": 7, "hash_ids": [0, 3]}
"""

BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,0,1087,Conversation log
118,GPT-4,417,276,693,API log
"""

OWN = "arrival_s,prompt_tokens,output_tokens,priority\n0.5,10,1,2\n1.25,20,2,-1\n"

LENGTHS = "prompt_tokens,output_tokens\n269,42\n270,52\n"

SHAREGPT = json.dumps(
    [
        {"conversations": [{"from": "gpt", "value": "hi"}, {"from": "human", "value": "abcdefgh"}]},
        {"conversations": [{"from": "human", "value": "abcdefghi"}, {"from": "gpt", "value": "x"}]},
        {"conversations": []},
        {
            "conversations": [
                {"from": "system", "value": "be brief"},
                {"from": "human", "value": "one two"},
                {"from": "gpt", "value": "three"},
            ]
        },
    ]
)


def rows(workload: Workload) -> list[list[int]]:
    """Return arrivals (ns), prompts and outputs."""
    return [workload.arrival.tolist(), workload.prompt.tolist(), workload.output.tolist()]


def test_azure_counts_from_the_first_request(write: Write) -> None:
    """Seven digits are 100 ns; 0 generated tokens become 1 and are noted; no newline is needed at the end."""
    found = read_trace(write(AZURE))

    assert rows(found) == [[0, 52_000_000, 1_020_040_000], [4808, 3180, 110], [10, 8, 1]]
    assert found.notes == ("1 requests with 0 output tokens count as 1",)


def test_azure_understands_zones(write: Write) -> None:
    """Stamps with a zone, some without a fraction, are instants; carriage returns do not matter."""
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2024-05-10 00:00:00.009930+00:00,1,2\r\n"
        "2024-05-10 00:00:01+00:00,3,4\r\n2024-05-10 02:00:02+02:00,5,6\r\n2024-05-10T00:00:03Z,7,8\r\n"
    )
    found = read_trace(write(text))

    assert found.arrival.tolist() == [0, 990_070_000, 1_990_070_000, 2_990_070_000]


def test_azure_rows_out_of_order_are_sorted(write: Write) -> None:
    """The earliest stamp is time 0, wherever it stands."""
    head, *lines = AZURE.split("\n")
    found = read_trace(write("\n".join([head, *reversed(lines)])))

    assert rows(found) == [[0, 52_000_000, 1_020_040_000], [4808, 3180, 110], [10, 8, 1]]


def test_mooncake_keeps_its_prefixes(write: Write) -> None:
    """Milliseconds become nanoseconds, hash ids the prefix of 512-token blocks."""
    found = read_trace(write(MOONCAKE))

    assert rows(found) == [[0, 3 * 10**9], [1030, 600], [5, 7]]
    assert found.prefix == [(0, 1, 2), (0, 3)]
    assert found.prefix_block == 512
    # 600 tokens are 37 full blocks of 16: the 32 of hash 0, and 5 of hash 3.
    assert found.block_hashes(1, 16) == (*range(32), *range(96, 101))
    assert found.notes == ()


def test_mooncake_block_hashes_are_chained(write: Write) -> None:
    """Where one id follows different ids it names a block, not a prefix: the chains are then numbered."""
    line = '{"timestamp": 0, "input_length": 1024, "output_length": 5, "hash_ids": [%s]}\n'
    found = read_trace(write("".join(line % ids for ids in ("7, 9", "8, 9", "7, 9", ""))))

    assert found.prefix == [(0, 1), (2, 3), (0, 1), ()]
    assert found.notes == ("hash_ids name blocks, not prefixes: they were chained",)


def test_burstgpt_drops_failures_and_filters_models(write: Write) -> None:
    """Rows with 0 response tokens are dropped and counted; a model that has no rows lists those that do."""
    path = write(BURSTGPT)
    found = read_trace(path)

    assert rows(found) == [[5 * 10**9, 118 * 10**9], [472, 417], [18, 276]]
    assert found.notes == ("1 failed requests (0 response tokens) dropped",)
    assert rows(read_trace(path, model="GPT-4")) == [[118 * 10**9], [417], [276]]
    with pytest.raises(TraceError, match="model 'GPT-5' has no rows, valid: ChatGPT, GPT-4"):
        read_trace(path, model="GPT-5")


def test_our_own_csv(write: Write) -> None:
    """Seconds keep their fraction, priorities may be negative, blank lines and quotes are ignored."""
    found = read_trace(write(OWN.replace("\n1.25", '\n\n"1.25"')))

    assert rows(found) == [[500_000_000, 1_250_000_000], [10, 20], [1, 2]]
    assert found.priority is not None
    assert found.priority.tolist() == [2, -1]


def test_lengths_need_an_arrival_process(write: Write) -> None:
    """Without one there is an error; with one the rows keep the file's order, and a closed loop its cap."""
    path = write(LENGTHS)

    with pytest.raises(ValueError, match="the trace has lengths only: give an arrival process"):
        read_trace(path)
    found = read_trace(path, arrivals=ClosedLoop(8))
    assert rows(found) == [[0, 0], [269, 270], [42, 52]]
    assert found.cap == 8
    drawn = read_trace(path, arrivals=Poisson(1.0), seed=1)
    assert drawn.arrival.tolist() == read_trace(path, arrivals=Poisson(1.0), seed=1).arrival.tolist()
    assert drawn.arrival.tolist() != read_trace(path, arrivals=Poisson(1.0), seed=2).arrival.tolist()


def test_arrivals_replace_those_of_a_trace(write: Write) -> None:
    """The trace's lengths come at the given times, in the trace's order of arrival, and a note says so."""
    head, *lines = AZURE.split("\n")
    found = read_trace(write("\n".join([head, *reversed(lines)])), arrivals=FixedGap(1.0))

    assert rows(found) == [[0, 10**9, 2 * 10**9], [4808, 3180, 110], [10, 8, 1]]
    assert "arrivals drawn from Fixed(gap=1.0), not the file's" in found.notes


def test_sharegpt_estimates_a_token_per_four_characters(write: Write) -> None:
    """The first human turn with a gpt turn after it counts, rounded up; others are dropped and noted."""
    path = write(SHAREGPT)
    found = read_trace(path, arrivals=AtOnce())

    assert rows(found) == [[0, 0], [3, 2], [1, 2]]
    assert found.notes[:2] == (
        "2 conversations without a human and a gpt turn dropped",
        "token counts are estimates, characters / 4: no tokenizer was given",
    )
    pairs = lengths_from_sharegpt(path)
    assert (pairs.prompt, pairs.output) == ((3, 2), (1, 2))


def test_sharegpt_counts_with_a_tokenizer(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokenizer's ids are counted, without special tokens, and the estimate's note is gone."""

    class Words:
        @staticmethod
        def from_str(text: str) -> "Words":
            assert json.loads(text) == {"kind": "words"}
            return Words()

        def encode_batch(self, texts: list[str], add_special_tokens: bool) -> list[SimpleNamespace]:
            assert not add_special_tokens
            return [SimpleNamespace(ids=text.split()) for text in texts]

    monkeypatch.setitem(sys.modules, "tokenizers", SimpleNamespace(Tokenizer=Words))
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text('{"kind": "words"}')
    found = read_trace(write(SHAREGPT), arrivals=AtOnce(), tokenizer=tokenizer)

    assert rows(found) == [[0, 0], [1, 2], [1, 1]]
    assert not any("estimates" in note for note in found.notes)


def test_a_real_tokenizer_counts(tmp_path: Path) -> None:
    """A tokenizer.json of the tokenizers library works, and a broken one is named."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "one": 1}, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "bad.json").write_text("{}")
    (tmp_path / "chat.json").write_text(SHAREGPT)

    assert lengths_from_sharegpt(tmp_path / "chat.json", tokenizer=tmp_path / "tokenizer.json").prompt == (
        1,
        2,
    )
    with pytest.raises(TraceError, match=r"bad\.json: not a tokenizer\.json"):
        lengths_from_sharegpt(tmp_path / "chat.json", tokenizer=tmp_path / "bad.json")


def test_a_missing_tokenizer_library_is_named(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "tokenizers", None)

    with pytest.raises(ValueError, match=r"pip install 'aquasim\[runtime\]'"):
        lengths_from_sharegpt(write(SHAREGPT), tokenizer="tokenizer.json")


def test_window_limit_and_rate_apply_in_that_order(write: Write) -> None:
    """start and duration are on the trace's clock, then the limit cuts, then time is compressed."""
    text = "arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{t},{t + 1},1\n" for t in range(10))
    found = read_trace(write(text), start=2, duration=6, limit=4, rate_scale=2.0)

    assert rows(found) == [[0, 5 * 10**8, 10**9, 15 * 10**8], [3, 4, 5, 6], [1, 1, 1, 1]]
