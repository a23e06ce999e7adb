# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a network of leaves is."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyro_spvae.part import Part


class Network(Part):
    """
    One network for every leaf, with one or more outputs each: the decoder of a leaf model, the encoder of a guide.

    Subclasses make their parameters in ``build(leaves, inputs, outputs)``, with a leaf axis; the block that holds a
    network (:class:`~pyro_spvae.blocks.Pixels`, :class:`~pyro_spvae.blocks.Gaussian`) binds it. A network that must
    know how pixels lie also names ``input_shape`` and ``output_shape`` in its ``build``: an encoder gets the first, a
    decoder the second, each the channels, height and width of a patch, or ``None`` where patches are not equal
    rectangles. A decoder that names ``map_shape`` is told that of its one input, if it is a map that lies flattened.

    :cvar bool several_inputs: whether it takes several inputs, with a tuple of sizes as ``inputs``.
    :cvar bool autoregressive: whether the outputs for a pixel depend on the pixels before it, as those of a
        :class:`~pyro_spvae.nn.PixelCNN` do. Such a decoder is called with what its ``context`` returned and the pixels'
        features.
    :ivar width: size of its one output, once bound, of a network that leaves the ``outputs`` it is bound with aside.

    Example::

        class Affine(Network):
            def build(self, leaves, inputs, outputs):
                self.weights = nn.ParameterList(0.1 * torch.randn(leaves, inputs, size) for size in outputs)

            def forward(self, x):
                return tuple(torch.einsum("...li,lio->...lo", x, weight) for weight in self.weights)
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

    def forward(self, *inputs: Any, **options: Any) -> tuple[Tensor, ...]:
        """
        :param Tensor inputs: ``[.., leaf, in]`` each.
        :returns: one tensor ``[.., leaf, out]`` per output.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, x)")
