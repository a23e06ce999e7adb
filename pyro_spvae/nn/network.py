# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a network of leaves is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from pyro_spvae.part import Part

_DRAWN = {"cpu": 2**25, "cuda": 2**28}  # numbers that drawing may hold at a time


class Steps(Protocol):
    """
    An autoregressive decoder evaluated at some pixels after the other, without a graph and in evaluation mode.

    Use: iterate; at each step ask for :meth:`outputs` and :meth:`put` the features of what was drawn there.
    """

    def __iter__(self) -> Iterator[Tensor]:
        """At each step, the entries of a patch that it has, ``[k]``: the first channel of its pixels, the next .."""

    def outputs(self) -> tuple[Tensor, ...]:
        """
        :returns: for each output ``[row, leaf, k * values]``; entry ``e * values + v`` is value ``v`` of the step's
            entry ``e``.
        """

    def put(self, features: Tensor) -> None:
        """
        :param Tensor features: of the step's entries, ``[row, leaf, k]``.
        """


class Network(Part):
    """
    One network for every leaf, with one or more outputs each: the decoder of a leaf model, the encoder of a guide.

    Subclasses make their parameters in ``build(leaves, inputs, outputs)``, with a leaf axis; the block that holds a
    network (:class:`~pyro_spvae.conditionals.Pixels`, :class:`~pyro_spvae.conditionals.Gaussian`) binds it. A network
    that must know how pixels lie also names ``input_shape`` and ``output_shape`` in its ``build``: an encoder gets the
    first, a decoder the second, each the channels, height and width of a patch, or ``None`` where patches are not equal
    rectangles. A decoder that names ``map_shape`` is told that of its one input, if it is a map that lies flattened.

    :cvar bool several_inputs: whether it takes several inputs, with a tuple of sizes as ``inputs``.
    :cvar bool autoregressive: whether the outputs for a pixel depend on the pixels before it, as those of a
        :class:`~pyro_spvae.nn.PixelCNN` do. Such a decoder is called with what its ``context`` returned and the pixels'
        features; ``steps`` and ``rows_at_once`` are what it is drawn from with.
    :ivar width: size of its one output, once bound, of a network that leaves the ``outputs`` it is bound with aside.

    Example::

        >>> from pyro_spvae.nn import Network
        >>> class Affine(Network):
        ...     def build(self, leaves, inputs, outputs):
        ...         weights = [0.1 * torch.randn(leaves, inputs, size) for size in outputs]
        ...         self.weights = torch.nn.ParameterList(weights)
        ...
        ...     def forward(self, x):
        ...         return tuple(torch.einsum("...li,lio->...lo", x, weight) for weight in self.weights)
        >>> spvae = SPVAE(poon_domingos((8, 8), delta=4), units=2, leaf=VAE(Bernoulli(), decoder=Affine()))
        >>> spvae.sample(3).shape
        torch.Size([3, 1, 8, 8])
    """

    several_inputs: bool = False
    autoregressive: bool = False
    width: int | None = None

    def bind(self, **sizes: Any) -> Any:
        """
        See :meth:`pyro_spvae.part.Part.bind`.

        :raises ValueError: also for several inputs of a network that takes one.
        """
        inputs = sizes.get("inputs")
        if isinstance(inputs, tuple) and len(inputs) > 1 and not self.several_inputs:
            raise ValueError(
                f"a {type(self).__name__} takes one input, but there are {len(inputs)} here; give a network of several "
                "inputs, such as Joint"
            )
        return super().bind(**sizes)

    def build(self, leaves: int, inputs: int, outputs: tuple[int, ...]) -> None:
        """
        Makes the parameters.

        :param int leaves: number of leaves.
        :param int inputs: size of the input.
        :param tuple outputs: size of each output.
        """
        raise NotImplementedError(f"{type(self).__name__} must define build(self, leaves, inputs, outputs)")

    def embed(self, first: Tensor) -> Any:
        """What follows from the first of several inputs alone, for :meth:`join`; by default the input itself."""
        return first

    def join(self, embedded: Any, *others: Tensor) -> tuple[Tensor, ...]:
        """The outputs given what :meth:`embed` returned, and the other inputs."""
        outputs: tuple[Tensor, ...] = self(embedded, *others)
        return outputs

    def context(self, *latents: Tensor) -> Tensor:
        """What an autoregressive decoder knows besides pixels, ``[.., leaf, n, height, width]``."""
        raise NotImplementedError(f"{type(self).__name__} is not autoregressive, and has no context")

    def steps(self, context: Tensor) -> Steps:
        """
        The outputs of an autoregressive decoder at some pixels after the others.

        :param Tensor context: ``[row, leaf, n, height, width]``.
        """
        raise NotImplementedError(f"{type(self).__name__} is not autoregressive, and has no steps")

    def rows_at_once(self, context: Tensor) -> int:
        """How many rows of a context :meth:`steps` takes in bounded memory."""
        raise NotImplementedError(f"{type(self).__name__} is not autoregressive, and has no steps")

    def forward(self, *inputs: Any, **options: Any) -> tuple[Tensor, ...]:
        """
        :param Tensor inputs: ``[.., leaf, in]`` each.
        :returns: one tensor ``[.., leaf, out]`` per output.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, x)")


def rows_within(numbers: int, device: torch.device) -> int:
    """
    How many rows are drawn at a time, at least 1.

    :param int numbers: that are held for each of them.
    """
    return max(1, _DRAWN.get(device.type, _DRAWN["cpu"]) // numbers)


def patch_of_decoder(name: str, input_shape: Any, output_shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """
    The shape of the patches of a network that can be no encoder.

    :param str name: of the network, for messages.
    :param input_shape: ``False`` if it was not bound as an encoder.
    :raises ValueError: if it was, or if patches are no rectangles of one shape.
    """
    if input_shape is not False:
        raise ValueError(
            f"the network {name!r} is a decoder and cannot encode patches; give it as decoder alone, and another "
            "network as encoder"
        )
    if output_shape is None:
        raise ValueError(f"the network {name!r} needs leaf regions that are equal rectangles")
    return output_shape
