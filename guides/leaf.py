# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What the guide of a leaf is."""

from __future__ import annotations

from typing import Any

from pyro.distributions.torch_distribution import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor

from pyro_spvae.nn import Part


class LeafGuide(Part, PyroModule):
    """
    An inference program for the latent variables of one leaf, written without plates.

    Subclasses make their parameters in ``build(leaves, pixels, latent_dim)``. What depends on the data alone is
    computed by ``encode``, what is random is stated by ``forward``: a site for each latent variable of the leaf model,
    by the same name. Mark ``encode`` as :func:`pyro_spvae.nn.memoized`, so that evaluation encodes each datum once for
    thousands of particles. Encoders see features: the leaf model brings pixel values to about [0, 1].

    Example, for the leaf :class:`~pyro_spvae.models.VAE`, whose one latent site is ``"z"`` with event ``[latent]``::

        class LinearGuide(LeafGuide):
            def build(self, leaves, pixels, latent_dim):
                self.weight = nn.Parameter(0.1 * torch.randn(leaves, pixels, latent_dim))
                self.log_scale = nn.Parameter(torch.zeros(leaves, latent_dim))

            def forward(self, x):  # [data, leaf, pixel]
                loc = torch.einsum("blp,lpd->bld", x, self.weight)
                pyro.sample("z", dist.Normal(loc, self.log_scale.exp()).to_event(1))
    """

    def encode(self, x: Tensor) -> Any:
        """
        What :meth:`forward` needs to know of the data; by default the features themselves.

        :param Tensor x: features of the patches ``[data, leaf, pixel]``; missing pixels are 0.
        """
        return x

    def posterior(self, x: Tensor) -> TorchDistribution:
        """
        The distribution of the latent variable that has the leaf's prior given features alone, which a
        :class:`~pyro_spvae.priors.VampPrior` is a mixture of.

        :param Tensor x: features ``[.., leaf, pixel]``.
        :raises ValueError: if the guide has no such encoder.
        """
        raise ValueError(
            f"the guide {type(self).__name__} has no encoder that a VampPrior could use; define posterior(self, x), or "
            "choose another prior"
        )

    def forward(self, encoding: Any) -> None:
        """
        States the latent sites of the leaf.

        :param encoding: what :meth:`encode` returned.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, encoding)")
