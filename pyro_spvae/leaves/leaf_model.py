# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What the model of a leaf is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from pyro_spvae.blocks import Latent, Program
from pyro_spvae.blocks.life_cycle import parts
from pyro_spvae.leaves.leaf_guide import LeafGuide
from pyro_spvae.part import Part
from pyro_spvae.registry import make


class LeafModel(Part, Program):
    """
    A generative program for the data of one leaf, written without plates.

    Subclasses declare their :attr:`latents` in the class or when they are constructed, make their parameters in
    ``build(leaves, pixels)`` and state their sites in ``forward``: the latent variables by the declared names, and
    the observation ``"x"``.
    :class:`~pyro_spvae.models.SPVAE` runs the program once for all leaves inside the plates ``data`` (dim -2) and
    ``leaf`` (dim -1), so that every tensor has shape ``[.., data, leaf, event]`` and parameters carry a leaf axis.

    :ivar dict latents: what is latent, by site; nothing by default.
    :ivar Pixels pixels: the block that states the pixels, which also brings values to what the guide sees and checks
        them; ``None`` if the program states them otherwise, and takes any values.

    Example::

        >>> from pyro import sample
        >>> from pyro_spvae.distributions import LeafNormal, LeafStandardNormal
        >>> class FactorAnalyser(LeafModel):
        ...     def __init__(self, latent_dim=2):
        ...         super().__init__()
        ...         self.latent_dim = latent_dim
        ...         self.latents = {"z": Latent(latent_dim)}
        ...
        ...     def build(self, leaves, pixels):
        ...         self.loadings = torch.nn.Parameter(0.1 * torch.randn(leaves, self.latent_dim, pixels))
        ...         self.log_scale = torch.nn.Parameter(torch.zeros(leaves, pixels))
        ...
        ...     def forward(self, x=None, mask=None):
        ...         z = sample("z", LeafStandardNormal(self.latent_dim))
        ...         loc = torch.einsum("...ld,ldp->...lp", z, self.loadings)
        ...         return sample("x", LeafNormal(loc, self.log_scale.exp(), mask=mask), obs=x)
        >>> spvae = SPVAE(poon_domingos((8, 8), delta=4), units=2, leaf=FactorAnalyser(), guide=NormalGuide())
        >>> spvae.log_likelihood(torch.randn(5, 1, 8, 8), num_samples=10).shape
        torch.Size([5])
    """

    latents: Mapping[str, Latent] = {}  # not a proxy, which cannot be copied or pickled
    pixels: Any  # a Pixels block, or None

    #: registered name of the guide that is taken where none is given; by default the normal one, if anything is latent
    guide_name: str | None = None

    #: registered name of the prior that a configuration's leaf has which names none
    prior_name: str = "standard-normal"

    #: names of the networks that take several inputs, where a perceptron has a first layer for each
    joint_networks: tuple[str, ...] = ()

    #: as that of a guide
    makes_networks: bool = False

    #: whether the networks that it has by default are of a kind of its own, so that configurations give it no others
    #: unless they name some
    has_own_networks: bool = False

    #: whether there are no latent variables and :meth:`law` says what the distribution of patches is
    tractable: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.pixels = None

    def law(self, mask: Tensor | None = None) -> Any:
        """
        The distribution of patches, batch ``[.., leaf]`` and event ``[pixel]``, of a leaf that is :attr:`tractable`.

        :param Tensor mask: ``bool``, broadcastable to ``[.., leaf, pixel]``: pixels that count. ``None``: all do.
        """
        raise NotImplementedError(f"{type(self).__name__} has no distribution of its pixels in closed form")

    @property
    def default_guide(self) -> str:
        """Registered name of the guide that is taken where none is given."""
        return self.guide_name or ("normal" if self.latents else "none")

    def new_guide(self, **options: Any) -> LeafGuide:
        """
        The guide that is taken where none is given.

        :param options: of its constructor, such as ``hidden_dims``, of which it takes those that it has.
        """
        guide: LeafGuide = make("guide", self.default_guide, **options)
        return guide

    def forward(self, x: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """
        States the sites of the leaf.

        :param Tensor x: observed patches ``[data, leaf, pixel]``, or ``None`` to generate.
        :param Tensor mask: ``bool``, broadcastable to ``[data, leaf, pixel]``: pixels that count. ``None``: all do.
        :returns: the patches.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, x=None, mask=None)")

    def features(self, x: Tensor) -> Tensor:
        """What the guide's networks see of the patches ``x``; by default what the pixels' block says."""
        return x if self.pixels is None else self.pixels.features(x)

    def bound_features(self, pixels: int, features: int | None = None, scopes: Any = None, **shapes: Any) -> int:
        """Of the sizes that a leaf is bound with: how many features there are, which priors of pseudo-inputs need."""
        return self.count_features(pixels, scopes) if features is None else features

    def count_features(self, pixels: int, scopes: Sequence[Sequence[int | None]] | None = None) -> int:
        """
        How many features the guide's networks see of a leaf, before the model is bound; by default what the pixels'
        block says.

        :param int pixels: of a leaf.
        :param scopes: the entries of a datum that each leaf sees, ``None`` for padding; where they are known.
        """
        found: int = pixels if self.pixels is None else self.pixels.count_features(pixels, scopes)
        return found

    def feature_mask(self, mask: Tensor | None) -> Tensor | None:
        """Which features count where some pixels do; by default what the pixels' block says."""
        found: Tensor | None = mask if self.pixels is None else self.pixels.feature_mask(mask)
        return found

    def check(self, x: Tensor, mask: Tensor) -> None:
        """Raises a ValueError in one sentence where values of ``x`` with ``mask`` set cannot be observed."""
        if self.pixels is not None:
            self.pixels.check(x, mask)

    def meet(self, guide: LeafGuide, patches: Callable[[Tensor], Tensor], mask: Tensor | None) -> None:
        """
        Shows all blocks in the leaf the guide, once both are bound, see :meth:`pyro_spvae.part.Part.connect`.

        :param LeafGuide guide: the guide.
        :param callable patches: from data ``[rows, *event_shape]`` to patches ``[rows, leaf, pixel]``.
        :param Tensor mask: pixels that are no padding, ``bool [leaf, pixel]``, or ``None`` if none are.
        """
        for part in parts(self):
            part.connect(guide.posterior, lambda x: self.features(patches(x)), self.feature_mask(mask))
