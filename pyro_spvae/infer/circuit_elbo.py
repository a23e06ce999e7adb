# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The objective of sum-product VAEs: leaf bounds pushed through the circuit."""

from __future__ import annotations

import math
from collections.abc import Collection
from contextlib import nullcontext
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.infer.util import is_validation_enabled, torch_item
from pyro.poutine import Trace
from pyro.util import check_model_guide_match, check_site_shape, warn_if_nan
from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.blocks import held
from pyro_spvae.infer.closed_form import ClosedSites
from pyro_spvae.infer.collapse import collapse_tree
from pyro_spvae.infer.dreg import PathGradients
from pyro_spvae.infer.enumerated import enumerate_guide
from pyro_spvae.infer.estimators import VIMCO, Estimator, ScoredStep, renyi_mean
from pyro_spvae.infer.estimators.estimator import frozen_log_prob, meet, with_value
from pyro_spvae.infer.kl_balance import KLBalance
from pyro_spvae.infer.leaf_terms import LeafTermCollector, LeafTerms
from pyro_spvae.infer.objective_module import ObjectiveModule
from pyro_spvae.infer.param_store import wrong_in_store
from pyro_spvae.infer.prepared import owner_of, prepared
from pyro_spvae.infer.site import is_subsample
from pyro_spvae.infer.tracing import check_not_traced
from pyro_spvae.infer.tree_sums import push_up
from pyro_spvae.nn.leaf_conv import StatisticsUnmoved

_GRADIENTS = ("iwae", "dreg")
_REDUCES = ("leaf", "root")


