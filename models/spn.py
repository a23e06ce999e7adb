# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The vanilla sum-product network (Poon and Domingos 2011): a circuit over tractable leaves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_spvae import checks
from pyro_spvae.circuits import Circuit, RegionGraph
from pyro_spvae.distributions.kinds import hidden_pixels
from pyro_spvae.infer.cluster_start import clustered_statistics
from pyro_spvae.infer.em import ClosedFormLeaf, ExpectedStatistics
from pyro_spvae.infer.online_em import RunningStatistics
from pyro_spvae.leaves import LeafGuide, LeafModel
from pyro_spvae.likelihoods import Bernoulli, Likelihood
from pyro_spvae.locking import alone
from pyro_spvae.models.factorized import FactorizedLeaf
from pyro_spvae.models.spvae import SPVAE
from pyro_spvae.queries import LeafBatch
from pyro_spvae.queries.batch import batches, check_shapes

_LEAST_STEP = 0.01  # part of a step size that it falls to


class Explanation(NamedTuple):
    """
    The most probable explanation of data, see :meth:`SPN.mpe`.

    :ivar Tensor x: the data with unseen entries filled in, ``[data, *event_shape]``.
    :ivar Tensor tree: the leaves of the induced tree, ``bool [data, leaf]``.
    :ivar Tensor log_prob: joint log-density of tree and completed data in nats, ``[data]``.

    Example::

        >>> spn = SPN(poon_domingos((2, 2), delta=1), units=2, likelihood=Bernoulli())
        >>> x = torch.cartesian_prod(*[torch.arange(2.0)] * 4).reshape(16, 1, 2, 2)  # all images
        >>> best = spn.mpe(x)
        >>> best.tree.shape, bool((best.log_prob <= spn.log_prob(x)).all())
        (torch.Size([16, 8]), True)
    """

    x: Tensor
    tree: Tensor
    log_prob: Tensor


