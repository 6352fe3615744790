"""`trace` and `schedule`: look at decisions and time lines."""

import json
import math
import sys
from hashlib import blake2b
from pathlib import Path
from typing import Any

from aquasim.cli.targets import check_file
from aquasim.errors import UserError


def trace_command(
    run: Path, out: Path | None, start: float | None, end: float | None, overwrite: bool
) -> None:
    """Write a run's time line as Chrome trace events."""
    from aquasim.records.perfetto import EmptyWindowError, write_trace
    from aquasim.records.store import DAMAGED, load_or_say, reason

    target = out or run / "trace.json.gz"
    _check_window(start, end)
    check_file(target, overwrite or out is None)
    record = load_or_say(run)
    try:
        write_trace(record, target, start_s=start, end_s=end)
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror}") from None
    except EmptyWindowError as error:
        raise UserError(f"{_window(start, end)}: {error}") from None
    except DAMAGED as error:
        raise UserError(f"{run}: its records do not fit together: {reason(error)}") from None
    print(target)


def _check_window(start: float | None, end: float | None) -> None:
    for option, value in (("--start", start), ("--end", end)):
        if value is not None and not math.isfinite(value):
            raise UserError(f"{option} {value:g}: a finite number of seconds is needed")
    if start is not None and end is not None and not start < end:
        raise UserError(f"{_window(start, end)}: the end must be after the start")


def _window(start: float | None, end: float | None) -> str:
    """Return the options as they were given."""
    given = {"--start": start, "--end": end}
    return " ".join(f"{option} {value:g}" for option, value in given.items() if value is not None)


REQUIRED = ("num_blocks", "requests")
LIMIT_KEYS = (
    "num_blocks",
    "block_size",
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_model_len",
    "long_prefill_token_threshold",
    "prefix_caching",
    "prefill",
    "tiers",
    "requests",
)


def schedule_command(file: Path, policy: str, options: list[str]) -> None:
    """Run a workload through a policy and print what each iteration schedules."""
    from aquasim.core import make_policy
    from aquasim.core.events import Reject
    from aquasim.core.iterate import iterate

    data = _read(file)
    try:
        chosen = make_policy(policy, **dict(_option(text) for text in options))
    except ValueError as error:
        raise UserError(str(error)) from None
    except TypeError:
        raise UserError(
            f"--option {' '.join(options)}: a value is of the wrong kind for {policy!r}"
        ) from None
    limits = _limits(file, data, policy)
    _check_lanes(file, limits, chosen, policy)
    jobs = [_job(file, i, row, limits.block_size) for i, row in enumerate(data["requests"])]
    for row in iterate(limits, chosen, jobs):
        if isinstance(row, Reject):
            print(f"request {row.request} rejected: {row.reason}", file=sys.stderr)
        else:
            print(json.dumps({**row._asdict(), "preempted": [str(id) for id in sorted(row.preempted)]}))


def _check_lanes(file: Path, limits: Any, policy: Any, name: str) -> None:
    """Refuse what cannot be scheduled without a clock, or on an engine of these sizes."""
    from aquasim.core import lanes

    if policy.lanes is not None and policy.lanes.host:
        raise UserError(
            f"--policy {name}: it weighs what a host takes, which only a scenario says: aquasim run"
        )
    try:
        lanes.check(limits, policy)
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None


def _read(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{file}: not JSON: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{file}: a JSON object is needed, with keys {', '.join(LIMIT_KEYS)}")
    for key in REQUIRED:
        if key not in data:
            raise UserError(f"{file}: key {key!r} is missing")
    for key in data:
        if key not in LIMIT_KEYS:
            raise UserError(f"{file}: unknown key {key!r}; valid: {', '.join(LIMIT_KEYS)}")
    if not isinstance(data["requests"], list) or not data["requests"]:
        raise UserError(f"{file}: requests must be a list of at least one request")
    return data


def _option(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign:
        raise UserError(f"--option {text}: write KEY=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _limits(file: Path, data: dict[str, Any], policy: str) -> Any:
    """Return the limits of a file. vLLM keeps block 0 for itself, so one block less is usable."""
    from aquasim.core import Limits

    def whole(key: str, default: int, least: int) -> int:
        value = data.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"{file}: {key} is {value!r}; a whole number >= {least} is needed")
        return value

    blocks = whole("num_blocks", 0, 2) - 1
    size = whole("block_size", 16, 1)
    prefill = data.get("prefill", "prompt-only" if policy == "fcfs-v0" else "chunked")
    if prefill not in ("chunked", "prompt-only"):
        raise UserError(f"{file}: prefill is {prefill!r}; valid: chunked, prompt-only")
    if not isinstance(data.get("prefix_caching", False), bool):
        raise UserError(f"{file}: prefix_caching is {data['prefix_caching']!r}; valid: true, false")
    tiers = data.get("tiers", {})
    if not isinstance(tiers, dict) or not all(isinstance(n, int) and n >= 0 for n in tiers.values()):
        raise UserError(f"{file}: tiers is {tiers!r}; a table of names and numbers of blocks is needed")
    try:
        return Limits(
            blocks=blocks,
            block_size=size,
            max_num_seqs=whole("max_num_seqs", 256, 1),
            max_num_batched_tokens=whole("max_num_batched_tokens", 2048, 1),
            max_model_len=min(whole("max_model_len", blocks * size, 1), blocks * size),
            long_prefill_token_threshold=whole("long_prefill_token_threshold", 0, 0),
            prefix_caching=data.get("prefix_caching", False),
            prefill=prefill,
            tiers=tuple(tiers.items()),
        )
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None


def _job(file: Path, index: int, row: Any, block_size: int) -> Any:
    from aquasim.core.iterate import Job

    where = f"{file}: requests[{index}]"
    if not isinstance(row, dict):
        raise UserError(f"{where}: an object with step, prompt and output is needed")
    valid = ("step", "prompt", "output", "priority")
    for key in row:
        if key not in valid:
            raise UserError(f"{where}: unknown key {key!r}; valid: {', '.join(valid)}")
    for key, least, default in (("step", 0, None), ("output", 1, None), ("priority", -(1 << 62), 0)):
        value = row.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"{where}: {key} is {value!r}; a whole number >= {least} is needed")
    prompt = row.get("prompt")
    if isinstance(prompt, list) and prompt and all(isinstance(token, int) for token in prompt):
        return Job(row["step"], len(prompt), row["output"], chain(prompt, block_size), row.get("priority", 0))
    if not isinstance(prompt, int) or isinstance(prompt, bool) or prompt < 1:
        raise UserError(
            f"{where}: prompt is {prompt!r}; a number of tokens >= 1 or a list of token ids is needed"
        )
    return Job(row["step"], prompt, row["output"], (), row.get("priority", 0))


def chain(tokens: list[int], block_size: int) -> tuple[int, ...]:
    """Return one hash per full block of a prompt, each covering all tokens up to its block's end."""
    hashes = []
    state = blake2b(digest_size=8)
    for start in range(0, len(tokens) // block_size * block_size, block_size):
        state.update(json.dumps(tokens[start : start + block_size]).encode())
        hashes.append(int.from_bytes(state.copy().digest(), "big"))
    return tuple(hashes)
