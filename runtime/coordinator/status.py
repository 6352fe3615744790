"""What there is to see of a coordinator: leases, donors and consumers as JSON, the same as Prometheus metrics."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from aquasim.core.leases import Extent, Process, Record, State
from aquasim.runtime.coordinator import identity

if TYPE_CHECKING:
    from aquasim.runtime.coordinator.server import Server

SCHEMA = "aquasim.coordinator/1"
_LENT = (State.LEASED, State.DRAINING, State.REVOKED, State.ORPHANED, State.CLAIMED)


def as_json(server: "Server") -> str:
    """Return everything as a JSON object; times in seconds, sizes in bytes."""
    return json.dumps(snapshot(server))


def snapshot(server: "Server") -> dict[str, Any]:
    """Return everything as plain values. Looking changes nothing: expiry is not even looked at."""
    now, machine = time.monotonic_ns(), server.machine
    return {
        "schema": SCHEMA,
        "uptime_s": (now - server.started) / 1e9,
        "lease_s": machine.lease_ns / 1e9,
        "drain_s": machine.drain_ns / 1e9,
        "near": {name: list(donors) for name, donors in machine.near.items()},
        "donors": [_donor(server, donor, now) for donor in sorted(machine.donors)],
        "consumers": [_consumer(server, consumer, now) for consumer in sorted(machine.consumers)],
        "extents": [
            _extent(server, extent, record, now) for extent, record in sorted(machine.records.items())
        ],
        "counts": dict(server.counts),
    }


def _donor(server: "Server", donor: Process, now: int) -> dict[str, Any]:
    view = server.machine.donors[donor]
    own = [r for e, r in server.machine.records.items() if e.donor == donor]
    return {
        **_process(server, donor),
        "age_s": (now - view.heard) / 1e9,
        "donated_bytes": sum(r.bytes for r in own),
        "lent_bytes": sum(r.bytes for r in own if r.state in _LENT),
        "owed_bytes": view.owed,
    }


def _consumer(server: "Server", consumer: Process, now: int) -> dict[str, Any]:
    view = server.machine.consumers[consumer]
    held = [r for r in server.machine.records.values() if r.owner == consumer and r.state in _LENT]
    return {
        **_process(server, consumer),
        "age_s": (now - view.heard) / 1e9,
        "want_bytes": view.want,
        "held_bytes": sum(r.bytes for r in held),
    }


def _process(server: "Server", process: Process) -> dict[str, Any]:
    pid = identity.life(process).pid
    return {"name": process.name, "pid": pid, "run": process.run, "connected": process in server.sessions}


def _extent(server: "Server", extent: Extent, record: Record, now: int) -> dict[str, Any]:
    path = server.paths.get(extent)
    leased = record.state is State.LEASED
    return {
        "donor": extent.donor.name,
        "donor_run": extent.donor.run,
        "number": extent.number,
        "epoch": record.epoch,
        "bytes": record.bytes,
        "state": record.state.name.lower(),
        "consumer": record.owner.name if record.owner else None,
        "consumer_run": record.owner.run if record.owner else None,
        "expires_in_s": (record.expires - now) / 1e9 if leased else None,
        "overdue": extent in server.overdue,
        "transport": path[1].transport if path else None,
        "write_bytes_per_s": path[1].write if path else None,
        "read_bytes_per_s": path[1].read if path else None,
    }


# --- Prometheus ----------------------------------------------------------------------------------------------


def as_metrics(server: "Server") -> str:
    """Return metrics in Prometheus' text format 0.0.4; names of processes need no escaping (`codec.name`)."""
    return (
        "\n".join(
            line for name, kind, text, rows in _metrics(server) for line in _lines(name, kind, text, rows)
        )
        + "\n"
    )


Rows = Iterable[tuple[dict[str, str], float]]


def _lines(name: str, kind: str, text: str, rows: Rows) -> Iterator[str]:
    yield f"# HELP aquasim_{name} {text}"
    yield f"# TYPE aquasim_{name} {kind}"
    for labels, value in rows:
        inner = ",".join(f'{key}="{word}"' for key, word in labels.items())
        yield f"aquasim_{name}{'{' + inner + '}' if inner else ''} {value:.17g}"


def _metrics(server: "Server") -> Iterator[tuple[str, str, str, Rows]]:
    seen = snapshot(server)
    size: Counter[tuple[str, str]] = Counter()
    for extent in seen["extents"]:
        size[extent["donor"], extent["state"]] += extent["bytes"]
    states = [state.name.lower() for state in State]
    donors = sorted({donor["name"] for donor in seen["donors"]} | {key[0] for key in size})
    rows = [({"donor": d, "state": s}, float(size[d, s])) for d in donors for s in states]
    yield "extent_bytes", "gauge", "Donated bytes by state.", rows
    yield "overdue_drains", "gauge", "Leases not left by their drain deadline.", [({}, len(server.overdue))]
    for role in ("donor", "consumer"):
        people = seen[f"{role}s"]
        ages = [({role: p["name"], "pid": str(p["pid"])}, p["age_s"]) for p in people]
        yield f"{role}_report_age_seconds", "gauge", f"Since the last report of each {role}.", ages
    wants = [({"consumer": p["name"], "pid": str(p["pid"])}, p["want_bytes"]) for p in seen["consumers"]]
    yield "consumer_want_bytes", "gauge", "Bytes that each consumer would like in all.", wants
    owed = [({"donor": p["name"], "pid": str(p["pid"])}, p["owed_bytes"]) for p in seen["donors"]]
    yield "donor_owed_bytes", "gauge", "Bytes that each donor wants back.", owed
    yield "uptime_seconds", "gauge", "Since the coordinator started.", [({}, seen["uptime_s"])]
    for name, value in seen["counts"].items():
        yield f"{name}_total", "counter", f"Of {name} since the start.", [({}, value)]
