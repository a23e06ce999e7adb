# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""From a pair of traces to the log-weights of leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from torch import Tensor

from pyro_spvae.distributions import InducedTree

DATA_PLATE = "data"
LEAF_PLATE = "leaf"
PARTICLE_PLATE = "num_particles_vectorized"


@dataclass
class LeafTerms:
    r"""
    What a model and a guide say about a batch, sorted by plate. All in nats.

    :ivar Tensor log_weight: :math:`\log w_{kl} = \log p(x_l, z_{kl}) - \log q(z_{kl} \mid x_l)`, summed over the sites
        inside the leaf plate, ``[particle, .., data, leaf]``.
    :ivar Tensor score: :math:`\log q` of the guide's sites without ``rsample``, same shape, or ``None``.
    :ivar Tensor observed: :math:`\log p` of the observed sites inside the leaf plate, same shape, or ``None``.
    :ivar Tensor outside: sites in the data plate but not in the leaf plate, ``[particle, .., data]``, or ``None``.
    :ivar Tensor constant: sites outside the data plate, a scalar, or ``None``.
    :ivar InducedTree tree: the collapsed distribution over trees, or ``None`` where the tree was conditioned on.
    :ivar Tensor selected: the tree conditioned on, ``bool [.., data, leaf]``, or ``None``.
    :ivar float data_scale: size of the data over size of the batch (plate subsampling).
    :ivar float guide_scale: the scale a user's ``poutine.scale`` gives to the guide's sites (KL annealing).
    :ivar bool latent: whether the guide has any site; without one all particles are alike.
    """

    log_weight: Tensor
    score: Tensor | None
    observed: Tensor | None
    outside: Tensor | None
    constant: Tensor | None
    tree: InducedTree | None
    selected: Tensor | None
    data_scale: float
    guide_scale: float
    latent: bool