class SPN(SPVAE):
    r"""
    A sum-product network: :class:`~pyro_spvae.models.SPVAE` with leaves whose density is known in closed form, by
    default those of :class:`~pyro_spvae.models.FactorizedLeaf`,

    .. math:: p(x) = \sum_T p(T) \prod_{l \in T} \prod_{j \in l} p(x_j; \theta_{lj}).

    All of SPVAE works on it, and is exact: densities, marginals and conditional samples (:meth:`impute`) take one pass
    whatever the number of particles. Trained by gradient (:meth:`fit`) or by EM (:meth:`fit_em`; ``fit`` with
    ``optimiser="em"`` watches validation rows and keeps checkpoints).

    :param regions: a :class:`~pyro_spvae.circuits.RegionGraph`, or a :class:`~pyro_spvae.circuits.Circuit` over one.
    :param int units: sum nodes of every inner region, 2 by default.
    :param int leaves: leaves of every leaf region; ``units`` by default.
    :param Likelihood likelihood: of the pixels, ``Bernoulli()`` by default.
    :param LeafModel leaf: instead of a likelihood, another leaf whose density is known in closed form, such as
        :class:`~pyro_spvae.models.GaussianLeaf`.
    :param LeafGuide guide: one that states no site, which need not be given.
    :param channels: as for :class:`~pyro_spvae.models.SPVAE`.
    :raises ValueError: for arguments that do not go together.

    Example::

        >>> spn = SPN(poon_domingos((2, 2), delta=1), units=2, likelihood=Bernoulli())
        >>> x = torch.cartesian_prod(*[torch.arange(2.0)] * 4).reshape(16, 1, 2, 2)  # all images
        >>> losses = spn.fit_em(x[:5], epochs=3)
        >>> round(spn.log_prob(x).exp().sum().item(), 4)  # exact
        1.0
        >>> observed = torch.tensor([[[True, False], [True, False]]])
        >>> bool((spn.log_prob(x, observed) >= spn.log_prob(x)).all())  # of the seen entries
        True
        >>> spn.impute(x, observed).shape  # exact draws of the others
        torch.Size([1, 16, 1, 2, 2])
        >>> spn.mpe(x, observed).x.shape  # the most probable ones
        torch.Size([16, 1, 2, 2])
    """

    def __init__(
        self,
        regions: RegionGraph | Circuit,
        units: int | None = None,
        leaves: int | None = None,
        likelihood: Likelihood | None = None,
        *,
        leaf: LeafModel | None = None,
        guide: LeafGuide | None = None,
        channels: int | str | None = "auto",
    ) -> None:
        if leaf is None:
            leaf = FactorizedLeaf(Bernoulli() if likelihood is None else likelihood)
        elif likelihood is not None:
            raise ValueError("leaf is given, so leave out the likelihood of the default leaf")
        checks.instance("leaf", leaf, LeafModel)
        if not leaf.tractable:
            raise ValueError(
                f"leaf is a {type(leaf).__name__}; one without latent variables whose density is known in closed form "
                "is needed, such as a FactorizedLeaf or GaussianLeaf"
            )
        super().__init__(regions, units, leaves, leaf=leaf, guide=guide, channels=channels)

    @alone()
    def log_prob(self, x: Any, observed: Any = None) -> Tensor:
        """
        The exact log-density of every datum, or of its seen entries; differentiable in the parameters.

        All data go through the circuit together; :meth:`log_likelihood` gives the same in bounded memory.

        :param Tensor x: data ``[data, *event_shape]``.
        :param Tensor observed: ``bool``, broadcastable to ``x``, True = seen. Other entries of ``x`` are not looked at,
            and are integrated out.
        :returns: nats, ``[data]``.
        """
        return self.circuit.log_prob(self._leaf_log_prob(self.check(x, observed)))

    @alone()
    @torch.no_grad()
    def mpe(self, x: Any = None, observed: Any = None) -> Explanation:
        r"""
        The most probable explanation: the induced tree :math:`T` and the unseen entries that together maximise

        .. math:: p(T, x) = w_T \prod_{l \in T} \prod_{j \in l} p(x_j; \theta_{lj})

        given the seen entries, exactly. As every tree brings its leaves' modes, this is one pass of maxima, where the
        entries that maximise :math:`p(x)`, summed over trees, are hard to find.

        :param Tensor x: data ``[data, *event_shape]``; ``None`` for one datum of which nothing is seen.
        :param Tensor observed: as in :meth:`log_prob`; if all is seen, the most probable tree is found.
        :returns: :class:`Explanation`; its tree is one of several with the same leaves where there are several ways
            to them, and the joint density is that of this one.
        :raises ValueError: if the likelihood's distribution has no mode.
        """
        if x is None:
            if observed is not None:
                raise ValueError("observed is given without x; give both, or neither")
            x = next(self.leaf.parameters()).new_zeros(1, *self.event_shape)
            observed = torch.zeros(self.event_shape, dtype=torch.bool, device=x.device)
        x, observed = self.taken(x, observed)
        self.refuse(x, observed)
        found = [self._explain(batch) for batch in self._blocks(x, observed, 1)]
        return Explanation(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def em_step(
        self, x: Any, observed: Any = None, *, smoothing: float = 0.1, ridge: float = 1e-3, batch_size: int = 256
    ) -> float:
        """
        One step of EM on all data, see :meth:`fit_em`.

        :returns: the mean log-likelihood of the data before the step, in nats.
        """
        _check_em(smoothing, ridge, batch_size)
        x, observed = self._em_data(x, observed)
        self._begin(x, observed)
        return self._em_step(x, observed, smoothing, ridge, batch_size)

    def fit_em(
        self,
        x: Any,
        epochs: int = 100,
        observed: Any = None,
        *,
        smoothing: float = 0.1,
        ridge: float = 1e-3,
        tolerance: float = 1e-4,
        batch_size: int = 256,
        step_rows: int | None = None,
        step_size: float = 0.3,
        progress: bool = False,
    ) -> list[float]:
        r"""
        Maximises the likelihood by expectation maximisation: weights and leaf parameters become the shares and means
        that the posterior over induced trees expects of the data (Peharz et al. 2017, "On the latent variable
        interpretation in sum-product networks").

        With ``smoothing=0`` and ``ridge=0`` no step lowers the likelihood. A positive :math:`a` lets each step go as if
        :math:`a` more data had reached each sum, evenly over its products, and :math:`a` each leaf pixel: evenly over
        the values of a discrete likelihood, distributed like all data at the pixel under any other, and in
        :class:`~pyro_spvae.models.GaussianLeaf` about the leaf's own mean with the covariance W within its region's
        leaves, :math:`\Sigma_k = (S_k + a W) / (n_k + a)` of :math:`n_k` expected data with the scatter :math:`S_k`. It
        keeps the probability of values that were not seen in training from vanishing; then what never falls in a step
        is the likelihood plus the logarithm of the prior that this stands for: Dirichlet of probabilities,
        inverse-Wishart at W of covariances. The ridge is added to the diagonal of the covariances of
        :class:`~pyro_spvae.models.GaussianLeaf`, in units of each column's variance in all data, so that no determinant
        collapses.

        With ``step_rows`` a step is taken after every so many rows, drawn without replacement in each epoch: the
        expected statistics of all data are moved by ``step_size`` towards those of the batch, and the parameters follow
        from them (:class:`~pyro_spvae.infer.RunningStatistics`), by :math:`\gamma_t` that falls from ``step_size`` as a
        half cosine to a hundredth of it, but is at least :math:`1 / t`: the first steps are a plain mean. With
        ``step_rows=len(x)`` and ``step_size=1`` the first step is the one on all data.

        Leaves that start from data do so first, unless they have. Another thread that asks a model is answered between
        two steps.

        Gamma and Beta parameters are the most likely ones, by Newton's method. Student's t distributions are taken for
        mixtures of Normal ones and negative binomials for mixtures of Poisson variables, whose hidden precisions (Liu
        and Rubin 1995) and rates are expected too: steps raise the likelihood, to the most likely parameters in many.

        Sums and pixels that no data reach stay as they are. Probabilities are kept above 1e-6 in leaves and 1e-12 in
        sums, and deviations above ``min_scale``.

        :param Tensor x: data ``[data, *event_shape]``, all of them; no gradient is taken.
        :param int epochs: most passes over the data.
        :param Tensor observed: as in :meth:`log_prob`; parameters are learnt from what is seen, of jointly Normal
            columns with the others' conditional expectations.
        :param float smoothing: :math:`a`, in data.
        :param float ridge: of covariances, in variances of the data.
        :param float tolerance: stop when an epoch raises the mean log-likelihood by less, in nats; where a step has
            ``step_rows``, the mean under the parameters of its steps.
        :param int batch_size: data that go through the circuit together, which bounds memory; the result is that of
            one step on all data.
        :param int step_rows: rows of a step; by default all.
        :param float step_size: of steps that have ``step_rows``, above 0 and at most 1.
        :param bool progress: show a progress bar.
        :returns: the mean log-likelihood of the data in nats before the first step and after each epoch; where a step
            has ``step_rows``, means over each epoch's steps, and last that of the data after all of them.
        :raises ValueError: for an option out of range, data that do not fit, or a likelihood or circuit without a
            closed M-step.
        """
        _check_em(smoothing, ridge, batch_size)
        epochs = checks.positive_integer("epochs", epochs)
        if not checks.is_real(tolerance) or math.isnan(tolerance):
            raise ValueError(f"tolerance is {tolerance!r}; a number is needed")
        step_rows = None if step_rows is None else checks.positive_integer("step_rows", step_rows)
        check_step_size(step_size)
        x, observed = self._em_data(x, observed)
        self.trained_on(None, lambda: [x if observed is None else x[observed.expand(x.shape)]], stacklevel=2)
        self._begin(x, observed)
        history: list[float] = []
        running = RunningStatistics(len(x))
        with tqdm(total=epochs, unit="epoch", desc="EM", disable=not progress) as bar:
            for epoch in range(epochs):
                if step_rows is None:
                    history.append(self._em_step(x, observed, smoothing, ridge, batch_size))
                else:
                    sizes = _falling(step_size, epoch, epochs, -(-len(x) // step_rows))
                    options = (smoothing, ridge, batch_size)
                    history.append(self._em_epoch(x, observed, running, step_rows, sizes, *options))
                bar.set_postfix(log_likelihood=f"{history[-1]:.3f}")
                bar.update()
                if len(history) > 1 and history[-1] - history[-2] < tolerance:
                    break
        with torch.no_grad():
            parts = [self.log_prob(*batch).double().sum() for batch in batches(x, observed, batch_size)]
        return [*history, float(sum(parts)) / len(x)]

    def _em_data(self, x: Any, observed: Any) -> tuple[Tensor, Tensor | None]:
        """Data as tensors, once it is known that there is a closed M-step and that they fit."""
        self.check_closed_form()
        x, observed = self.taken(x, observed)
        check_shapes(self.event_shape, self._reference(x), x, observed)
        return x, observed

    def _begin(self, x: Tensor, observed: Tensor | None) -> None:
        """Shows rows to leaves that start from data, unless they have."""
        wanted = self.wanted_rows
        if wanted:
            rows = torch.randperm(len(x), device=x.device)[:wanted] if wanted < len(x) else slice(None)
            self.start(x[rows], None if observed is None else observed.expand(x.shape)[rows])

    @alone()
    @torch.no_grad()
    def start_at_clusters(
        self,
        x: Any,
        observed: Any = None,
        *,
        blur: float = 0.05,
        smoothing: float = 0.1,
        ridge: float = 1e-3,
        tick: Callable[[int], None] = lambda done: None,
    ) -> None:
        r"""
        Starts at clusters of data in the place of random parameters: for every region, rows are clustered by the
        variables about it, as many clusters as it has units, and weights and leaf parameters follow by counting which
        clusters meet, see :func:`pyro_spvae.infer.cluster_start.clustered_statistics` (after "latent variable
        distillation", Liu, Zhang and Van den Broeck 2023). Training by gradient or by EM then begins near where random
        parameters come after many steps, and mostly ends higher. ``fit`` and ``pyro-spvae train`` do this by themselves
        where ``start`` says so.

        :param Tensor x: data ``[data, *event_shape]``; some thousands are enough.
        :param Tensor observed: as in :meth:`log_prob`; unseen features count as their means for clusters, and nowhere
            else.
        :param float blur: part in which clusters count as if they did not depend on each other, from 0 to 1.
        :param float smoothing: as in :meth:`fit_em`.
        :param float ridge: as in :meth:`fit_em`.
        :param callable tick: told now and then how many regions are clustered.
        :raises ValueError: for an option out of range, data that do not fit, or a likelihood without a closed M-step.
        """
        _check_em(smoothing, ridge, 1)
        if not checks.is_number(blur) or not 0 <= blur <= 1:
            raise ValueError(f"blur is {blur!r}; a number from 0 to 1 is needed")
        x, observed = self._em_data(x, observed)
        self._begin(x, observed)
        expected = self.expected_statistics()
        clustered_statistics(expected, lambda: self._parts(x, observed), blur, tick)
        self.maximise(expected, smoothing, ridge)

    def _parts(self, x: Tensor, observed: Tensor | None) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Features, with means where nothing is seen, values and their mask, few rows at a time."""
        means = None if observed is None else self._feature_means(x, observed)
        for batch in self._blocks(x, observed, 1):
            features = batch.features
            seen = None if means is None else self.leaf.feature_mask(batch.mask)
            if seen is not None and means is not None:
                features = torch.where(seen, features, means)
            yield features, batch.patches, batch.mask

    def _feature_means(self, x: Tensor, observed: Tensor) -> Tensor:
        """Means of the features that are seen, ``[leaf, feature]``; 0 of those that never are."""
        total: Any = 0.0
        count: Any = 0.0
        for batch in self._blocks(x, observed, 1):
            seen = self.leaf.feature_mask(batch.mask)
            count = count + (torch.ones_like(batch.features) if seen is None else seen.expand_as(batch.features)).sum(0)
            total = total + batch.features.sum(0)  # 0 where not seen
        means: Tensor = total / count.clamp(min=1)
        return means

    def check_closed_form(self) -> None:
        """
        :raises ValueError: if a likelihood has no sufficient statistics, without which there is no closed M-step.
        """
        self.leaf.check_closed_form()

    def expected_statistics(self) -> ExpectedStatistics:
        """Statistics of no data yet, for an E-step of one's own: :meth:`expect` adds to them."""
        return ExpectedStatistics(self.circuit, cast("ClosedFormLeaf", self.leaf))

    @alone()
    @torch.no_grad()
    def expect(self, expected: ExpectedStatistics, x: Tensor, observed: Tensor | None = None) -> None:
        """
        A part of the E-step: adds what is expected of data, under the present parameters.

        :param ExpectedStatistics expected: what is added to.
        :param Tensor x: data ``[data, *event_shape]``, which go through the circuit together.
        :param Tensor observed: as in :meth:`log_prob`.
        """
        batch = self.check(x, observed, as_trained=False)
        expected.add(self._leaf_log_prob(batch), batch.patches, batch.mask)

    @alone()
    def maximise(self, expected: ExpectedStatistics, smoothing: float = 0.1, ridge: float = 1e-3) -> None:
        """
        The M-step: parameters from what was expected of all data, see :meth:`fit_em`.

        :param ExpectedStatistics expected: the statistics.
        :param float smoothing: as in :meth:`fit_em`.
        :param float ridge: as in :meth:`fit_em`.
        """
        expected.maximise(smoothing, ridge)

    @alone()
    def _em_step(self, x: Tensor, observed: Tensor | None, smoothing: float, ridge: float, batch_size: int) -> float:
        expected = self._expected(x, observed, batch_size)
        self.maximise(expected, smoothing, ridge)
        return expected.log_likelihood / len(x)

    def _em_epoch(
        self,
        x: Tensor,
        observed: Tensor | None,
        running: RunningStatistics,
        step_rows: int,
        sizes: Iterator[float],
        smoothing: float,
        ridge: float,
        batch_size: int,
    ) -> float:
        """Steps on some of the rows each, in a new order."""
        total = 0.0
        seen = None if observed is None else observed.expand(x.shape)
        for rows in torch.randperm(len(x), device=x.device).split(step_rows):
            with alone():
                expected = self._expected(x[rows], None if seen is None else seen[rows], batch_size)
                total += expected.log_likelihood
                running.take(expected, next(sizes))
                if running.ready:
                    self.maximise(running.into(expected), smoothing, ridge)
        return total / len(x)

    def _expected(self, x: Tensor, observed: Tensor | None, batch_size: int) -> ExpectedStatistics:
        expected = self.expected_statistics()
        for rows, seen in batches(x, observed, batch_size):
            self.expect(expected, rows, seen)
        return expected

    def _leaf_log_prob(self, batch: LeafBatch) -> Tensor:
        """Log-densities of what each leaf sees, ``[data, leaf]``; 0 where it sees nothing."""
        log_prob: Tensor = self.leaf.law(batch.mask).log_prob(batch.patches)
        return log_prob

    def _explain(self, batch: LeafBatch) -> Explanation:
        distribution = self.leaf.law(self.view.mask)
        patches = batch.patches
        padding = self.view.mask
        if batch.mask is not None and bool((~batch.mask if padding is None else padding & ~batch.mask).any()):
            try:
                mode = hidden_pixels(distribution, patches, batch.mask).mode
            except (NotImplementedError, AttributeError):
                names = ", ".join(sorted({type(likelihood).__name__ for likelihood in self.likelihoods}))
                raise ValueError(f"mpe needs the mode of the likelihood {names}, which is not defined") from None
            patches = torch.where(batch.mask, patches, mode)
        # the largest joint density of what each leaf sees and what it does not
        tree, log_prob = self.circuit.mpe(distribution.log_prob(patches))
        return Explanation(self.view.assemble(tree, patches), tree, log_prob)


def _check_em(smoothing: float, ridge: float, batch_size: int) -> None:
    checks.number_of_at_least("smoothing", smoothing)
    checks.number_of_at_least("ridge", ridge)
    checks.positive_integer("batch_size", batch_size)


def check_step_size(step_size: object) -> None:
    """
    :raises ValueError: unless it is a number above 0 and at most 1.
    """
    if not checks.is_number(step_size) or not 0 < float(step_size) <= 1:  # type: ignore[arg-type]
        raise ValueError(f"step_size is {step_size!r}; a number above 0 and at most 1 is needed")


def _falling(step_size: float, epoch: int, epochs: int, steps: int) -> Iterator[float]:
    """The step sizes of an epoch, of so many steps each."""
    for step in range(epoch * steps, (epoch + 1) * steps):
        part = (1 + math.cos(math.pi * step / (epochs * steps))) / 2
        yield step_size * (_LEAST_STEP + (1 - _LEAST_STEP) * part)
