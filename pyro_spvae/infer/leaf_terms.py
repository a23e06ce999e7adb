# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""From a pair of traces to the log-weights of leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from torch import Tensor

from pyro_spvae.distributions import InducedTree
from pyro_spvae.infer.closed_form import ClosedSites, check_order
from pyro_spvae.infer.enumerated import Enumerated, enumerate_dim
from pyro_spvae.infer.kl_balance import KLBalance, LatentSums
from pyro_spvae.infer.outside import OutsideSites
from pyro_spvae.infer.site import (
    DATA_PLATE,
    LEAF_PLATE,
    PARTICLE_PLATE,
    check_plates,
    counted,
    own_scale,
    plate_scale,
    plates,
)


@dataclass
class LeafTerms:
    r"""
    What a model and a guide say about a batch, sorted by plate. All in nats.

    :ivar Tensor log_weight: :math:`\log w_{kl} = \log p(x_l, z_{kl}) - \log q(z_{kl} \mid x_l)`, summed over the sites
        inside the leaf plate, ``[particle, .., data, leaf]``.
        Enumerated sites are summed out of it, see :class:`LeafTermCollector`.
    :ivar Tensor score: :math:`\log q` of the guide's sites without ``rsample``, same shape, or ``None``.
    :ivar Tensor observed: :math:`\log p` of the observed sites inside the leaf plate, same shape, or ``None``.
    :ivar Tensor outside: sites in the data plate but not in the leaf plate, ``[particle, .., data]``, or ``None``.
    :ivar Tensor constant: sites outside the data plate, a scalar, or ``None``.
    :ivar InducedTree tree: the collapsed distribution over trees, or ``None`` where the tree was conditioned on.
    :ivar Tensor selected: the tree conditioned on, ``bool [.., data, leaf]``, or ``None``.
    :ivar float data_scale: size of the data over size of the batch (plate subsampling).
    :ivar float guide_scale: the scale a user's ``poutine.scale`` gives to the guide's sites (KL annealing).
    :ivar bool latent: whether the guide draws at any site; without one all particles are alike.
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


@dataclass
class _Sums:
    """Over the sites that were seen so far, as in :class:`LeafTerms`."""

    log_weight: Tensor | None = None
    score: Tensor | None = None
    observed: Tensor | None = None
    outside: Tensor | None = None
    constant: Tensor | None = None
    scales: set[float] = field(default_factory=set)
    guide_scales: set[float] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)  # latent sites whose divergence is known
    latent: LatentSums = field(default_factory=LatentSums)

    @property
    def guide_scale(self) -> float:
        """The one of all guide sites; NaN if they differ."""
        if not self.guide_scales:
            return 1.0
        return next(iter(self.guide_scales)) if len(self.guide_scales) == 1 else float("nan")


class LeafTermCollector:
    r"""
    Sorts the sites of a model and a guide trace by plate and adds them up.

    Values of an enumerated site of the guide are particles with a weight, :math:`q(c)`: of each drawn particle k they
    are summed as

    .. math:: \log w_{kl} = \tfrac{1}{1 - \alpha} \log \sum_c q(c)\, w_{klc}^{1 - \alpha},

    of the order of the bound, so that all that follows sees drawn particles alone. For :math:`\alpha = 0` it is
    :math:`\log \sum_c p(x, z, c) / q(z \mid c)`.

    :param bool joint_particles: whether particles stay joint up to the root (``reduce="root"``), so that sites outside
        the leaf plate may differ between particles.
    :param float alpha: order of the bound.
    :param ClosedSites closed: the latent sites whose divergence stands in the place of their log-densities; none by
        default.
    :param KLBalance balance: weighs latent sites while they count less than once.
    """

    def __init__(
        self,
        joint_particles: bool,
        alpha: float = 0.0,
        closed: ClosedSites | None = None,
        balance: KLBalance | None = None,
    ) -> None:
        self.joint_particles = joint_particles
        self.alpha = alpha
        self.closed = ClosedSites("sample") if closed is None else closed
        self.balance = balance
        self.enumerated = Enumerated()
        self.rest: Tensor | None = None
        self.guide_trace: Trace | None = None  # the last
        self.outside = OutsideSites()

    def weighted(self) -> tuple[Tensor, Tensor | None]:
        """
        Of the last traces, with enumerated values as particles: logarithms of weights times what they count, whose sums
        are those of drawn particles, and of the latter alone; nats, ``[value, .., data, leaf]``.
        """
        assert self.rest is not None
        return self.enumerated.weighted(self.rest), self.enumerated.log_share

    @property
    def guide_sites(self) -> dict[str, Any]:
        """The guide's latent sites inside the leaf plate, of the last trace."""
        sites = _sample_sites(self.guide_trace).items()
        return {name: site for name, site in sites if not site["is_observed"] and LEAF_PLATE in plates(site)}

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
        self.guide_trace = guide_trace
        tree, selected, tree_outside = self._find_tree(model_sites, guide_sites)
        if self.closed:
            self.closed.check([name for name, site in guide_sites.items() if not site["is_observed"]])
            check_order(f"kl={str(self.closed)!r}", model_sites, guide_sites)
        self.enumerated = Enumerated()
        sums = _Sums(latent=LatentSums(self.balance))
        if tree_outside is not None:
            self._add_outside(sums, *tree_outside)
        self._add_model(sums, model_sites, guide_sites)
        self._add_guide(sums, guide_sites, guide_log_prob)
        if (latent := sums.latent.total(self.enumerated.expect)) is not None:
            sums.log_weight = _add(sums.log_weight, latent)
        if sums.log_weight is None:
            raise ValueError(f"CircuitELBO: no site lies inside the plate '{LEAF_PLATE}'; leaf sites belong there")
        if len(sums.scales) > 1:
            raise ValueError(
                f"CircuitELBO: leaf and tree sites are subsampled by different factors {sorted(sums.scales)}; "
                f"they belong into one plate '{DATA_PLATE}', and the plate '{LEAF_PLATE}' cannot be subsampled"
            )
        self.rest = sums.log_weight
        return LeafTerms(
            self.enumerated.sum_out(sums.log_weight, self.alpha),
            sums.score,
            None if sums.observed is None else self.enumerated.expect(sums.observed),
            sums.outside,
            sums.constant,
            tree,
            selected,
            data_scale=sums.scales.pop(),
            guide_scale=sums.guide_scale,
            latent=any(enumerate_dim(site) is None for site in guide_sites.values()),
        )

    def _add_model(self, sums: _Sums, model_sites: dict[str, Any], guide_sites: dict[str, Any]) -> None:
        for name, site in model_sites.items():
            if isinstance(site["fn"], InducedTree) or "collapsed" in site["infer"]:
                sums.scales.add(plate_scale(site))
                continue
            if not site["is_observed"] and name not in guide_sites:
                raise ValueError(f"CircuitELBO: the model's latent site '{name}' is not in the guide; add it there")
            check_plates(site)
            where = plates(site)
            if name in self.closed and LEAF_PLATE in where and not site["is_observed"]:
                known = self._divergence(name, guide_sites[name], site)
                if known is not None:  # the density is not asked for, since there may be none
                    sums.scales.add(plate_scale(site))
                    sums.closed.add(name)
                    sums.latent.add(name, guide_sites[name], -counted(guide_sites[name], known))
                    continue
            log_prob = counted(site, _density(site))
            if LEAF_PLATE in where:
                sums.scales.add(plate_scale(site))
                if site["is_observed"] or enumerate_dim(guide_sites[name]) is not None:
                    sums.log_weight = _add(sums.log_weight, log_prob)
                else:
                    sums.latent.add(name, site, log_prob)
                if site["is_observed"]:
                    sums.observed = _add(sums.observed, log_prob)
                else:
                    self.see_model(name, site, log_prob)
            elif DATA_PLATE in where:
                self._check_outside(name, site)
                self._add_outside(sums, name, log_prob.squeeze(-1))
            else:
                self._check_global(name, site)
                sums.constant = _add(sums.constant, log_prob.sum() * plate_scale(site) / _num_particles(site))

    def _add_guide(
        self, sums: _Sums, guide_sites: dict[str, Any], guide_log_prob: Callable[[str, Any], Tensor] | None
    ) -> None:
        for name, site in guide_sites.items():
            if site["is_observed"] and not site["infer"].get("is_auxiliary"):
                continue
            check_plates(site)
            where = plates(site)
            if LEAF_PLATE in where:
                sums.scales.add(plate_scale(site))
                sums.guide_scales.add(own_scale(site))
                if name in sums.closed and site["fn"].has_rsample:
                    continue  # its density counts nowhere
            density = _density(site) if guide_log_prob is None else guide_log_prob(name, site)
            if LEAF_PLATE in where:
                if enumerate_dim(site) is not None:
                    log_prob = self.enumerated.add(site, density)
                else:
                    log_prob = counted(site, density)
                    if name not in sums.closed:
                        sums.latent.add(name, site, -log_prob)
                    if not site["fn"].has_rsample:  # the score of what was drawn, however much it counts in the weight
                        # each summed over the values that it depends on: a sum of both kinds would repeat the others
                        score = self.enumerated.total(scale_and_mask(density, 1.0, site["mask"]))
                        sums.score = _add(sums.score, score)
                self.see_guide(name, site, log_prob)
            elif enumerate_dim(site) is not None:
                raise ValueError(
                    f"CircuitELBO: the guide's enumerated site '{name}' lies outside the plate '{LEAF_PLATE}'; sites "
                    "inside it can be summed over"
                )
            elif DATA_PLATE in where:
                self._check_outside(name, site)
                self._add_outside(sums, name, -counted(site, density).squeeze(-1))
                if not site["fn"].has_rsample:
                    raise ValueError(
                        f"CircuitELBO: the guide's site '{name}' has no rsample and lies outside the plate "
                        f"'{LEAF_PLATE}'; a score-function gradient is built for sites inside it only"
                    )
            else:
                self._check_global(name, site)

    def _divergence(self, name: str, guide_site: Any, model_site: Any) -> Tensor | None:
        """The divergence of a latent site, where it has one that is known; enumerated sites are exact as they are."""
        if enumerate_dim(guide_site) is not None:
            return None
        return self.closed.divergence(name, guide_site["fn"], model_site["fn"], guide_site["value"])

    def see_model(self, name: str, site: Any, log_prob: Tensor) -> None:
        r"""
        Shown the model's latent sites inside the leaf plate, with :math:`\log p` as it counts, but for those in closed
        form; to be overridden.
        """

    def see_guide(self, name: str, site: Any, log_prob: Tensor) -> None:
        r"""
        Shown the guide's sites inside the leaf plate, with :math:`\log q` as it counts, but for reparameterised ones in
        closed form; to be overridden.
        """

    def _find_tree(
        self, model_sites: dict[str, Any], guide_sites: dict[str, Any]
    ) -> tuple[InducedTree | None, Tensor | None, tuple[str, Tensor] | None]:
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
        if abs(own_scale(site) - 1) > 1e-9:
            raise ValueError(
                f"CircuitELBO: a poutine.scale reaches the tree site '{name}', whose weights cannot be scaled; "
                "scale leaf sites only, and the loss by a factor of your own"
            )
        if "collapsed" in site["infer"]:
            return site["infer"]["collapsed"], None, None
        log_prob = counted(site, _density(site))
        return None, site["value"].bool().squeeze(-2), (name, log_prob.squeeze(-1))

    def _add_outside(self, sums: _Sums, name: str, log_prob: Tensor) -> None:
        sums.outside = _add(sums.outside, log_prob)
        self.outside.add(name, log_prob)

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


def _sample_sites(trace: Any) -> dict[str, Any]:
    """Sample sites without subsampling and deterministic ones."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and type(site["fn"]).__name__ != "_Subsample"
        and not site["infer"].get("_deterministic")
    }


def _num_particles(site: Any) -> int:
    return next((frame.size for frame in site["cond_indep_stack"] if frame.name == PARTICLE_PLATE), 1)


def _density(site: Any) -> Tensor:
    """Log-density of the value before scales and masks; validation has computed it already."""
    if "unscaled_log_prob" in site:
        return site["unscaled_log_prob"]
    return site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])


def _add(total: Tensor | None, term: Tensor) -> Tensor:
    return term if total is None else total + term
