# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""An SPVAE whose leaves are linear-Gaussian, so that log p(x) and every leaf ELBO are known exactly."""

from __future__ import annotations

import torch
import torch.distributions as td
from torch import Tensor

from pyro_spvae import poon_domingos
from pyro_spvae.blocks import positive_scale
from pyro_spvae.models import SPVAE
from tests.helpers import small_spvae


class LinearGaussian:
    """
    Leaves ``x = W z + b + sigma eps`` with ``z`` standard normal: two leaf regions of 2x2 pixels, or a ragged grid.

    :param ragged: a 2x3 array cut into cells of two columns and one column.
    """

    def __init__(self, ragged: bool = False) -> None:
        regions = poon_domingos((2, 3) if ragged else (2, 4), delta=2)
        self.spvae: SPVAE = small_spvae(regions, latent_dim=2, hidden_dims=())
        loc, raw_scale = self.spvae.leaf.pixels.decoder.stacks
        with torch.no_grad():
            raw_scale.weights[0].zero_()  # sigma does not depend on z
            loc.weights[0].mul_(2)
            for stack in self.spvae.leaf_guide.z.network.stacks:  # a guide nearly as wide as the prior, so that
                stack.weights[0].mul_(0.3)  # importance weights have a small variance
                stack.biases[0].copy_(0.2 * torch.randn_like(stack.biases[0]))
            self.spvae.leaf_guide.z.network.stacks[1].biases[0].add_(0.5)
        self.weight = loc.weights[0].detach()  # [L, d, P]
        self.bias = loc.biases[0].detach().squeeze(1)
        likelihood = self.spvae.leaf.pixels.likelihood
        self.sigma = positive_scale(raw_scale.biases[0].detach().squeeze(1), likelihood.scale, likelihood.min_scale)

    def leaf_log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """log p(x_l) of every leaf, seen entries only, ``[data, leaf]``."""
        mask = self.pixel_mask(x, observed)
        values = torch.zeros(len(x), self.spvae.num_leaves)
        patches = self.spvae.view(x)
        for n in range(len(x)):
            for leaf in range(self.spvae.num_leaves):
                keep = mask[n, leaf]
                if keep.any():
                    covariance = self.weight[leaf].T @ self.weight[leaf] + self.sigma[leaf].square().diag()
                    normal = td.MultivariateNormal(self.bias[leaf][keep], covariance[keep][:, keep])
                    values[n, leaf] = normal.log_prob(patches[n, leaf][keep])
        return values

    def leaf_elbo(self, x: Tensor) -> Tensor:
        """The exact ELBO of every leaf under the guide, ``[data, leaf]``."""
        patches = self.spvae.view(x)
        q = self.spvae.leaf_guide.encode(patches)
        mean = torch.einsum("bld,ldp->blp", q.loc, self.weight) + self.bias
        spread = torch.einsum("bld,ldp->blp", q.scale.square(), self.weight.square())
        fit = (
            -0.5 * ((patches - mean) ** 2 + spread) / self.sigma**2
            - self.sigma.log()
            - 0.5 * torch.log(torch.tensor(2 * torch.pi))
        )
        prior = td.Normal(torch.zeros(()), torch.ones(()))
        return fit.sum(-1) - td.kl_divergence(td.Normal(q.loc, q.scale), prior).sum(-1)

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """The exact log p(x), ``[data]``."""
        return self.spvae.circuit(self.leaf_log_prob(x, observed)).detach()

    def pixel_mask(self, x: Tensor, observed: Tensor | None) -> Tensor:
        """Entries of every leaf that exist and are seen, ``[data, leaf, pixel]``."""
        mask = torch.ones_like(self.spvae.view(x), dtype=torch.bool)
        if self.spvae.view.mask is not None:
            mask = mask & self.spvae.view.mask
        if observed is not None:
            mask = mask & self.spvae.view(observed.expand(x.shape))
        return mask
