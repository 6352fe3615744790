"""U-Nets of latent diffusion, counted layer by layer from their published shapes."""

from dataclasses import dataclass

from aquasim.producers.tally import Tally


@dataclass(frozen=True, slots=True)
class UNet:
    """A U-Net over `size` x `size` latents, by resolution from the finest to the coarsest.

    `depths` are the transformer blocks of one attention layer at each resolution (0: none). `style` is
    "transformer" (Stable Diffusion: self-attention, attention to the text and a gated feed-forward per block) or
    "added" (Kandinsky 2: one attention over pixels and context, no feed-forward; resnets resample and are modulated).
    """

    size: int
    channels: tuple[int, ...]
    depths: tuple[int, ...]
    layers: int
    context: int
    context_tokens: int
    embedded: int
    """Width of what is embedded beside the time step (SDXL: pooled text and sizes; Kandinsky: the image), 0: none."""
    outputs: int
    style: str

    def tally(self) -> Tally:
        """Return what one pass over one latent does."""
        walk = _Walk(self)
        walk.run()
        return walk.tally


class _Walk:
    """Runs through a U-Net from input to output."""

    def __init__(self, unet: UNet) -> None:
        self.unet = unet
        self.tally = Tally()
        self.time = 4 * unet.channels[0]

    def run(self) -> None:
        net, tally = self.unet, self.tally
        tally.linear(net.channels[0], self.time, 1)
        tally.linear(self.time, self.time, 1)
        if net.embedded:
            self._embed(net.embedded)
        tally.conv(4, net.channels[0], net.size**2)
        self._up(self._down())
        self._norm(net.channels[0], net.size**2)
        tally.conv(net.channels[0], net.outputs, net.size**2)

    def _embed(self, inputs: int) -> None:
        net, tally = self.unet, self.tally
        tally.linear(inputs, self.time, 1)
        if net.style == "added":
            tally.norm(self.time, 1)
            tally.linear(inputs, net.context * net.context_tokens, 1)
            tally.norm(net.context, net.context_tokens)
        else:
            tally.linear(self.time, self.time, 1)

    def _down(self) -> list[int]:
        """Return the channels of the skip connections."""
        net = self.unet
        width, skips = net.channels[0], [net.channels[0]]
        for level, channels in enumerate(net.channels):
            pixels = self._pixels(level)
            for _ in range(net.layers):
                self._resnet(width, channels, pixels)
                self._attention(channels, pixels, net.depths[level])
                width = channels
                skips.append(width)
            if level < len(net.channels) - 1:
                self._resample(width, pixels // 4)
                skips.append(width)
        self._resnet(width, width, self._pixels(level))
        self._attention(width, self._pixels(level), max(1, net.depths[-1]))
        self._resnet(width, width, self._pixels(level))
        return skips

    def _up(self, skips: list[int]) -> None:
        net, width = self.unet, self.unet.channels[-1]
        for level in reversed(range(len(net.channels))):
            channels, pixels = net.channels[level], self._pixels(level)
            for _ in range(net.layers + 1):
                joined = width + skips.pop()
                self.tally.map(joined * pixels)
                self._resnet(joined, channels, pixels)
                self._attention(channels, pixels, net.depths[level])
                width = channels
            if level > 0:
                self.tally.map(width * pixels * 4)
                self._resample(width, pixels * 4)

    def _pixels(self, level: int) -> int:
        return (self.unet.size >> level) ** 2

    def _norm(self, channels: int, pixels: int) -> None:
        """Group norm and activation."""
        self.tally.norm(channels, pixels)
        self.tally.map(channels * pixels)

    def _resample(self, channels: int, pixels: int) -> None:
        if self.unet.style == "added":
            self._resnet(channels, channels, pixels)
        else:
            self.tally.conv(channels, channels, pixels)

    def _resnet(self, inputs: int, outputs: int, pixels: int) -> None:
        modulated = self.unet.style == "added"
        tally = self.tally
        self._norm(inputs, pixels)
        tally.conv(inputs, outputs, pixels)
        tally.linear(self.time, outputs * (2 if modulated else 1), 1)
        tally.map(outputs * pixels, reads=1, times=2 if modulated else 1)
        self._norm(outputs, pixels)
        tally.conv(outputs, outputs, pixels)
        if inputs != outputs:
            tally.conv(inputs, outputs, pixels, window=1)
        tally.map(outputs * pixels, reads=2)
        tally.map(outputs * pixels)  # output scale, 1

    def _attention(self, channels: int, pixels: int, depth: int) -> None:
        if depth and self.unet.style == "added":
            self._added(channels, pixels)
        elif depth:
            tally = self.tally
            tally.norm(channels, pixels)
            tally.linear(channels, channels, pixels)
            tally.map(channels * pixels, times=2)
            for _ in range(depth):
                self._block(channels, pixels)
            tally.linear(channels, channels, pixels)
            tally.map(channels * pixels, reads=2)

    def _added(self, channels: int, pixels: int) -> None:
        """Attention over pixels and context together, projections with biases."""
        tally, tokens = self.tally, self.unet.context_tokens
        tally.norm(channels, pixels)
        tally.map(channels * pixels, times=2)
        for inputs, rows in ((channels, pixels),) * 3 + ((self.unet.context, tokens),) * 2:
            tally.linear(inputs, channels, rows)
        tally.map(channels * (pixels + tokens), times=2)
        tally.attend(channels, pixels, pixels + tokens)
        tally.linear(channels, channels, pixels)
        tally.map(channels * pixels, reads=2)

    def _block(self, channels: int, pixels: int) -> None:
        """Self-attention, attention to the context, gated feed-forward; each normed before and added after."""
        tally, tokens = self.tally, self.unet.context_tokens
        for inputs, rows in ((channels, pixels), (self.unet.context, tokens)):
            tally.norm(channels, pixels)
            tally.linear(channels, channels, pixels, bias=False)
            tally.linear(inputs, channels, rows, bias=False)
            tally.linear(inputs, channels, rows, bias=False)
            tally.attend(channels, pixels, rows)
            tally.linear(channels, channels, pixels)
            tally.map(channels * pixels, reads=2)
        tally.norm(channels, pixels)
        tally.linear(channels, 8 * channels, pixels)
        tally.map(4 * channels * pixels)
        tally.map(4 * channels * pixels, reads=2)
        tally.linear(4 * channels, channels, pixels)
        tally.map(channels * pixels, reads=2)
