# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The components of a Gaussian mixture: one of them given its number, or the mixture given their weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_spvae import checks
from pyro_spvae.blocks.block import Block
from pyro_spvae.blocks.scale import check_scale, positive_scale
from pyro_spvae.distributions import LeafGaussianMixture, LeafNormal
from pyro_spvae.nn.network import Network


class Components(Block):
    r"""
    K diagonal Gaussians :math:`N(\mu_k(h), \mathrm{diag}\, \sigma_k(h)^2)` by a network of the inputs.

    :param Network network: from the inputs to all means and unconstrained scales; without one, the inputs are a
        network's outputs.
    :param str scale: how standard deviations are parameterised, see :func:`pyro_spvae.blocks.positive_scale`.
    :param float min_scale: smallest standard deviation; 1e-3 by default for ``"softplus"``, else none.
    :raises ValueError: for options out of range.

    Example::

        >>> from pyro_spvae.conditionals import Components
        >>> from pyro_spvae.nn import MLP
        >>> components = Components(MLP()).bind(leaves=2, inputs=10, event_shape=(3,), components=4)
        >>> h = torch.rand(5, 2, 10)
        >>> components(h, torch.zeros(5, 2, dtype=torch.int64)).sample().shape  # of the first component
        torch.Size([5, 2, 3])
        >>> mixture = components.mixture(components.embed(h), torch.zeros(5, 2, 4).log_softmax(-1))
        >>> mixture.log_prob(torch.zeros(5, 2, 3)).shape
        torch.Size([5, 2])
    """

    support = constraints.real

    def __init__(self, network: Network | None = None, scale: str = "softplus", min_scale: float | None = None) -> None:
        super().__init__()
        if network is not None:
            checks.instance("network", network, Network)
        self.network = network
        self.scale = scale
        self.min_scale = check_scale(scale, min_scale)

    def build(
        self,
        leaves: int,
        event_shape: tuple[int, ...],
        components: int,
        inputs: int | tuple[int, ...] = (),
        **shapes: Any,
    ) -> None:
        """
        Binds the network.

        :param inputs: size of the input, or a tuple of sizes of several.
        :param tuple event_shape: of a value.
        :param int components: number of components, K.
        :param shapes: ``input_shape``, handed on to the network.
        """
        size = components * event_shape[0]
        if self.network is not None:
            self.network.bind(leaves=leaves, inputs=inputs, outputs=(size, size), **shapes)

    def embed(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """All means and standard deviations given the inputs, ``[.., leaf, component, value]``."""
        outputs = inputs if self.network is None else self.network(*inputs)
        loc, raw = (output.unflatten(-1, (self.sizes["components"], -1)) for output in outputs)
        return loc, positive_scale(raw, self.scale, self.min_scale)

    def join(self, embedded: tuple[Tensor, Tensor], component: Tensor) -> LeafNormal:
        """One component's distribution given what :meth:`embed` returned, and its number ``[.., leaf]``."""
        loc, scale = (chosen(values, component) for values in embedded)
        return LeafNormal(loc, scale)

    def mixture(self, embedded: tuple[Tensor, Tensor], log_weight: Tensor) -> LeafGaussianMixture:
        """The mixture given what :meth:`embed` returned, and logarithms of weights ``[.., leaf, component]``."""
        return LeafGaussianMixture(*embedded, log_weight)

    def forward(self, *inputs: Tensor) -> LeafNormal:
        """
        :param Tensor inputs: those of the network, ``[.., leaf, in]`` each, and the number of a component.
        """
        return self.join(self.embed(*inputs[:-1]), inputs[-1])


class NormalComponents(Block):
    r"""
    K Gaussians of given means, :math:`N(m_k, s^2 I)`: the component priors of a mixture.

    :param Sequence[float] means: :math:`m_k`, the same in every dimension; 0 for all by default.
    :param float scale: standard deviation :math:`s`.
    :raises ValueError: for options out of range; when bound, if there are means of another number of components.

    Example::

        >>> from pyro_spvae.conditionals import NormalComponents
        >>> components = NormalComponents([-1.0, 0.0, 1.0]).bind(leaves=1, event_shape=(2,), components=3)
        >>> components(torch.tensor([2])).mean
        tensor([[1., 1.]])
    """

    support = constraints.real
    _loc: Tensor

    def __init__(self, means: Sequence[float] | None = None, scale: float = 1.0) -> None:
        super().__init__()
        if means is not None and (not isinstance(means, (list, tuple)) or not all(map(checks.is_number, means))):
            raise ValueError(f"means is {means!r}; a finite number for each component is needed")
        if not checks.is_number(scale) or scale <= 0:
            raise ValueError(f"scale is {scale!r}; a positive number is needed")
        self.means = None if means is None else tuple(means)
        self.scale = float(scale)

    def build(self, leaves: int, event_shape: tuple[int, ...], components: int) -> None:
        """Means of all components, which follow from the options; ``[component, value]``."""
        means = (0.0,) * components if self.means is None else self.means
        if len(means) != components:
            raise ValueError(
                f"means has {len(means)} numbers, but there are {components} components; one each is needed"
            )
        loc = torch.ones(components, *event_shape) * torch.stack([torch.ones(()) * mean for mean in means]).unsqueeze(
            -1
        )
        self.register_buffer("_loc", loc, persistent=False)

    def forward(self, component: Tensor) -> LeafNormal:
        """
        :param Tensor component: numbers ``[.., leaf]``.
        """
        return self._normal(self._loc[0] if self.means is None else self._loc[component])

    def _normal(self, loc: Tensor) -> LeafNormal:
        return LeafNormal(loc, loc.new_full((), self.scale))

    def mixture(self, log_weight: Tensor | Callable[[], Tensor]) -> LeafGaussianMixture | LeafNormal:
        """
        The mixture; of equal components one of them, whose weights do not matter.

        :param log_weight: logarithms of weights ``[.., leaf, component]``, or what makes them where they matter.
        """
        if self.means is None:
            return self._normal(self._loc[0])
        given = log_weight if isinstance(log_weight, Tensor) else log_weight()
        return LeafGaussianMixture(self._loc, torch.full_like(self._loc, self.scale), given)


def chosen(values: Tensor, component: Tensor) -> Tensor:
    """
    Of values of all components those of one.

    :param Tensor values: ``[.., component, value]``.
    :param Tensor component: numbers, whose shape broadcasts with the axes in front; it may have more.
    """
    batch = values.shape[:-2]
    places = [
        torch.arange(size, device=values.device).reshape(-1, *[1] * (len(batch) - axis - 1))
        for axis, size in enumerate(batch)
    ]
    return values[tuple([*places, component])]
