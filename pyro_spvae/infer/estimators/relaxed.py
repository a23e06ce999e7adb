# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Draws of bits that gradients go through: straight-through and Concrete."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints
from typing_extensions import Self

from pyro_spvae import checks
from pyro_spvae.distributions import FactorialBernoulli
from pyro_spvae.infer.estimators.estimator import Estimator
from pyro_spvae.infer.leaf_terms import LeafTerms
from pyro_spvae.infer.site import LEAF_PLATE

_EDGE = 1e-6  # of uniform numbers, whose logits are finite


class RelaxedBits(TorchDistribution):
    r"""
    Bits that are drawn with a gradient: :math:`y = \sigma((\ell + \mathrm{logit}(u)) / T)`, or bits z with a gradient
    that is not theirs.

    :param FactorialBernoulli bits: the law of the bits.
    :param float temperature: T.
    :param bool hard: draw bits, whose gradient is that of their probabilities.
    :param bool density: whether ``log_prob`` is the density of y; else the mass of the bits, extended linearly.
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.independent(constraints.unit_interval, 1)
    has_rsample = True

    def __init__(self, bits: FactorialBernoulli, temperature: float, hard: bool = False, density: bool = True) -> None:
        self.bits, self.temperature, self.hard, self.density = bits, temperature, hard, density
        bits._validate_args = False  # values may lie between bits
        super().__init__(bits.batch_shape, bits.event_shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        """The same with a larger batch shape."""
        return type(self)(self.bits.expand(batch_shape), self.temperature, self.hard, self.density)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Values in [0, 1], ``sample_shape + batch_shape + event_shape``."""
        logits = self.bits.logits
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        u = torch.rand(shape, dtype=logits.dtype, device=logits.device).clamp(_EDGE, 1 - _EDGE)
        noisy = logits + u.logit()
        if not self.hard:
            return (noisy / self.temperature).sigmoid()
        probs = logits.sigmoid()
        return (noisy > 0).to(probs.dtype) + (probs - probs.detach())

    def log_prob(self, value: Tensor) -> Tensor:
        r"""
        With y's logit :math:`v`, :math:`\log T + \ell - T v - 2\, \mathrm{softplus}(\ell - T v) - \log y (1 - y)`
        (Maddison et al. 2017), or the mass; nats.
        """
        if not self.density:
            return self.bits.log_prob(value)
        edge = torch.finfo(value.dtype).eps
        value = value.clamp(edge, 1 - edge)
        logit, temperature = value.logit(), self.temperature
        apart = self.bits.logits - temperature * logit
        each = apart - 2 * torch.nn.functional.softplus(apart) - value.log() - torch.log1p(-value)
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        scale = value.size(-1) * value.new_full((), temperature).log()
        return (each.sum(-1) + scale).expand(shape)


class _Relax(Messenger):
    """Gives latent sites of bits inside the leaf plate another law."""

    def __init__(self, name: str, law: Callable[[FactorialBernoulli], TorchDistribution], whole: bool = True) -> None:
        super().__init__()
        self.name, self.law, self.whole = name, law, whole

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or not any(frame.name == LEAF_PLATE for frame in msg["cond_indep_stack"]):
            return
        if isinstance(msg["fn"], FactorialBernoulli):
            msg["fn"] = self.law(msg["fn"])
        elif self.whole and not msg["fn"].has_rsample and msg["infer"].get("enumerate") != "parallel":
            raise ValueError(
                f"{self.name} relaxes independent bits (FactorialBernoulli), but the site '{msg['name']}' is of a "
                f"{type(msg['fn']).__name__}; VIMCO, NVIL and Reinforce take any"
            )


def _straight_through(bits: FactorialBernoulli) -> TorchDistribution:
    return RelaxedBits(bits, 1.0, hard=True, density=False)


class Relaxation(Estimator):
    """An estimator that relaxes draws, and is biased."""

    unbiased = False

    def has_use(self, terms: LeafTerms, sites: Mapping[str, Any]) -> bool:
        return any(isinstance(site["fn"], RelaxedBits) for site in sites.values())


class StraightThrough(Relaxation):
    r"""
    Bits in the forward pass, and in the backward pass as if they were their probabilities (Bengio et al. 2013). Biased:
    the bound is the true one, its gradient is not. For guides of independent bits; the divergence is sampled, also with
    ``kl="analytic"``.

    Example::

        >>> from pyro_spvae.distributions import Unsmoothed
        >>> from pyro_spvae.guides import DiscreteGuide
        >>> from pyro_spvae.infer import StraightThrough
        >>> from pyro_spvae.models import DiscreteVAE
        >>> leaf = DiscreteVAE(Bernoulli(), latent_dim=4, smoothing=Unsmoothed())
        >>> dvae = SPVAE(whole((4, 4)), units=1, leaf=leaf, guide=DiscreteGuide())
        >>> objective = CircuitELBO(1, estimator=StraightThrough())
        >>> objective.differentiable_loss(dvae.model, dvae.guide, dvae.sample(10)).backward()
        >>> all(parameter.grad is not None for parameter in dvae.leaf_guide.parameters())
        True
    """

    def relax(self, program: Callable[..., Any], guide: bool) -> Callable[..., Any]:
        return _Relax("StraightThrough", _straight_through)(program) if guide else program


class Concrete(Relaxation):
    r"""
    Relaxed draws :math:`y = \sigma((\ell + \mathrm{logit}(u)) / T)` in the place of bits (Maddison et al. 2017; Jang et
    al. 2017). Biased for the model of bits. With ``form="density"`` both laws are densities of y, and the objective is
    a bound of the relaxed model (Maddison et al.); with ``form="mass"`` they are the masses of bits at y, extended
    linearly, as in the code of Tucker et al. 2017, which bounds nothing. For guides of independent bits, and of the
    first form priors of such; the divergence is sampled, also with ``kl="analytic"``.

    :param float temperature: T.
    :param str form: ``"density"`` or ``"mass"``.
    :raises ValueError: for options out of range.

    Example::

        >>> from pyro_spvae.distributions import Unsmoothed
        >>> from pyro_spvae.guides import DiscreteGuide
        >>> from pyro_spvae.infer import Concrete
        >>> from pyro_spvae.models import DiscreteVAE
        >>> leaf = DiscreteVAE(Bernoulli(), latent_dim=4, smoothing=Unsmoothed())
        >>> dvae = SPVAE(whole((4, 4)), units=1, leaf=leaf, guide=DiscreteGuide())
        >>> objective = CircuitELBO(1, estimator=Concrete(temperature=0.5))
        >>> objective.differentiable_loss(dvae.model, dvae.guide, dvae.sample(10)).backward()
        >>> all(parameter.grad is not None for parameter in dvae.leaf_guide.parameters())
        True
    """

    def __init__(self, temperature: float = 0.5, form: str = "density") -> None:
        super().__init__()
        if not checks.is_number(temperature) or temperature <= 0:
            raise ValueError(f"temperature is {temperature!r}; a positive number is needed")
        self.temperature, self.form = float(temperature), checks.one_of("form", form, ("density", "mass"))

    def relax(self, program: Callable[..., Any], guide: bool) -> Callable[..., Any]:
        density = self.form == "density"

        def law(bits: FactorialBernoulli) -> TorchDistribution:
            return RelaxedBits(bits, self.temperature, False, density)

        # other masses, such as a Boltzmann machine's, extend as they are
        return _Relax("Concrete", law, whole=guide or density)(program)
