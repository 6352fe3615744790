"""`surplus`: what a GPU can lend under a model and a load, or lacks."""

import json
from pathlib import Path
from typing import Any

from aquasim.errors import UserError

GIB = 2**30


def surplus_command(
    model: str,
    profile: str,
    tp: int,
    prompt: int,
    output: int,
    rate: float | None,
    sweep_file: Path | None,
    as_json: bool,
) -> None:
    """Sweep (simulated, or as measured), judge, and print one signed number of GiB per GPU."""
    from aquasim.hardware.profile import load_profile
    from aquasim.models import load_model
    from aquasim.surplus import Serve, judge, rate_point, read_sweep, sweep

    try:
        serve = Serve(load_profile(profile), load_model(model), tp, prompt, output)
        room = serve.room
        if sweep_file is not None:
            points = read_sweep(sweep_file)
        else:
            points = sweep(serve) if rate is None else [rate_point(serve, rate)]
        judged = judge(points, room)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from None
    document = {
        "surplus_gib": judged.surplus_bytes / GIB,
        "room_gib": judged.room_bytes / GIB,
        "needed_gib": judged.point.kv_bytes / GIB,
        "saturated": judged.saturated,
        "points": [
            {
                "batch": p.batch,
                "tokens_per_s": p.tokens_per_s,
                "kv_gib": p.kv_bytes / GIB,
                "ttft_p99_s": p.ttft_p99_s,
            }
            for p in points
        ],
    }
    if as_json:
        print(
            json.dumps(
                {"model": serve.model.name, "profile": serve.profile.name, "tp": tp, **document}, indent=2
            )
        )
    else:
        _print(serve.model.name, serve.profile.title, tp, document, rate)


def _print(model: str, gpu: str, tp: int, found: dict[str, Any], rate: float | None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for head in ("open", "tokens/s", "KV GiB", "TTFT p99 s"):
        table.add_column(head, justify="right")
    for point in found["points"]:
        opened = str(point["batch"]) if point["batch"] else f"{rate:g}/s"
        table.add_row(
            opened, f"{point['tokens_per_s']:,.0f}", f"{point['kv_gib']:.1f}", f"{point['ttft_p99_s']:.2f}"
        )
    console = Console()
    console.print(table)
    word = "can lend" if found["surplus_gib"] >= 0 else "lacks"
    console.print(
        f"{model} on {tp} x {gpu}: each GPU {word} {abs(found['surplus_gib']):.1f} GiB "
        f"({found['room_gib']:.1f} for KV cache, {found['needed_gib']:.1f} needed"
        + (")" if found["saturated"] or rate is not None else ", throughput still rising)"),
        highlight=False,
    )
