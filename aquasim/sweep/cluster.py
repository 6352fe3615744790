"""A Ray cluster behind concurrent.futures: batches as tasks, which Ray runs again where a worker or node died."""

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, redirect_stdout
from typing import Any

from aquasim.errors import UserError
from aquasim.sweep.executors import Backend, WorkerLost

PATIENCE_S = 5.0
"""For a first sign of the cluster."""
JOIN_S = 15.0
"""For joining it, once there was one."""
RETRIES = 3
"""Times that Ray runs a task again whose worker died."""


class RayExecutor(Executor):
    """Submits functions to a cluster that `ray.init` has joined."""

    def __init__(self) -> None:
        import ray

        self._ray = ray
        self._task = ray.remote(max_retries=RETRIES, num_cpus=1)(_call)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See Executor; a future whose worker died for good has `WorkerLost`, a BrokenExecutor."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        answer: Future[Any] = self._task.remote(fn, args, kwargs).future()
        answer.add_done_callback(lambda done: self._settle(done, future))
        return future

    def _settle(self, done: Future[Any], future: Future[Any]) -> None:
        error = done.exception()
        if error is None:
            future.set_result(done.result())
        elif isinstance(error, self._ray.exceptions.RayTaskError):
            future.set_exception(error.cause if isinstance(error.cause, Exception) else error)
        else:
            future.set_exception(WorkerLost(str(error).split("\n")[0]))


def _call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return fn(*args, **kwargs)


class Cluster:
    """The cluster as a backend."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.executor: Executor = RayExecutor()

    def renew(self) -> None:
        """Nothing: the cluster looks after its workers."""


@contextmanager
def cluster(address: str, workers: int | None = None) -> Iterator[Backend]:
    """Join a Ray cluster ("HOST:PORT", or "auto": the one on this machine), and leave it at the end.

    Raises:
        UserError: Ray is not installed, or nothing answers at the address in seconds.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_LOG_TO_STDERR", "0")
    _check(address)
    try:
        import ray
    except ImportError:
        raise UserError("--ray: Ray is not installed; pip install 'aquasim[cluster]'") from None
    _join(ray, address)
    try:
        cores = int(_resources(ray).get("CPU", 0))
        if not cores:
            raise UserError(f"--ray {address}: the cluster has no CPU for tasks")
        with redirect_stdout(sys.stderr):  # Ray's remarks on nodes that die belong there
            yield Cluster(min(workers or cores, cores))
    finally:
        ray.shutdown()


def _resources(ray: Any) -> dict[str, float]:
    found: dict[str, float] = ray.cluster_resources()
    return found


def _check(address: str) -> None:
    """Refuse at once an address where nothing listens; Ray itself would try for a minute."""
    if address in ("auto", "local"):
        return
    host, sign, port = address.removeprefix("ray://").rpartition(":")
    if not sign or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f'--ray {address}: write HOST:PORT (of "ray start --head"), or auto')
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE_S).close()
    except OSError as error:
        raise UserError(f"--ray {address}: nothing answers there ({error.strerror or error})") from None


def _join(ray: Any, address: str) -> None:
    """Join within `JOIN_S`: what listens there may be no cluster."""
    found: list[BaseException | None] = []

    def join() -> None:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            found.append(None)
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=join, daemon=True)
    thread.start()
    thread.join(JOIN_S)
    if not found:
        raise UserError(f"--ray {address}: no Ray cluster answers there within {JOIN_S:.0f} s")
    if found[0] is not None:
        reason = " ".join(str(found[0]).split())[:200]
        raise UserError(f"--ray {address}: cannot be joined: {reason}") from None
