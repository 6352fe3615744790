"""Counts what a network does for one item: operations, elementwise traffic, kernels and parameters."""

from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    """One pass of a network over one item, as an eager framework runs it.

    Layers add to `flops` (two per multiplication and addition), `moved` (bytes that elementwise kernels read and
    write; those of products overlap their arithmetic and are not counted), `kernels` and `params`. A convolution
    adds its bias in a kernel of its own and has its input and output turned to the layout of tensor cores and back.
    """

    dtype_bytes: int = 2
    flops: float = 0.0
    moved: float = 0.0
    kernels: int = 0
    params: int = 0

    def conv(self, inputs: int, outputs: int, pixels: int, window: int = 9, grow: int = 1) -> None:
        """Convolve to `pixels` outputs (`grow` times the inputs) with a kernel of `window` taps."""
        self.params += inputs * outputs * window + outputs
        self.flops += 2.0 * inputs * outputs * window * pixels
        self.kernels += 1
        self.map(inputs * pixels // grow)
        self.map(outputs * pixels, times=2)

    def linear(self, inputs: int, outputs: int, tokens: int, *, bias: bool = True) -> None:
        """Multiply `tokens` rows by a matrix; the bias is added within."""
        self.params += inputs * outputs + (outputs if bias else 0)
        self.flops += 2.0 * inputs * outputs * tokens
        self.kernels += 1

    def attend(self, width: int, queries: int, keys: int) -> None:
        """Fused attention: scores and weighted sum, nothing of them in memory."""
        self.flops += 4.0 * width * queries * keys
        self.kernels += 1

    def norm(self, channels: int, places: int) -> None:
        """Read for the statistics, read again, write."""
        self.params += 2 * channels
        self._touch(3 * channels * places, 1)

    def map(self, elements: int, *, reads: int = 1, times: int = 1) -> None:
        """Elementwise kernels: each reads `reads` operands and writes one."""
        self._touch(times * (reads + 1) * elements, times)

    def _touch(self, elements: int, kernels: int) -> None:
        self.moved += elements * self.dtype_bytes
        self.kernels += kernels
