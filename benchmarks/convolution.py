# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Speed of convolutional networks with a leaf axis: forward and backward, on one thread, in CPU milliseconds.

Contenders compute what :class:`~pyro_spvae.nn.Conv` computes, from its parameters. They take turns in one process and
the median over the rounds is given. Run ``python -m benchmarks.convolution``.
"""

from __future__ import annotations

import statistics
import time
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_spvae.nn import Conv

BATCH, PARTICLES, ROUNDS = 128, 5, 7
MOST_ENTRIES = 5_000_000  # of a dense matrix that stands for a convolution


class Case(NamedTuple):
    """A network of the SPVAE paper and of its neighbourhood."""

    name: str
    leaves: int
    shape: tuple[int, int, int]
    latent: int
    filters: tuple[int, ...]
    stride: int


CASES = [
    Case("Conv-SPVAE, MNIST", 32, (1, 7, 7), 25, (4, 8), 1),
    Case("Conv-VAE, MNIST", 1, (1, 28, 28), 200, (32, 64), 2),
    Case("32 leaves, stride 2", 32, (1, 8, 8), 25, (4, 8), 2),
    Case("32 leaves, more filters", 32, (1, 7, 7), 25, (16, 32), 1),
]


class Grouped:
    """One convolution with as many groups as leaves.

    :param bool channels_last: order of the images in memory.
    """

    def __init__(self, leaves: int, channels_last: bool) -> None:
        self.leaves = leaves
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def enter(self, h: Tensor, channels: int, sides: list[int]) -> Any:
        """Images of this contender from ``[leaf, N, channel * height * width]``."""
        images = h.transpose(0, 1).reshape(h.size(1), self.leaves * channels, *sides)
        return images.contiguous(memory_format=self.memory_format)

    def leave(self, images: Any) -> Tensor:
        """The way back."""
        return images.reshape(images.size(0), self.leaves, -1).transpose(0, 1)

    def activate(self, images: Any) -> Any:
        return F.softplus(images)

    def convolve(self, images: Any, kernel: Tensor, bias: Tensor, stride: int, sides: list[int]) -> Any:
        """Convolution with kernels ``[leaf, out, in, 3, 3]``."""
        return F.conv2d(images, kernel.flatten(0, 1), bias.flatten(), stride, padding=1, groups=self.leaves)

    def transpose(self, images: Any, kernel: Tensor, bias: Tensor, stride: int, sides: list[int]) -> Any:
        """Transposed convolution with kernels ``[leaf, in, out, 3, 3]`` to images of the given sides."""
        more = _missing(images, stride, sides)
        kernel, bias = kernel.flatten(0, 1), bias.flatten()
        return F.conv_transpose2d(images, kernel, bias, stride, 1, output_padding=more, groups=self.leaves)


class Loop(Grouped):
    """A convolution for each leaf."""

    def __init__(self, leaves: int) -> None:
        super().__init__(leaves, False)

    def enter(self, h: Tensor, channels: int, sides: list[int]) -> Any:
        return [leaf.unflatten(1, (channels, *sides)) for leaf in h]

    def leave(self, images: Any) -> Tensor:
        return torch.stack([leaf.flatten(1) for leaf in images])

    def activate(self, images: Any) -> Any:
        return [F.softplus(leaf) for leaf in images]

    def convolve(self, images: Any, kernel: Tensor, bias: Tensor, stride: int, sides: list[int]) -> Any:
        return [F.conv2d(leaf, k, b, stride, padding=1) for leaf, k, b in zip(images, kernel, bias, strict=True)]

    def transpose(self, images: Any, kernel: Tensor, bias: Tensor, stride: int, sides: list[int]) -> Any:
        more = _missing(images[0], stride, sides)
        leaves = zip(images, kernel, bias, strict=True)
        return [F.conv_transpose2d(leaf, k, b, stride, 1, output_padding=more) for leaf, k, b in leaves]


class Unfolded(Grouped):
    """Neighbourhoods as columns of a matrix (im2col), one matrix product for each leaf."""

    def __init__(self, leaves: int) -> None:
        super().__init__(leaves, False)

    def enter(self, h: Tensor, channels: int, sides: list[int]) -> Any:
        return h.unflatten(2, (channels, *sides))

    def leave(self, images: Any) -> Tensor:
        return images.flatten(2)

    def convolve(self, images: Any, kernel: Tensor, bias: Tensor, stride: int, sides: list[int]) -> Any:
        rows = images.size(1)
        columns = F.unfold(images.flatten(0, 1), 3, padding=1, stride=stride)  # [L * N, in * 9, pixel]
        columns = columns.unflatten(0, (self.leaves, rows)).transpose(1, 2).flatten(2)
        out = torch.baddbmm(bias.unsqueeze(2), kernel.flatten(2), columns)  # [L, out, N * pixel]
        return out.unflatten(2, (rows, *sides)).transpose(1, 2)

    def transpose(self, images: Any, kernel: Tensor, bias: Tensor, stride: int, sides: list[int]) -> Any:
        rows = images.size(1)
        columns = torch.bmm(kernel.flatten(2).transpose(1, 2), images.transpose(1, 2).flatten(2))
        columns = columns.unflatten(2, (rows, -1)).transpose(1, 2).flatten(0, 1)  # [L * N, out * 9, pixel]
        out = F.fold(columns, (sides[0], sides[1]), 3, padding=1, stride=stride)
        return out.unflatten(0, (self.leaves, rows)) + bias[:, None, :, None, None]


class Banded(Grouped):
    """A convolution as one dense matrix for each leaf, made from the kernel by scattering."""

    def __init__(self, leaves: int) -> None:
        super().__init__(leaves, False)

    def enter(self, h: Tensor, channels: int, sides: list[int]) -> Any:
        self.sides = sides
        return h.unflatten(2, (channels, -1)).transpose(2, 3)  # [L, N, pixel, channel]

    def leave(self, images: Any) -> Tensor:
        return images.transpose(2, 3).flatten(2)

    def convolve(self, images: Any, kernel: Tensor, bias: Tensor, stride: int, sides: list[int]) -> Any:
        small, large, tap = _touching(sides, self.sides, stride)
        return self._product(images, kernel.flatten(3).permute(0, 3, 2, 1)[:, tap], bias, large, small, sides)

    def transpose(self, images: Any, kernel: Tensor, bias: Tensor, stride: int, sides: list[int]) -> Any:
        small, large, tap = _touching(self.sides, sides, stride)
        return self._product(images, kernel.flatten(3).permute(0, 3, 1, 2)[:, tap], bias, small, large, sides)

    def _product(
        self, images: Tensor, entries: Tensor, bias: Tensor, source: Tensor, target: Tensor, sides: list[int]
    ) -> Tensor:
        """The product with the matrix of the ``entries [leaf, pair, in, out]`` of pairs of pixels."""
        self.sides = sides
        _, _, pixels, channels = images.shape
        matrix = entries.new_zeros(self.leaves, pixels, sides[0] * sides[1], channels, bias.size(1))
        matrix[:, source, target] = entries
        matrix = matrix.transpose(2, 3).flatten(3).flatten(1, 2)  # [L, pixel * in, pixel * out]
        bias = bias.repeat(1, sides[0] * sides[1]).unsqueeze(1)
        return torch.baddbmm(bias, images.flatten(2), matrix).unflatten(2, (sides[0] * sides[1], -1))


def _touching(small: list[int], large: list[int], stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of pixels before and after a convolution from large to small that the kernel joins, and where in it."""
    pairs = [
        (row * small[1] + column, (row * stride + i - 1) * large[1] + column * stride + j - 1, 3 * i + j)
        for row in range(small[0])
        for column in range(small[1])
        for i in range(3)
        for j in range(3)
        if 0 <= row * stride + i - 1 < large[0] and 0 <= column * stride + j - 1 < large[1]
    ]
    return cast("tuple[Tensor, Tensor, Tensor]", torch.tensor(pairs).unbind(1))


