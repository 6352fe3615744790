"""Tables of collective and point-to-point operations between GPUs: apex_plus and vidur."""

import numpy as np

from aquasim.calibrate.importers.table import Format, Table
from aquasim.calibrate.samples import Samples, make_samples
from aquasim.errors import UserError

_APEX_NAMES = {"all_reduce": "all_reduce", "sendrecv": "send_recv"}


def _apex(table: Table) -> list[Samples]:
    """apex_plus has the same columns for every operation, so the file's name says which it is."""
    stem = table.path.name.split(".")[0]
    if stem not in _APEX_NAMES:
        return []
    table = table.rows(np.asarray((table.texts("dtype") == "half") & (table.numbers("size(kb)") > 0)))
    columns = {
        "gpus": table.numbers("num_gpus_per_node"),
        "bytes": table.numbers("size(kb)") * 1024,
        "kernel": "nccl",
    }
    return [make_samples(_APEX_NAMES[stem], table.source, columns, table.seconds())]


def _vidur_all_reduce(table: Table) -> list[Samples]:
    """Workers of one node only."""
    table = table.rows(table.numbers("num_workers") == table.numbers("devices_per_node"))
    return [_vidur(table, "all_reduce", "num_workers")]


def _vidur_send(table: Table) -> list[Samples]:
    """Two devices of one node; a device on each of two nodes is another thing."""
    table = table.rows(table.numbers("devices_per_node") == 2)
    return [_vidur(table, "send_recv", "num_workers")]


def _vidur(table: Table, operator: str, gpus: str) -> Samples:
    """Return the median over the ranks at each size; times are milliseconds."""
    column = f"time_stats.{operator}.median"
    if not len(table.frame):
        raise UserError(f"{table.path}: no row of {operator} within one node")
    table.times(column, 1.0)
    grouped = table.frame.groupby([gpus, "size"])[column].median()
    index = grouped.index.to_frame()
    columns = {"gpus": index[gpus].to_numpy(float), "bytes": index["size"].to_numpy(float), "kernel": "nccl"}
    return make_samples(operator, table.source, columns, grouped.to_numpy(float) * 1e-3)


FORMATS = (
    Format("operations between GPUs", ("num_gpus_per_node", "dtype", "size(kb)"), _apex),
    Format(
        "all-reduce between workers",
        ("time_stats.all_reduce.median", "num_workers", "size", "devices_per_node"),
        _vidur_all_reduce,
        timed="time_stats.all_reduce.median",
    ),
    Format(
        "sends between workers",
        ("time_stats.send_recv.median", "num_workers", "size", "devices_per_node"),
        _vidur_send,
        timed="time_stats.send_recv.median",
    ),
)
