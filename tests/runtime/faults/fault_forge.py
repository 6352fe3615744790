"""The server that makes processes, with engines and donors that spoil memory besides: `fault_forge.py SOCKET`."""

import random
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "coordinator"), str(HERE.parent)]

import fault_model  # noqa: E402, F401 (torch is loaded once, here)
import lease_actors  # noqa: E402
import lease_forge  # noqa: E402
import numpy as np  # noqa: E402
from fault_engine import Engine  # noqa: E402


class Spoiler(lease_actors.Donor):
    """A donor whose memory decays."""

    def flip(self, holder: str, count: int, seed: int) -> int:
        """Flip an exponent's bit in `count` floats (0: every 16th) of each extent of `holder`; return how many."""
        rng, flipped = random.Random(seed), 0
        for loan in self.client.loans():
            if loan.owner is None or loan.owner.name != holder:
                continue
            data = self._data(loan.extent)
            floats = range(3, len(data), 4)
            places = rng.sample(floats, count) if count else floats[::16]
            data[list(places)] ^= 0x40
            flipped += len(places)
        return flipped

    def empty(self) -> bool:
        """Whether all that is not lent, and was, is zeros."""
        return not any(self._data(loan.extent).any() for loan in self.client.loans() if loan.owner is None)

    def mapped(self) -> int:
        """Extents that this process maps."""
        return Path("/proc/self/maps").read_text().count("/memfd:")

    def _data(self, extent: Any) -> Any:
        return np.frombuffer(self.client._slabs._slabs[extent].arena.view(), dtype=np.uint8)


lease_actors.ACTORS |= {"engine": Engine, "donor": Spoiler}

if __name__ == "__main__":
    lease_forge.main()