def _missing(images: Tensor, stride: int, sides: list[int]) -> list[int]:
    return [side - (short - 1) * stride - 1 for side, short in zip(sides, images.shape[-2:], strict=True)]


def _by(contender: Grouped, network: Conv, x: Tensor) -> Tensor:
    """What the network computes, its convolutions made by a contender; outputs side by side."""
    layers: Any = network.layers
    decoding = hasattr(layers, "dense")
    channels, sides = layers.channels, layers.sides
    if decoding:
        (x,), channels, sides = layers.dense(x), channels[::-1], sides[::-1]
    images = contender.enter(x, channels[0], sides[0])
    convolutions = layers.convolutions()
    for place, (kernel, bias) in enumerate(convolutions):
        step = contender.transpose if decoding else contender.convolve
        images = step(images, kernel, bias, layers.stride, sides[place + 1])
        if not decoding or place + 1 < len(convolutions):
            images = contender.activate(images)
    h = contender.leave(images)
    return h if decoding else torch.cat(layers.trunk(h), -1)


def _networks(case: Case) -> dict[str, tuple[Conv, Tensor]]:
    """Encoder and decoder, each with its input ``[N, leaf, in]``, leaf first in memory."""
    pixels = case.shape[0] * case.shape[1] * case.shape[2]
    encoder, decoder = (Conv(case.filters, case.stride, output_gain=1.0) for _ in range(2))
    encoder.bind(leaves=case.leaves, inputs=pixels, outputs=(case.latent,) * 2, input_shape=case.shape)
    decoder.bind(leaves=case.leaves, inputs=case.latent, outputs=(pixels,) * 2, output_shape=case.shape)
    return {
        "encoder": (encoder, torch.rand(case.leaves, BATCH, pixels).transpose(0, 1)),
        "decoder": (decoder, torch.randn(case.leaves, BATCH * PARTICLES, case.latent).transpose(0, 1)),
    }


