"""Requests whose LoRA adapter is on its way: they arrive at the scheduler once it is in one of the runner's slots."""

from typing import TYPE_CHECKING, Any

from aquasim.core import Arrived
from aquasim.errors import UserError
from aquasim.records.tables import RunTables
from aquasim.runtime.executor.sequence import Sequence

if TYPE_CHECKING:
    from aquasim.runtime.lora import LoraCache


class Adapters:
    """Holds requests back for `loras`; without any, nobody is held."""

    def __init__(self) -> None:
        self.loras: LoraCache | None = None
        self._held: dict[int, Arrived] = {}

    def number(self, name: str | None) -> int:
        """Return an adapter's number, -1 for no name; UserError for one that is none."""
        if name is None:
            return -1
        if self.loras is None:
            raise UserError(f"adapter {name!r} is asked for, and this engine has none")
        return self.loras.number(name)

    def hold(self, arrived: Arrived) -> bool:
        """Whether a request has to wait; `ready` tells when it need not any more."""
        if self.loras is None or arrived.adapter < 0 or self.loras.submit(arrived.request, arrived.adapter):
            return False
        self._held[arrived.request] = arrived
        return True

    def drop(self, id: int) -> bool:
        """A request will not run; say whether it was held."""
        return self._held.pop(id, None) is not None

    def ready(self, tables: RunTables) -> tuple[list[Arrived], list[tuple[int, str]]]:
        """Return who need not wait any more, and who never will run and why; note what was fetched."""
        if self.loras is None:
            return [], []
        ready, failed = self.loras.ready()
        for id, _ in failed:
            del self._held[id]
        for each in self.loras.loads:
            tables.fetch(each.start, each.end, each.number, each.source, each.nbytes)
        self.loras.loads.clear()
        return [self._held.pop(id) for id in ready], failed

    def options(self, sequence: Sequence) -> dict[str, Any]:
        """Return what a request's rows say of its adapter."""
        return {} if self.loras is None else {"adapter": self.loras.slot(sequence.adapter)}

    def gone(self, sequence: Sequence) -> None:
        """A request has left."""
        if self.loras is not None and sequence.adapter >= 0:
            self.loras.gone(sequence.id, sequence.adapter)
