"""Image and audio producers: what every one obeys, by batch and by GPU, and their data file."""

import tomllib
from itertools import pairwise
from typing import Any

import pytest
from gpus import kernel_profile_names

from aquasim.errors import UserError
from aquasim.hardware.profile import Profile, load_profile
from aquasim.producers import Producer, load_producer, producer_names
from aquasim.producers.load import FILE

GIB = 2**30
PAIRS = [(name, gpu) for name in producer_names() for gpu in kernel_profile_names()]
BATCHES = [*range(1, 20), 24, 32, 50, 64, 100]


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request: pytest.FixtureRequest) -> tuple[Producer, Profile]:
    """Every producer on every GPU."""
    name, gpu = request.param
    return load_producer(name), load_profile(gpu)


def test_the_five_of_aqua() -> None:
    """The five image and audio producers of AQUA, under short names, hub ids and any case."""
    assert producer_names() == ["sd", "sdxl", "kandinsky", "audiogen", "musicgen"]
    for hub in ("runwayml/stable-diffusion-v1-5", "facebook/MusicGen-large", "SDXL"):
        assert load_producer(hub).name in producer_names()


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("sdx", "unknown producer 'sdx'; nearest: sdxl, sd"),
        ("banana", "known: sd, sdxl, kandinsky, audiogen"),
    ],
)
def test_an_unknown_name_is_answered_with_names(name: str, complaint: str) -> None:
    """The nearest ones if any is near, else all."""
    with pytest.raises(UserError, match=complaint):
        load_producer(name)


def test_larger_batches_take_longer_and_give_no_less(pair: tuple[Producer, Profile]) -> None:
    """Seconds rise with the batch, items per second do not fall."""
    producer, gpu = pair
    times = [producer.time(gpu, batch).seconds for batch in BATCHES]
    assert all(low <= high for low, high in pairwise(times))
    rates = [batch / seconds for batch, seconds in zip(BATCHES, times, strict=True)]
    assert all(low <= high * (1 + 1e-9) for low, high in pairwise(rates))


def test_memory_rises_with_the_batch(pair: tuple[Producer, Profile]) -> None:
    """Peak memory rises by each item, on top of the weights."""
    producer, _ = pair
    sizes = [producer.memory_bytes(batch) for batch in BATCHES]
    assert all(low < high for low, high in pairwise(sizes))
    assert sizes[0] > producer.resident_bytes > GIB


def test_memory_bound_time_is_a_part(pair: tuple[Producer, Profile]) -> None:
    """What waits for memory is between none and all of a batch."""
    producer, gpu = pair
    for batch in BATCHES:
        time = producer.time(gpu, batch)
        assert 0 <= time.memory_bound_seconds <= time.seconds


@pytest.mark.parametrize("name", ["sd", "sdxl", "kandinsky"])
@pytest.mark.parametrize("gpu", kernel_profile_names())
def test_images_saturate(name: str, gpu: str) -> None:
    """Image models are bound by arithmetic: the largest batch gives over 85 % of an endless one's throughput."""
    producer, profile = load_producer(name), load_profile(gpu)
    most, endless = (producer.load(profile, batch).items_per_s for batch in (producer.max_batch, 100_000))
    assert most > 0.85 * endless


@pytest.mark.parametrize("gpu", ["a100", "h100", "h200"])
def test_audio_is_bound_by_launching(gpu: str) -> None:
    """Up to the largest batch a step of audio is launched no faster than it runs: clips cost nothing extra.

    As its authors say of autoregressive audio, "throughput is linear in batch size, only limited by the GPU memory"
    (quoted in github.com/facebookresearch/audiocraft/issues/416, of arXiv 2401.04577).
    """
    for name in ("audiogen", "musicgen"):
        producer, profile = load_producer(name), load_profile(gpu)
        one, most = producer.load(profile, 1), producer.load(profile, producer.max_batch)
        assert most.items_per_s == pytest.approx(producer.max_batch * one.items_per_s, rel=0.02)


def test_a_faster_gpu_is_faster(pair: tuple[Producer, Profile]) -> None:
    """H100 takes no longer than A100, and its full batches of images less than 0.7 of the time."""
    producer, _ = pair
    slow, fast = (producer.time(load_profile(gpu), producer.max_batch).seconds for gpu in ("a100", "h100"))
    assert fast <= slow
    if producer.items == "images":
        assert fast < 0.7 * slow


def test_a_sweep_ends_at_the_largest_batch() -> None:
    """Powers of two, then the largest batch."""
    producer = load_producer("sd")
    swept = producer.sweep(load_profile("a100"))
    assert [load.batch for load in swept] == [1, 2, 4, 8, 16, 20]
    assert swept[-1].memory_bytes == producer.memory_bytes(20)
    assert swept[-1].items_per_s == 20 / swept[-1].seconds


def test_free_memory_is_what_the_peak_leaves() -> None:
    """Free bytes and peak add up to the GPU's memory; what does not fit is an error that says how much it needs."""
    producer, gpu = load_producer("sdxl"), load_profile("h100")
    assert producer.free_bytes(gpu, 8) + producer.memory_bytes(8) == gpu.memory_bytes
    with pytest.raises(UserError, match=r"sdxl with batches of 8 needs 69\.\d GiB; l40s has 45\.0"):
        producer.free_bytes(load_profile("l40s"), 8)


@pytest.mark.parametrize("batch", [0, -1])
def test_an_empty_batch_is_refused(batch: int) -> None:
    """A batch has at least one item."""
    with pytest.raises(ValueError, match=f"batch is {batch}"):
        load_producer("sd").time(load_profile("a100"), batch)
    with pytest.raises(ValueError, match=f"batch is {batch}"):
        load_producer("sd").memory_bytes(batch)


def tables(block: dict[str, Any], path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Return every table below `block` that holds a number itself, inline tables with their parent."""
    found = []
    if any(isinstance(value, int | float | list) and not isinstance(value, bool) for value in block.values()):
        found.append((path, block))
    for key, value in block.items():
        if isinstance(value, dict) and key != "shares":
            found += tables(value, f"{path}.{key}")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            found += [pair for i, row in enumerate(value) for pair in tables(row, f"{path}.{key}[{i}]")]
    return found


def test_every_number_has_a_source() -> None:
    """Each table of the data file that holds numbers says where they come from."""
    data = tomllib.loads(FILE.read_text(encoding="utf-8"))
    checked = [(path, block) for path, block in tables(data) if set(block) != {"title", "items", "encoders"}]
    for path, block in checked:
        if "encoders" in block and "source" not in block:
            continue  # a producer's own table holds none but those of its parts
        assert len(block.get("source", "")) > 20, path
    assert len(checked) > 25
    assert "shares" in data["common"]["products"]
    assert data["common"]["products"]["source"]