class LeafTermCollector:
    """
    Sorts the sites of a model and a guide trace by plate and adds them up.

    :param bool joint_particles: whether particles stay joint up to the root (``reduce="root"``), so that sites outside
        the leaf plate may differ between particles.
    """

    def __init__(self, joint_particles: bool) -> None:
        self.joint_particles = joint_particles

    def collect(
        self, model_trace: Trace, guide_trace: Trace, guide_log_prob: Callable[[str, Any], Tensor] | None = None
    ) -> LeafTerms:
        """
        :param Trace model_trace: the model, replayed against the guide, tree sites collapsed.
        :param Trace guide_trace: the guide.
        :param callable guide_log_prob: how to score a guide site given its name and node; by default its own density.
        :raises ValueError: for sites that cannot be placed, naming them.
        """
        model_sites = _sample_sites(model_trace)
        guide_sites = _sample_sites(guide_trace)
        tree, selected, tree_outside = self._find_tree(model_sites, guide_sites)
        log_weight: Tensor | None = None
        score: Tensor | None = None
        observed: Tensor | None = None
        outside, constant = tree_outside, None
        guide_scales = set()
        scales = set()

        for name, site in model_sites.items():
            if isinstance(site["fn"], InducedTree) or "collapsed" in site["infer"]:
                scales.add(_plate_scale(site))
                continue
            if not site["is_observed"] and name not in guide_sites:
                raise ValueError(f"CircuitELBO: the model's latent site '{name}' is not in the guide; add it there")
            log_prob = counted(site, _density(site))
            plates = _plates(site)
            if LEAF_PLATE in plates:
                scales.add(_plate_scale(site))
                log_weight = _add(log_weight, log_prob)
                if site["is_observed"]:
                    observed = _add(observed, log_prob)
                else:
                    self.see_model(name, site, log_prob)
            elif DATA_PLATE in plates:
                self._check_outside(name, site)
                outside = _add(outside, log_prob.squeeze(-1))
            else:
                self._check_global(name, site)
                constant = _add(constant, log_prob.sum() * _plate_scale(site) / _num_particles(site))

        for name, site in guide_sites.items():
            if site["is_observed"] and not site["infer"].get("is_auxiliary"):
                continue
            density = _density(site) if guide_log_prob is None else guide_log_prob(name, site)
            log_prob = counted(site, density)
            plates = _plates(site)
            if LEAF_PLATE in plates:
                scales.add(_plate_scale(site))
                guide_scales.add(float(site["scale"]) / _plate_scale(site))
                log_weight = _add(log_weight, -log_prob)
                self.see_guide(name, site, log_prob)
                if not site["fn"].has_rsample:  # the score of what was drawn, however much it counts in the weight
                    score = _add(score, scale_and_mask(density, 1.0, site["mask"]))
            elif DATA_PLATE in plates:
                self._check_outside(name, site)
                outside = _add(outside, -log_prob.squeeze(-1))
                if not site["fn"].has_rsample:
                    raise ValueError(
                        f"CircuitELBO: the guide's site '{name}' has no rsample and lies outside the plate "
                        f"'{LEAF_PLATE}'; a score-function gradient is built for sites inside it only"
                    )
            else:
                self._check_global(name, site)

        if log_weight is None:
            raise ValueError(f"CircuitELBO: no site lies inside the plate '{LEAF_PLATE}'; leaf sites belong there")
        if len(scales) > 1:
            raise ValueError(
                f"CircuitELBO: leaf and tree sites are subsampled by different factors {sorted(scales)}; "
                f"they belong into one plate '{DATA_PLATE}', and the plate '{LEAF_PLATE}' cannot be subsampled"
            )
        return LeafTerms(
            log_weight,
            score,
            observed,
            outside,
            constant,
            tree,
            selected,
            data_scale=scales.pop(),
            guide_scale=guide_scales.pop() if len(guide_scales) == 1 else float("nan") if guide_scales else 1.0,
            latent=bool(guide_sites),
        )

    def see_model(self, name: str, site: Any, log_prob: Tensor) -> None:
        r"""Shown the model's latent sites inside the leaf plate, with :math:`\log p` as it counts; to be overridden."""

    def see_guide(self, name: str, site: Any, log_prob: Tensor) -> None:
        r"""Shown the guide's sites inside the leaf plate, with :math:`\log q` as it counts; to be overridden."""

    def _find_tree(
        self, model_sites: dict[str, Any], guide_sites: dict[str, Any]
    ) -> tuple[InducedTree | None, Tensor | None, Tensor | None]:
        trees = {n: s for n, s in model_sites.items() if "collapsed" in s["infer"] or isinstance(s["fn"], InducedTree)}
        if len(trees) != 1:
            found = ", ".join(f"'{name}'" for name in trees) or "none"
            raise ValueError(f"CircuitELBO needs exactly one InducedTree site in the model; found {found}")
        ((name, site),) = trees.items()
        if name in guide_sites:
            raise ValueError(
                f"CircuitELBO sums the tree site '{name}' out itself; hide it from the guide (poutine.block), or use "
                "an ELBO that samples it"
            )
        if abs(float(site["scale"]) / _plate_scale(site) - 1) > 1e-9:
            raise ValueError(
                f"CircuitELBO: a poutine.scale reaches the tree site '{name}', whose weights cannot be scaled; "
                "scale leaf sites only, and the loss by a factor of your own"
            )
        if "collapsed" in site["infer"]:
            return site["infer"]["collapsed"], None, None
        log_prob = counted(site, _density(site))
        return None, site["value"].bool().squeeze(-2), log_prob.squeeze(-1)

    def _check_outside(self, name: str, site: Any) -> None:
        if not self.joint_particles and not site["is_observed"]:
            raise ValueError(
                f"CircuitELBO: the latent site '{name}' lies outside the plate '{LEAF_PLATE}', where particles "
                "cannot be averaged per leaf; move it inside, or pass reduce='root'"
            )

    @staticmethod
    def _check_global(name: str, site: Any) -> None:
        if not site["is_observed"]:
            raise ValueError(
                f"CircuitELBO: the latent site '{name}' lies outside the plate '{DATA_PLATE}', where it would turn the "
                "bound of each datum into one of the whole batch; make it a parameter"
            )


def counted(site: Any, value: Tensor) -> Tensor:
    """
    A value of a site ``[.., data, leaf]``, such as its log-density, under the site's mask and the user's scale, but not
    the plates' scale, which acts outside the logarithm.
    """
    plate_scale = _plate_scale(site)
    scale = site["scale"] if plate_scale == 1.0 else site["scale"] / plate_scale
    return scale_and_mask(value, scale, site["mask"])


def _sample_sites(trace: Any) -> dict[str, Any]:
    """Sample sites without subsampling and deterministic ones."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and type(site["fn"]).__name__ != "_Subsample"
        and not site["infer"].get("_deterministic")
    }


def _plates(site: Any) -> set[str]:
    return {frame.name for frame in site["cond_indep_stack"] if frame.vectorized}


def _plate_scale(site: Any) -> float:
    """Product of full size over subsample size; a user's poutine.scale is not part of it."""
    scale = 1.0
    for frame in site["cond_indep_stack"]:
        if frame.full_size is not None and frame.full_size > 0:
            scale *= frame.full_size / frame.size
    return scale


def _num_particles(site: Any) -> int:
    return next((frame.size for frame in site["cond_indep_stack"] if frame.name == PARTICLE_PLATE), 1)


def _density(site: Any) -> Tensor:
    """Log-density of the value before scales and masks; validation has computed it already."""
    if "unscaled_log_prob" in site:
        return site["unscaled_log_prob"]
    return site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])


def _add(total: Tensor | None, term: Tensor) -> Tensor:
    return term if total is None else total + term
