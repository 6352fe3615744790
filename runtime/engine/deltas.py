"""What a LoRA adapter adds to the model's products, as the runner asks for it."""

from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

Group = Literal["qkv", "output", "gate_up", "down"]
"""A product of the model: projections that read the same rows are one."""


class Delta(Protocol):
    """Adds to one product of one layer, for the rows that it was made for."""

    def __call__(self, layer: int, group: Group, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        """Add to `outputs` `[rows, outputs]`, in place, what adapters make of `inputs` `[rows, inputs]`."""


class Loras(Protocol):
    """Adapters in slots of the device's memory (`aquasim.runtime.lora.LoraSlots`)."""

    count: int
    """Slots."""

    def delta(self, slots: npt.NDArray[np.int64], padded: int) -> Delta | None:
        """Return what to add for rows whose adapters are in `slots` `[rows]` (-1: none); None: nothing at all.

        `padded`: products run at exactly that many rows, so that no row's bits depend on the others.
        """

    def masked(self, slots: torch.Tensor) -> Delta:
        """Return the same for slots that are known on the device only: for CUDA graphs."""
