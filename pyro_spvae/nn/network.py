# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a network of leaves is."""

from __future__ import annotations

from torch import Tensor, nn

from pyro_spvae.nn.part import Part


class Network(Part, nn.Module):
    """
    One network for every leaf, with one or more outputs each: the decoder of a leaf model, the encoder of a guide.

    Subclasses make their parameters in ``build(leaves, inputs, outputs)``, with a leaf axis; the part that holds a
    network (:class:`~pyro_spvae.models.VAE`, :class:`~pyro_spvae.guides.NormalGuide`) binds it. A network that must
    know how pixels lie also names ``input_shape`` and ``output_shape`` in its ``build``: an encoder gets the first, a
    decoder the second, each the channels, height and width of a patch, or ``None`` where patches are not equal
    rectangles.

    :cvar bool autoregressive: whether the outputs for a pixel depend on the pixels before it, as those of a
        :class:`~pyro_spvae.nn.PixelCNN` do. Such a decoder is called with what its ``context`` returned and the pixels'
        features.

    Example::

        class Affine(Network):
            def build(self, leaves, inputs, outputs):
                self.weights = nn.ParameterList(0.1 * torch.randn(leaves, inputs, size) for size in outputs)

            def forward(self, x):
                return tuple(torch.einsum("...li,lio->...lo", x, weight) for weight in self.weights)
    """

    autoregressive: bool = False

    def build(self, leaves: int, inputs: int, outputs: tuple[int, ...]) -> None:
        """
        Makes the parameters.

        :param int leaves: number of leaves.
        :param int inputs: size of the input.
        :param tuple outputs: size of each output.
        """
        raise NotImplementedError(f"{type(self).__name__} must define build(self, leaves, inputs, outputs)")

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """
        :param Tensor x: ``[.., leaf, in]``.
        :returns: one tensor ``[.., leaf, out]`` per output.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, x)")
