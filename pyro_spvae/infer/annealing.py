# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""KL annealing: latent sites of leaves weighted inside the logarithm of the leaf bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyro.poutine.messenger import Messenger

from pyro_spvae.checks import latent_site, number_of_at_least
from pyro_spvae.infer.site import LEAF_PLATE

Weight = float | Mapping[str, float]


class AnnealMessenger(Messenger):
    r"""
    Scales the log-density of latent sites inside the leaf plate by :attr:`beta`.

    Around both programs it turns the importance weights of :class:`~pyro_spvae.infer.CircuitELBO` into

    .. math:: \log w = \log p(x \mid z) + \sum_s \beta_s\, (\log p(z_s) - \log q(z_s \mid x)),

    the warm-up of Bowman et al. 2016 and Sonderby et al. 2016, inside the logarithm. Observed sites and the tree are
    left alone, and so is a ``pyro.factor`` of the model, which is evidence; one of the guide is a part of
    :math:`\log q`. With ``beta=1`` nothing changes, with ``beta=0`` every parameter still has a gradient (of zero).

    The handler must be outside of whatever gives a site its value by observation, so that it sees that it is observed.

    :param beta: weight of the latent KL, at least 0, or a dict of one a site, where sites that it lacks count once; may
        be set anew at any time.
    :param bool guide: whether the program is a guide.
    :raises ValueError: for other weights; after the program has run, if it has no site of a name that a dict has.

    Example::

        >>> from pyro import poutine
        >>> from pyro_spvae.infer import AnnealMessenger
        >>> vae = SPVAE(whole((4, 4)), units=1, likelihood=Bernoulli())
        >>> with AnnealMessenger(beta=0.5):
        ...     trace = poutine.trace(vae.model).get_trace(vae.sample(3))
        >>> trace.nodes["z"]["scale"], trace.nodes["x"]["scale"]
        (0.5, 1.0)
    """

    def __init__(self, beta: Weight = 1.0, guide: bool = False) -> None:
        super().__init__()
        self.beta = beta
        self.guide = guide
        self._met: dict[str, bool] = {}  # sites of leaves, and whether they are latent

    def __enter__(self) -> Any:
        self._met = {}
        return super().__enter__()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        super().__exit__(kind, error, trace)
        if kind is None and isinstance(self._beta, Mapping):
            latent = [name for name, is_latent in self._met.items() if is_latent]
            for name in self._beta:
                if name not in self._met:
                    latent_site("beta names", name, latent)

    @property
    def beta(self) -> Weight:
        """Weight of the latent KL."""
        return self._beta

    @beta.setter
    def beta(self, value: Weight) -> None:
        if isinstance(value, Mapping):
            self._beta: Weight = {site: number_of_at_least(f"beta of {site!r}", one) for site, one in value.items()}
        else:
            self._beta = number_of_at_least("beta", value)

    def _pyro_sample(self, msg: Any) -> None:
        if not any(frame.name == LEAF_PLATE for frame in msg["cond_indep_stack"]):
            return
        self._met[msg["name"]] = not msg["is_observed"]
        beta = self._beta if isinstance(self._beta, float) else self._beta.get(msg["name"], 1.0)
        if beta != 1.0 and (not msg["is_observed"] or (self.guide and msg["infer"].get("is_auxiliary"))):
            msg["scale"] = msg["scale"] * beta


class Annealed:
    """
    A program under an :class:`AnnealMessenger`, with the owner of the program, whose parameters an objective trains.

    :ivar beta: weight of the latent KL, or one a site; may be set anew at any time.
    """

    def __init__(self, program: Callable[..., Any], beta: Weight, guide: bool) -> None:
        self.program = program
        self.messenger = AnnealMessenger(beta, guide)
        self.__self__ = getattr(program, "__self__", program)

    @property
    def beta(self) -> Weight:
        """Weight of the latent KL."""
        return self.messenger.beta

    @beta.setter
    def beta(self, value: Weight) -> None:
        self.messenger.beta = value

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.messenger:
            return self.program(*args, **kwargs)


def anneal(program: Callable[..., Any], beta: Weight = 1.0, guide: bool = False) -> Annealed:
    """
    A model or guide whose latent leaf sites count ``beta`` times; wrap both, and set their ``beta`` as training goes.

    :param callable program: a model or guide.
    :param beta: weight of the latent KL, at least 0, or a dict of one a site.
    :param bool guide: whether the program is a guide, whose factors are a part of its density.

    Example::

        >>> from pyro_spvae.infer import anneal
        >>> spvae = SPVAE(poon_domingos((4, 4), delta=2), units=2, likelihood=Bernoulli())
        >>> x = spvae.sample(10)
        >>> model, guide = anneal(spvae.model), anneal(spvae.guide, guide=True)
        >>> objective, losses = CircuitELBO(num_particles=5), []
        >>> for epoch in range(3):
        ...     model.beta = guide.beta = min(1.0, (epoch + 1) / 2)
        ...     losses.append(objective.differentiable_loss(model, guide, x).item())
        >>> model.beta, len(losses)
        (1.0, 3)
    """
    return Annealed(program, beta, guide)
