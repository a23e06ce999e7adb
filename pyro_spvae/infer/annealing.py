# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""KL annealing: latent sites of leaves weighted inside the logarithm of the leaf bounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pyro.poutine.messenger import Messenger

from pyro_spvae.infer.leaf_terms import LEAF_PLATE


class AnnealMessenger(Messenger):
    r"""
    Scales the log-density of every latent site inside the leaf plate by :attr:`beta`.

    Around both programs it turns the importance weights of :class:`~pyro_spvae.infer.CircuitELBO` into

    .. math:: \log w = \log p(x \mid z) + \beta\, (\log p(z) - \log q(z \mid x)),

    the warm-up of Bowman et al. 2016 and Sonderby et al. 2016, inside the logarithm. Observed sites and the tree are
    left alone. With ``beta=1`` nothing changes, with ``beta=0`` every parameter still has a gradient (of zero).

    The handler must be outside of whatever gives a site its value by observation, so that it sees that it is observed.

    :param float beta: weight of the latent KL, at least 0; may be set anew at any time.
    :raises ValueError: for other weights.
    """

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = beta

    @property
    def beta(self) -> float:
        """Weight of the latent KL."""
        return self._beta

    @beta.setter
    def beta(self, value: float) -> None:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (number and 0 <= value < math.inf):
            raise ValueError(f"beta is {value!r}; a number of at least 0 is needed")
        self._beta = float(value)

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or self._beta == 1.0:
            return
        if any(frame.name == LEAF_PLATE for frame in msg["cond_indep_stack"]):
            msg["scale"] = msg["scale"] * self._beta


class Annealed:
    """
    A program under an :class:`AnnealMessenger`, with the owner of the program, whose parameters an objective trains.

    :ivar float beta: weight of the latent KL; may be set anew at any time.
    """

    def __init__(self, program: Callable[..., Any], beta: float) -> None:
        self.program = program
        self.messenger = AnnealMessenger(beta)
        self.__self__ = getattr(program, "__self__", program)

    @property
    def beta(self) -> float:
        """Weight of the latent KL."""
        return self.messenger.beta

    @beta.setter
    def beta(self, value: float) -> None:
        self.messenger.beta = value

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.messenger:
            return self.program(*args, **kwargs)


def anneal(program: Callable[..., Any], beta: float = 1.0) -> Annealed:
    """
    A model or guide whose latent leaf sites count ``beta`` times; wrap both, and set their ``beta`` as training goes.

    Example::

        model, guide = anneal(spvae.model), anneal(spvae.guide)
        loss = CircuitELBO(num_particles=5)(model, guide)
        for epoch in range(epochs):
            model.beta = guide.beta = min(1.0, (epoch + 1) / 100)

    :param callable program: a model or guide.
    :param float beta: weight of the latent KL, at least 0.
    """
    return Annealed(program, beta)
