"""`surplus`: what a GPU can lend under a model and a load, or lacks."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from aquasim.cli.options import CsvOption, JsonOption
from aquasim.cli.output import Form, emit, form_of
from aquasim.errors import UserError

if TYPE_CHECKING:
    from aquasim.hardware.profile import Profile
    from aquasim.models import Model
    from aquasim.producers import Producer
    from aquasim.surplus import Point

GIB = 2**30


class _Words(NamedTuple):
    """How a kind of model's points are called: columns of the table and keys of the JSON."""

    columns: tuple[str, str, str, str]
    keys: tuple[str, str, str, str]
    room: str


_TOKENS = _Words(
    ("open", "tokens/s", "KV GiB", "TTFT p99 s"),
    ("batch", "tokens_per_s", "kv_gib", "ttft_p99_s"),
    "KV cache",
)


def _items(items: str) -> _Words:
    return _Words(
        ("batch", f"{items}/s", "work GiB", "batch s"),
        ("batch", "items_per_s", "work_gib", "batch_s"),
        "a batch's work",
    )


def surplus(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A known model, a config.json, or an image or audio producer."),
    ],
    profile: Annotated[str, typer.Option(metavar="NAME", help="Hardware profile.")] = "h100",
    tp: Annotated[int, typer.Option(help="GPUs that share the model.")] = 1,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of a prompt.")] = 512,
    output: Annotated[int, typer.Option(min=1, help="Tokens of an output.")] = 256,
    rate: Annotated[
        float | None, typer.Option(help="Requests per second; left out, the load that saturates throughput.")
    ] = None,
    sweep: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="A measured sweep: batch,tokens_per_s,kv_gib.")
    ] = None,
    json: JsonOption = False,
    csv: CsvOption = False,
) -> None:
    """Say how many GiB each GPU can lend under a model and a load, or lacks."""
    surplus_command(model, profile, tp, prompt, output, rate, sweep, form_of(json, csv))


def surplus_command(
    model: str,
    profile: str,
    tp: int,
    prompt: int,
    output: int,
    rate: float | None,
    sweep_file: Path | None,
    form: Form,
) -> None:
    """Sweep (simulated, or as measured), judge, and print one signed number of GiB per GPU."""
    from aquasim.hardware.profile import load_profile
    from aquasim.producers import Producer

    try:
        gpu, found = load_profile(profile), _find(model)
        if isinstance(found, Producer):
            room, points = _produce(found, gpu, tp, rate, sweep_file)
            words = _items(found.items)
        else:
            room, points = _serve(found, gpu, tp, prompt, output, rate, sweep_file)
            words = _TOKENS
        document = _judged(points, room, words)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from None
    emit(
        form,
        lambda: {"model": found.name, "profile": gpu.name, "tp": tp, **document},
        lambda: document["points"],
        lambda: _print(found.name, gpu.title, tp, document, rate, words),
    )


def _find(model: str) -> "Model | Producer":
    """Return a producer or a language model; the error names both kinds."""
    from aquasim.models import load_model
    from aquasim.producers import load_producer, producer_names

    try:
        return load_producer(model)
    except UserError:
        pass
    try:
        return load_model(model)
    except ValueError as error:
        if model.endswith(".json") or Path(model).exists():
            raise
        raise UserError(f"{error}; image and audio producers: {', '.join(producer_names())}") from None


def _serve(
    model: "Model",
    profile: "Profile",
    tp: int,
    prompt: int,
    output: int,
    rate: float | None,
    sweep_file: Path | None,
) -> "tuple[int, list[Point]]":
    """Return a language model's room for KV cache and its points."""
    from aquasim.surplus import Serve, rate_point, read_sweep, sweep

    serve = Serve(profile, model, tp, prompt, output)
    room = serve.room
    if sweep_file is not None:
        points = read_sweep(sweep_file)
    else:
        points = sweep(serve) if rate is None else [rate_point(serve, rate)]
    return room, points


def _produce(
    producer: "Producer", profile: "Profile", tp: int, rate: float | None, sweep_file: Path | None
) -> "tuple[int, list[Point]]":
    """Return a producer's room beside weights and its points."""
    from aquasim.surplus import producer_room, producer_sweep, read_sweep

    if tp != 1 or rate is not None:
        option = "--tp" if tp != 1 else "--rate"
        raise UserError(
            f"{option} is for language models; {producer.name} makes its {producer.items} on one GPU"
        )
    room = producer_room(producer, profile)
    return room, read_sweep(sweep_file) if sweep_file else producer_sweep(producer, profile)


def _judged(points: "Sequence[Point]", room: int, words: _Words) -> dict[str, Any]:
    from aquasim.surplus import judge

    judged = judge(points, room)
    rows = [(p.batch, p.tokens_per_s, p.kv_bytes / GIB, p.ttft_p99_s) for p in points]
    return {
        "surplus_gib": judged.surplus_bytes / GIB,
        "room_gib": judged.room_bytes / GIB,
        "needed_gib": judged.point.kv_bytes / GIB,
        "saturated": judged.saturated,
        "points": [dict(zip(words.keys, row, strict=True)) for row in rows],
    }


def _print(model: str, gpu: str, tp: int, found: dict[str, Any], rate: float | None, words: _Words) -> None:
    from rich.console import Console
    from rich.table import Table

    from aquasim.cli.text import shown

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for head in words.columns:
        table.add_column(head, justify="right")
    for point in found["points"]:
        batch, speed, gib, seconds = (point[key] for key in words.keys)
        opened = str(batch) if batch else f"{rate:g}/s"
        table.add_row(
            opened, f"{speed:,.0f}" if words is _TOKENS else f"{speed:.3g}", f"{gib:.1f}", f"{seconds:.2f}"
        )
    console = Console()
    console.print(table)
    word = "can lend" if found["surplus_gib"] >= 0 else "lacks"
    console.print(
        f"{shown(model)} on {tp} x {shown(gpu)}: each GPU {word} {abs(found['surplus_gib']):.1f} GiB "
        f"({found['room_gib']:.1f} for {words.room}, {found['needed_gib']:.1f} needed"
        + (")" if found["saturated"] or rate is not None else ", throughput still rising)"),
        highlight=False,
    )
