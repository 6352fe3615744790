"""Decoders from latents to pixels (Stable Diffusion's, Kandinsky's MoVQ) and from codes to sound (EnCodec)."""

from dataclasses import dataclass

from aquasim.producers.tally import Tally


@dataclass(frozen=True, slots=True)
class PixelDecoder:
    """From `size` x `size` latents to images, 2x at each of `channels` but the last; coarsest first.

    `attended`: resnets of the coarsest level attend. `spatial`: every norm is modulated by the latents through
    two 1x1 convolutions (MoVQ). `dtype_bytes`: 4 where the pipeline decodes in fp32.
    """

    size: int
    channels: tuple[int, ...]
    resnets: int
    attended: bool
    spatial: bool
    dtype_bytes: int

    def tally(self) -> Tally:
        """Return what decoding one image does."""
        tally = Tally(self.dtype_bytes)
        width, pixels = self.channels[0], self.size**2
        tally.conv(4, 4, pixels, window=1)
        tally.conv(4, width, pixels)
        self._resnet(tally, width, width, pixels)
        self._attention(tally, width, pixels)
        self._resnet(tally, width, width, pixels)
        for level, channels in enumerate(self.channels):
            for _ in range(self.resnets):
                self._resnet(tally, width, channels, pixels)
                if self.attended and level == 0:
                    self._attention(tally, channels, pixels)
                width = channels
            if level < len(self.channels) - 1:
                pixels *= 4
                tally.map(width * pixels)
                tally.conv(width, width, pixels)
        self._norm(tally, width, pixels)
        tally.conv(width, 3, pixels)
        return tally

    @property
    def live_bytes(self) -> int:
        """Most bytes of one image alive at once: in the first resnet at full size, whose inputs are widest.

        Convolution: the residual, the activated input, its copy in the layout of tensor cores, the output.
        Modulated norm: the residual, the normed input, the product, the added term, the sum.
        """
        pixels = (self.size << (len(self.channels) - 1)) ** 2
        wide, narrow = self.channels[-2], self.channels[-1]
        return pixels * (5 * wide if self.spatial else 3 * wide + narrow) * self.dtype_bytes

    def _norm(self, tally: Tally, channels: int, pixels: int) -> None:
        tally.norm(channels, pixels)
        if self.spatial:
            for _ in range(2):
                tally.conv(4, channels, pixels, window=1)
            tally.map(channels * pixels, reads=2, times=2)
        tally.map(channels * pixels)

    def _resnet(self, tally: Tally, inputs: int, outputs: int, pixels: int) -> None:
        self._norm(tally, inputs, pixels)
        tally.conv(inputs, outputs, pixels)
        self._norm(tally, outputs, pixels)
        tally.conv(outputs, outputs, pixels)
        if inputs != outputs:
            tally.conv(inputs, outputs, pixels, window=1)
        tally.map(outputs * pixels, reads=2)
        tally.map(outputs * pixels)

    def _attention(self, tally: Tally, channels: int, pixels: int) -> None:
        self._norm(tally, channels, pixels)
        for _ in range(4):
            tally.linear(channels, channels, pixels)
        tally.attend(channels, pixels, pixels)
        tally.map(channels * pixels, reads=2)


@dataclass(frozen=True, slots=True)
class SoundDecoder:
    """EnCodec's decoder, fp32: `frames` codes per clip, upsampled by `ratios`, `filters` channels at full rate."""

    frames: int
    dimension: int
    filters: int
    ratios: tuple[int, ...]
    recurrent: int

    def tally(self) -> Tally:
        """Return what decoding one clip does; the recurrent layers step through its frames."""
        tally = Tally(4)
        width, length = self.filters << len(self.ratios), self.frames
        tally.conv(self.dimension, width, length, window=7)
        for _ in range(self.recurrent):
            tally.linear(2 * width, 4 * width, length)
        for ratio in self.ratios:
            length *= ratio
            tally.map(width * length // ratio)
            tally.conv(width, width // 2, length, window=2, grow=ratio)
            width //= 2
            tally.map(width * length, times=2)
            tally.conv(width, width // 2, length, window=3)
            tally.conv(width // 2, width, length, window=1)
            tally.map(width * length, reads=2)
        tally.map(width * length)
        tally.conv(width, 1, length, window=7)
        return tally

    @property
    def live_bytes(self) -> int:
        """Most bytes of one clip alive at once: residual, activation, its copy and the output at full rate."""
        length = self.frames
        for ratio in self.ratios:
            length *= ratio
        return 4 * self.filters * length * 4
