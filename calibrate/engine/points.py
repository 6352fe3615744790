"""Which iterations to measure: batches, lengths, chunks, and some of all together."""

from typing import NamedTuple

from aquasim.hardware.attention import Chunk


class Point(NamedTuple):
    """An iteration: prefill chunks of (new, cached) tokens beside `batch` decodes that attend to `length` tokens."""

    chunks: tuple[Chunk, ...]
    batch: int
    length: int


class Ranges(NamedTuple):
    """What an engine may meet: sequences, tokens per iteration, tokens of a sequence, blocks, tokens per block."""

    sequences: int
    tokens: int
    length: int
    blocks: int
    block_size: int

    def covers(self, other: "Ranges") -> bool:
        """Say whether what was measured over these ranges is enough for others."""
        same = self.block_size == other.block_size
        return same and all(mine >= theirs for mine, theirs in zip(self[:3], other[:3], strict=True))


def points_for(ranges: Ranges) -> list[Point]:
    """Return the iterations to measure: every small batch by itself, since small products have steps of their own."""
    batches = [b for b in (*range(1, 17), 20, 24, 28, 32, 48, 64, 96, 128, 192, 256) if b <= ranges.sequences]
    lengths = _up_to(ranges.length, (32, 96, 192, 384, 768, 1536, 3072))
    decodes = [Point((), batch, length) for batch in batches for length in _some(lengths, batch)]
    news = _up_to(
        ranges.tokens, (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048)
    )
    cached = [0, *(c for c in (64, 256, 1024) if c < ranges.length)]
    alone = [Point(((new, c),), 0, 0) for new in news for c in cached if new + c <= ranges.length]
    return decodes + alone + _mixed(ranges, batches, lengths, news)


def _mixed(ranges: Ranges, batches: list[int], lengths: list[int], news: list[int]) -> list[Point]:
    """Return chunks beside decodes, one and two at a time."""
    found: list[Point] = []
    for batch in batches[1::3]:
        for new in news[5::3]:
            if batch + new <= ranges.tokens and new <= ranges.length:
                found.append(Point(((new, 0),), batch, lengths[len(found) % len(lengths)]))
            if batch + 2 * new <= ranges.tokens and new + 64 <= ranges.length and len(found) % 2:
                found.append(Point(((new, 0), (new, 64)), batch, lengths[len(found) % len(lengths)]))
    return found


def _up_to(most: int, values: tuple[int, ...]) -> list[int]:
    return [value for value in values if value < most] + [most]


def _some(lengths: list[int], batch: int) -> list[int]:
    """Return the shortest, the longest and one or two in between, other ones from batch to batch."""
    inner = lengths[1:-1]
    return sorted({lengths[0], lengths[-1], *inner[batch % 2 :: 2]})