class CircuitELBO(ELBO):
    r"""
    Lower bound on :math:`\sum_n \log p(x_n)` of a model whose induced tree is summed out exactly; an estimate that may
    lie above it for a negative ``alpha``.

    The guide is traced, the model replayed with its tree site collapsed, and the sites inside the plate ``leaf`` give
    importance weights for every particle, datum and leaf, :math:`w_{kl} = p(x_l, z_{kl}) / q(z_{kl} \mid x_l)`. With
    ``reduce="leaf"`` (eq. (9) of the SPVAE paper, Tan and Peharz 2019) particles are averaged inside each leaf,

    .. math::
        \hat L = \log \sum_T p(T) \prod_{l \in T} \hat p_l, \qquad
        \log \hat p_l = \tfrac{1}{1 - \alpha} \log \tfrac1K \sum_k w_{kl}^{1 - \alpha},

    the sum over trees being one pass through the circuit. ``alpha=0`` is Theorem 2 (importance weighted leaves),
    ``alpha=1`` Theorem 1 (eq. (7), leaf ELBOs). ``reduce="root"`` pushes every particle through the circuit and
    averages at the root, a looser bound that allows latent variables outside the leaf plate.

    A scale given to leaf sites by ``poutine.scale`` acts inside the logarithm (KL annealing); the subsampling scale of
    the plate ``data`` acts outside. Sites of the data plate outside the leaf plate are added per datum, sites outside
    both once. A tree given by ``poutine.condition`` is not summed out.

    Works as a loss of ``SVI`` and, called with a model and a guide, as a module for torch optimisers::

        svi = SVI(spvae.model, spvae.guide, pyro.optim.Adam({"lr": 1e-3}), CircuitELBO(num_particles=5))
        loss = CircuitELBO(num_particles=5)(spvae.model, spvae.guide)   # nn.Module; loss(x).backward()

    Both give the negative bound summed over the data. The two do not mix in one process: the second wants
    ``pyro.settings.set(module_local_params=True)``, under which ``SVI.step`` fails.

    :param int num_particles: K, importance samples for each leaf.
    :param float alpha: order of the leaf bounds: 0 importance weighted, 1 ELBO, ``-inf`` largest weight (VR-max), else
        Renyi.
    :param str gradient: ``"iwae"``, or ``"dreg"`` for doubly reparameterised gradients of the guide (Tucker et al.
        2019), here with the weight :math:`a^2`, where :math:`a_{kl} = \partial \hat L / \partial \log w_{kl}` is the
        leaf's posterior times the particle's normalised weight. Unbiased, usually of lower variance once the guide
        fits. Needs ``alpha=0`` and a guide with ``rsample``.
    :param str reduce: ``"leaf"`` or ``"root"``, see above.
    :param str kl: ``"sample"``, or ``"analytic"``: where the divergence of a latent site is known for its pair of
        distributions (:func:`pyro_spvae.distributions.divergence`), it stands in the place of
        :math:`\log q - \log p`; the others are sampled. Names of sites, such as ``("z",)``: that of these,
        and each must have one. Needs ``alpha=1`` and a guide that draws in the model's order.
    :param bool vectorize_particles: draw all particles in one run of model and guide (the plate outside all others).
    :param int max_plate_nesting: number of plate dimensions of the model, 2 for ``data`` and ``leaf``.
    :param Estimator estimator: of the gradient through guide sites without ``rsample``, such as
        :class:`~pyro_spvae.infer.NVIL`; by default :class:`~pyro_spvae.infer.VIMCO`, which needs at least two
        particles.

    :param KLBalance balance: weighs latent sites while they count less than once, in a warm-up. Needs ``alpha=1``.

    A guide site with ``infer={"enumerate": "parallel"}`` takes all its values, which are particles of the weight
    :math:`q(c)`: of each drawn particle k, :math:`w_{kl}^{1 - \alpha} = \sum_c q(c \mid x_l)\, w_{klc}^{1 - \alpha}`,
    and :math:`\log w_{kl} = \sum_c q(c \mid x_l) \log w_{klc}` for ``alpha=1``. Its gradient is exact.

    Takes ``torch.compile``; ``torch.jit.trace`` is refused, since it would freeze choices that are made from values.

    :raises ValueError: for options out of range, and at the first evaluation for sites that it cannot place.

    Example::

        >>> spn = SPN(poon_domingos((4, 4), delta=2), units=2, likelihood=Bernoulli())
        >>> x = spn.sample(10)
        >>> loss = CircuitELBO().loss(spn.model, spn.guide, x)
        >>> abs(loss + spn.log_prob(x).sum().item()) < 1e-3  # nothing but the tree is latent: the bound is tight
        True
        >>> spvae = SPVAE(poon_domingos((4, 4), delta=2), units=2, latent_dim=2, likelihood=Bernoulli())
        >>> CircuitELBO(5, gradient="dreg").differentiable_loss(spvae.model, spvae.guide, x).requires_grad
        True
    """

    def __init__(
        self,
        num_particles: int = 1,
        alpha: float = 0.0,
        gradient: str = "iwae",
        reduce: str = "leaf",
        kl: str | Collection[str] = "sample",
        vectorize_particles: bool = True,
        max_plate_nesting: int = 2,
        estimator: Estimator | None = None,
        balance: KLBalance | None = None,
    ) -> None:
        num_particles = checks.positive_integer("num_particles", num_particles)
        if not checks.is_real(alpha) or math.isnan(alpha) or alpha == math.inf:
            raise ValueError(f"alpha is {alpha!r}; a finite number or -inf is needed")
        checks.one_of("gradient", gradient, _GRADIENTS)
        checks.one_of("reduce", reduce, _REDUCES)
        if gradient == "dreg" and alpha != 0:
            raise ValueError(f"gradient='dreg' needs alpha=0 (importance weighted bounds); alpha is {alpha!r}")
        self._closed = ClosedSites(kl)
        if self._closed and alpha != 1:
            raise ValueError(f"kl={str(self._closed)!r} needs alpha=1 (leaf ELBOs); alpha is {alpha!r}")
        if estimator is not None:
            checks.instance("estimator", estimator, Estimator)
            if gradient == "dreg":
                raise ValueError("estimator is given with gradient='dreg', which needs guides that have use for none")
        if balance is not None:
            checks.instance("balance", balance, KLBalance)
            if alpha != 1 or estimator is not None:
                other = "an estimator" if alpha == 1 else f"alpha={alpha!r}"
                raise ValueError(f"balance is given with {other}; it belongs to leaf ELBOs (alpha=1) without one")
        checks.boolean("vectorize_particles", vectorize_particles)
        if not checks.is_integer(max_plate_nesting) or max_plate_nesting < 2:
            raise ValueError(f"max_plate_nesting is {max_plate_nesting!r}; at least 2 is needed (data and leaf)")
        super().__init__(
            num_particles=num_particles, max_plate_nesting=max_plate_nesting, vectorize_particles=vectorize_particles
        )
        self.alpha = float(alpha)
        self.gradient = gradient
        self.reduce = reduce
        self.kl = str(self._closed)
        self.balance = balance
        self.estimator = VIMCO() if estimator is None else estimator
        self._chosen = estimator is not None

    def __call__(self, model: Any, guide: Any) -> ObjectiveModule:
        """The loss as a module whose parameters are those of the model, the guide and the estimator."""
        return ObjectiveModule(model, guide, self, self.estimator)

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The negative bound in nats, summed over the data; a Python number, without gradient."""
        with torch.no_grad():
            terms = self.terms(model, guide, args, kwargs)
            loss = -torch_item(_total(terms, self._root(terms)[0]))
        warn_if_nan(loss, "loss")
        return loss

    def bound(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The bound of every datum in nats, ``[data]``, without subsampling scale and without gradient."""
        with torch.no_grad():
            return self._root(self.terms(model, guide, args, kwargs))[0]

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The negative bound as a scalar tensor whose gradient is an unbiased gradient estimate."""
        path = PathGradients(guide, args, kwargs) if self.gradient == "dreg" and torch.is_grad_enabled() else None
        args, kwargs = prepared(model, guide, args, kwargs)
        collector = self._collector()
        terms = self.terms(model, guide, args, kwargs, path, collector)
        root, leaf = self._root(terms)
        loss = -_total(terms, root)
        if path is not None:
            path.weigh(root, terms)
        if self._chosen and torch.is_grad_enabled() and not self.estimator.has_use(terms, collector.guide_sites):
            raise ValueError(
                f"estimator is a {type(self.estimator).__name__}, but gradients pass through all that the guide draws; "
                "leave it out"
            )
        if terms.score is not None and terms.score.requires_grad:
            if self.num_particles < self.estimator.least_particles:
                raise ValueError(
                    f"CircuitELBO: the guide has sites without rsample, whose gradient by "
                    f"{type(self.estimator).__name__} needs num_particles of at least {self.estimator.least_particles};"
                    " another estimator, such as NVIL, takes one"
                )
            meet(self.estimator, model)
            if next(self.estimator.parameters(), None) is not None:  # by which SVI finds them
                pyro.module(type(self.estimator).__name__, self.estimator)
            step = self._step(model, args, kwargs, collector, terms, root, leaf)
            surrogate = self.estimator.surrogate(step) * terms.data_scale
            loss = loss - (surrogate - surrogate.detach())
        if is_validation_enabled():
            warn_if_nan(loss, "loss")
        return loss

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Computes the loss and adds its gradient to the parameters, as ``SVI`` wants."""
        with poutine.trace(param_only=True) as capture:
            loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if is_validation_enabled():
            _check_owned(model, guide, self.estimator, capture.trace)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return torch_item(loss)

    def terms(
        self,
        model: Any,
        guide: Any,
        args: Any,
        kwargs: Any,
        path: PathGradients | None = None,
        collector: LeafTermCollector | None = None,
    ) -> LeafTerms:
        """
        Runs guide and model and sorts their sites, see :class:`~pyro_spvae.infer.leaf_terms.LeafTerms`.

        :param tuple args: arguments of both programs.
        :param dict kwargs: keyword arguments of both programs.
        :param PathGradients path: makes the gradients doubly reparameterised.
        :param LeafTermCollector collector: one of a subclass, which sees the sites.
        """
        check_not_traced(type(self).__name__)
        collector = self._collector() if collector is None else collector
        vectorized = self.vectorize_particles or self.num_particles == 1
        plate = self._vectorized_num_particles if vectorized else _unwrapped
        nesting = self.max_plate_nesting  # with the particles, if they are vectorised
        args, kwargs = prepared(model, guide, args, kwargs)
        parts = []
        with nullcontext() if vectorized else held(owner_of(model), owner_of(guide)):  # priors are stated once
            for _ in range(1 if vectorized else self.num_particles):
                drawing = enumerate_guide(self._relaxed(plate(guide), True), nesting)
                guide_trace = poutine.trace(drawing).get_trace(*args, **kwargs)
                if path is not None:
                    path.attach(guide_trace, plate)
                model_trace = self._replay(self._relaxed(plate(model), False), guide_trace, args, kwargs)
                parts.append(collector.collect(model_trace, guide_trace, None if path is None else path.log_prob))
                if not parts[0].latent:
                    break  # the other particles would be the same
        terms = parts[0]
        nesting = self.max_plate_nesting + (self.num_particles == 1 or not self.vectorize_particles)
        for name, dims in (
            ("log_weight", nesting),
            ("score", nesting),
            ("observed", nesting),
            ("outside", nesting - 1),
        ):
            values = [getattr(part, name) for part in parts]
            if values[0] is not None:
                values = [value.reshape(*[1] * (dims - value.dim()), *value.shape) for value in values]
                one = values[0] if terms.latent or len(values[0]) == 1 else values[0][:1]
                setattr(terms, name, torch.cat(values) if terms.latent and len(values) > 1 else one)
        # a small copy that makes the large gradients flow back leaf first, as the stacked networks lie in memory
        terms.log_weight = terms.log_weight.movedim(-1, 0).contiguous().movedim(0, -1)
        if self.reduce == "leaf" and terms.outside is not None:
            collector.outside.check_alike(terms.outside)
        return terms

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        return self._replay(model, guide_trace, args, kwargs), guide_trace

    def _replay(self, model: Any, guide_trace: Trace, args: Any, kwargs: Any) -> Trace:
        # collapse outside of replay: a tree that the guide or a condition has given stays as it is
        collapsed = collapse_tree(poutine.replay(model, trace=guide_trace))
        model_trace = poutine.trace(collapsed).get_trace(*args, **kwargs)
        if is_validation_enabled():
            check_model_guide_match(model_trace, guide_trace, self.max_plate_nesting)
            for trace in (model_trace, guide_trace):
                trace.compute_log_prob(lambda name, site: not self._in_closed_form(name, site, guide_trace))
                for site in trace.nodes.values():
                    if site["type"] == "sample" and not is_subsample(site) and "log_prob" in site:
                        check_site_shape(site, self.max_plate_nesting)
        return model_trace

    def _in_closed_form(self, name: str, site: Any, guide_trace: Trace) -> bool:
        """Whether a divergence stands in the place of a site's density, of which there may be none."""
        drawn = guide_trace.nodes.get(name, site)
        if drawn is site or name not in self._closed:
            return False
        return self._closed.divergence(name, drawn["fn"], site["fn"], site["value"]) is not None

    def _root(self, terms: LeafTerms) -> tuple[Tensor, Tensor]:
        """Bound of every datum ``[.., data]`` and the leaf values ``[(particle), .., data, leaf]`` it was made from."""
        if self.reduce == "root":
            root = push_up(terms, terms.log_weight)  # [K, .., B]
            if terms.outside is not None:
                root = root + terms.outside
            return renyi_mean(root, self.alpha), root
        leaf = renyi_mean(terms.log_weight, self.alpha)
        root = push_up(terms, leaf)
        if terms.outside is not None:
            root = root + terms.outside[0]
        return root, leaf

    def _collector(self) -> LeafTermCollector:
        joint = self.reduce == "root" or self.num_particles == 1
        return LeafTermCollector(joint, self.alpha, self._closed, self.balance)

    def _relaxed(self, program: Any, guide: bool) -> Any:
        """A program as the estimator has it drawn where there are gradients."""
        return self.estimator.relax(program, guide) if torch.is_grad_enabled() else program

    def _step(
        self,
        model: Any,
        args: Any,
        kwargs: Any,
        collector: LeafTermCollector,
        terms: LeafTerms,
        root: Tensor,
        leaf: Tensor,
    ) -> ScoredStep:
        """What the estimator sees."""

        def weigh(name: str, value: Tensor) -> Tensor:
            if not vectorized:
                raise ValueError(
                    f"{type(self.estimator).__name__} needs vectorize_particles=True, where all are drawn in one run"
                )
            # values may lie between bits, of which batch normalisation shall learn nothing
            with pyro.validation_enabled(False), StatisticsUnmoved():
                guide = with_value(collector.guide_trace, name, value)
                trace = self._replay(self._vectorized_num_particles(model), guide, args, kwargs)
                found = self._collector().collect(trace, guide, frozen_log_prob).log_weight
            return found.reshape(*[1] * (terms.log_weight.dim() - found.dim()), *found.shape)

        vectorized = self.vectorize_particles or self.num_particles == 1
        features = getattr(args[0], "features", None) if args else None
        return ScoredStep(terms, root, leaf, self.alpha, self.reduce, collector.guide_sites, weigh, features)


def _total(terms: LeafTerms, root: Tensor) -> Tensor:
    total = root.sum() * terms.data_scale if terms.data_scale != 1 else root.sum()
    return total if terms.constant is None else total + terms.constant


def _check_owned(model: Any, guide: Any, estimator: Estimator, trace: Any) -> None:
    """SVI optimises what the global store holds by a name, which may be another model's parameter."""
    owners = [owner_of(model), owner_of(guide), estimator]
    if None in owners:
        return
    own = {id(parameter) for owner in owners for parameter in owner.parameters()}  # type: ignore[union-attr]
    for name, site in trace.nodes.items():
        if site["type"] != "param":
            continue
        if not hasattr(site["value"], "unconstrained"):  # it is a parameter of a module, and SVI would fail on it
            raise ValueError(
                "the setting module_local_params is True, under which no parameter is in Pyro's parameter store, which "
                "SVI optimises; give pyro.settings.set(module_local_params=False), or take steps of an optimiser of "
                "torch.optim on the module CircuitELBO(..)(model, guide)"
            )
        if id(site["value"].unconstrained()) not in own:
            raise wrong_in_store(name)


def _unwrapped(fn: Any) -> Any:
    return fn