def measure() -> list[dict[str, Any]]:
    """Time all cases.

    :return: for each case, network and contender ``case``, ``network``, ``contender``, ``milliseconds`` and ``ratio``
        (to ours).
    :raises RuntimeError: if the contenders disagree.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        return [
            row
            for case in CASES
            for name, (network, x) in _networks(case).items()
            for row in _measure_network(case, name, network, x)
        ]
    finally:
        torch.set_num_threads(threads)


def _measure_network(case: Case, name: str, network: Conv, x: Tensor) -> list[dict[str, Any]]:
    contenders: dict[str, Grouped | None] = {
        "pyro-spvae": None,
        "grouped": Grouped(case.leaves, False),
        "grouped, channels last": Grouped(case.leaves, True),
        "loop over leaves": Loop(case.leaves),
        "unfolded": Unfolded(case.leaves),
    }
    if _entries(case) <= MOST_ENTRIES:
        contenders["banded matrix"] = Banded(case.leaves)
    expected = None
    times: dict[str, list[float]] = {contender: [] for contender in contenders}
    for _ in range(ROUNDS):
        for label, contender in contenders.items():
            network.zero_grad()
            start = time.process_time()
            found = _step(contender, network, x)
            times[label].append(1000 * (time.process_time() - start))
            expected = found if expected is None else expected
            if not all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(found, expected, strict=True)):
                raise RuntimeError(f"{label} disagrees on the {name} of {case.name}.")
    medians = {label: statistics.median(taken) for label, taken in times.items()}
    return [
        {
            "case": case.name,
            "network": name,
            "contender": label,
            "milliseconds": median,
            "ratio": median / medians["pyro-spvae"],
        }
        for label, median in medians.items()
    ]


def _entries(case: Case) -> int:
    """Entries of the matrix of the widest convolution, all leaves."""
    pixels = [case.shape[1] * case.shape[2]]
    for _ in case.filters:
        pixels.append(-(-pixels[-1] // case.stride**2))
    channels = (2 * case.shape[0], *case.filters)
    sizes = [pixel * channel for pixel, channel in zip(pixels, channels, strict=True)]
    return case.leaves * max(before * after for before, after in zip(sizes[:-1], sizes[1:], strict=True))


def _step(contender: Grouped | None, network: Conv, x: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs, and the gradient to the input; gradients to the parameters are computed, too."""
    x = x.detach().requires_grad_()
    out = torch.cat(network(x), -1) if contender is None else _by(contender, network, x.transpose(0, 1)).transpose(0, 1)
    out.square().mean().mul(1000).backward()
    assert x.grad is not None
    return out.detach(), x.grad


def table(rows: list[dict[str, Any]]) -> str:
    """The rows of :func:`measure` as a Markdown table."""
    lines = [
        f"| network | contender | encoder of {BATCH}, CPU ms | times ours | decoder of {BATCH * PARTICLES}, CPU ms "
        "| times ours |",
        "|---|---|---|---|---|---|",
    ]
    for case in CASES:
        own = [row for row in rows if row["case"] == case.name]
        for label in dict.fromkeys(row["contender"] for row in own):
            figures = [
                f"{row['milliseconds']:.1f} | {row['ratio']:.2f}"
                for name in ("encoder", "decoder")
                for row in own
                if (row["network"], row["contender"]) == (name, label)
            ]
            lines.append(f"| {case.name} | {label} | {' | '.join(figures)} |")
    return "\n".join(lines)


def main() -> list[dict[str, Any]]:
    """Measure and print."""
    rows = measure()
    print(table(rows))
    return rows


if __name__ == "__main__":
    main()
