# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The vanilla sum-product network (Poon and Domingos 2011): a circuit over tractable leaves."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_spvae import checks
from pyro_spvae.circuits import Circuit, RegionGraph
from pyro_spvae.infer.em import ExpectedStatistics
from pyro_spvae.leaves import LeafGuide, LeafModel
from pyro_spvae.likelihoods import Bernoulli, Likelihood
from pyro_spvae.locking import alone
from pyro_spvae.models.factorized import FactorizedLeaf
from pyro_spvae.models.spvae import SPVAE
from pyro_spvae.queries import LeafBatch
from pyro_spvae.queries.batch import check_shapes
from pyro_spvae.queries.queries import batches


class Explanation(NamedTuple):
    """
    The most probable explanation of data, see :meth:`SPN.mpe`.

    :ivar Tensor x: the data with unseen entries filled in, ``[data, *event_shape]``.
    :ivar Tensor tree: the leaves of the induced tree, ``bool [data, leaf]``.
    :ivar Tensor log_prob: joint log-density of tree and completed data in nats, ``[data]``.
    """

    x: Tensor
    tree: Tensor
    log_prob: Tensor


class SPN(SPVAE):
    r"""
    A sum-product network: :class:`~pyro_spvae.models.SPVAE` with the leaf
    :class:`~pyro_spvae.models.FactorizedLeaf`,

    .. math:: p(x) = \sum_T p(T) \prod_{l \in T} \prod_{j \in l} p(x_j; \theta_{lj}).

    All of SPVAE works on it, and is exact: densities, marginals and conditional samples (:meth:`impute`) take one pass
    whatever the number of particles. Trained by gradient (:meth:`fit`) or by EM (:meth:`fit_em`; ``fit`` with
    ``optimiser="em"`` watches validation rows and keeps checkpoints).

    Example::

        spn = SPN(poon_domingos((28, 28), delta=[4, 1]), units=2, likelihood=Bernoulli())
        spn.fit_em(x, epochs=20)
        spn.log_prob(x)  # exact, nats
        spn.log_prob(x, observed)  # of the seen entries
        spn.impute(x, observed)  # exact draws of the others
        spn.mpe(x, observed).x  # the most probable ones

    :param regions: a :class:`~pyro_spvae.circuits.RegionGraph`, or a :class:`~pyro_spvae.circuits.Circuit` over one.
    :param int units: sum nodes of every inner region, 2 by default.
    :param int leaves: leaves of every leaf region; ``units`` by default.
    :param Likelihood likelihood: of the pixels, ``Bernoulli()`` by default.
    :param FactorizedLeaf leaf: instead of a likelihood.
    :param LeafGuide guide: one that states no site, which need not be given.
    :param channels: as for :class:`~pyro_spvae.models.SPVAE`.
    :raises ValueError: for arguments that do not go together.
    """

    leaf: FactorizedLeaf

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
        checks.instance("leaf", leaf, FactorizedLeaf)
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
        self.check(x, observed)
        found = [self._explain(batch) for batch in self._blocks(x, observed, 1)]
        return Explanation(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def em_step(self, x: Any, observed: Any = None, *, smoothing: float = 0.1, batch_size: int = 256) -> float:
        """
        One step of EM on all data, see :meth:`fit_em`.

        :returns: the mean log-likelihood of the data before the step, in nats.
        """
        _check_em(smoothing, batch_size)
        x, observed = self.taken(x, observed)
        check_shapes(self.event_shape, self._reference(x), x, observed)
        return self._em_step(x, observed, smoothing, batch_size)

    def fit_em(
        self,
        x: Any,
        epochs: int = 100,
        observed: Any = None,
        *,
        smoothing: float = 0.1,
        tolerance: float = 1e-4,
        batch_size: int = 256,
        progress: bool = False,
    ) -> list[float]:
        r"""
        Maximises the likelihood by expectation maximisation: weights and leaf parameters become the shares and means
        that the posterior over induced trees expects of the data (Peharz et al. 2017, "On the latent variable
        interpretation in sum-product networks").

        With ``smoothing=0`` no step lowers the likelihood. A positive :math:`a` lets each step go as if :math:`a` more
        data had reached each sum, evenly over its products, and :math:`a` each leaf pixel: evenly over the values of a
        discrete likelihood, distributed like all data at the pixel under a normal one. It keeps the probability of
        values that were not seen in training from vanishing; then what never falls is the likelihood plus the
        logarithm of the Dirichlet prior that this stands for.

        Another thread that asks a model is answered between two steps.

        Sums and pixels that no data reach stay as they are. Probabilities are kept above 1e-6 in leaves and 1e-12 in
        sums, and deviations above ``min_scale``.

        :param Tensor x: data ``[data, *event_shape]``, all of them; no gradient is taken.
        :param int epochs: most steps, each over all data.
        :param Tensor observed: as in :meth:`log_prob`; a pixel's parameters are learnt from where it is seen.
        :param float smoothing: :math:`a`, in data.
        :param float tolerance: stop when a step raises the mean log-likelihood by less, in nats.
        :param int batch_size: data that go through the circuit together, which bounds memory; the result is that of
            one step on all data.
        :param bool progress: show a progress bar.
        :returns: the mean log-likelihood of the data in nats before the first step and after each one.
        :raises ValueError: for an option out of range, data that do not fit, or a likelihood or circuit without a
            closed M-step.
        """
        _check_em(smoothing, batch_size)
        epochs = checks.positive_integer("epochs", epochs)
        if not checks.is_real(tolerance) or math.isnan(tolerance):
            raise ValueError(f"tolerance is {tolerance!r}; a number is needed")
        x, observed = self.taken(x, observed)
        check_shapes(self.event_shape, self._reference(x), x, observed)
        self.trained_on(None, lambda: [x if observed is None else x[observed.expand(x.shape)]], stacklevel=2)
        history: list[float] = []
        with tqdm(total=epochs, unit="epoch", desc="EM", disable=not progress) as bar:
            for _ in range(epochs):
                history.append(self._em_step(x, observed, smoothing, batch_size))
                bar.set_postfix(log_likelihood=f"{history[-1]:.3f}")
                bar.update()
                if len(history) > 1 and history[-1] - history[-2] < tolerance:
                    break
        with torch.no_grad():
            parts = [self.log_prob(*batch).double().sum() for batch in batches(x, observed, batch_size)]
        return [*history, float(sum(parts)) / len(x)]

    def check_closed_form(self) -> None:
        """
        :raises ValueError: if the likelihood has no sufficient statistics, without which there is no closed M-step.
        """
        likelihood = self.leaf.pixels.likelihood
        empty = next(self.parameters()).new_zeros(0, self.num_leaves, likelihood.sizes["pixels"])
        likelihood.statistics(empty, empty)

    def expected_statistics(self) -> ExpectedStatistics:
        """Statistics of no data yet, for an E-step of one's own: :meth:`expect` adds to them."""
        return ExpectedStatistics(self.circuit, self.leaf.pixels.likelihood)

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
    def maximise(self, expected: ExpectedStatistics, smoothing: float = 0.1) -> None:
        """
        The M-step: parameters from what was expected of all data, see :meth:`fit_em`.

        :param ExpectedStatistics expected: the statistics.
        :param float smoothing: as in :meth:`fit_em`.
        """
        expected.maximise(tuple(self.leaf.pixels.outputs), smoothing)

    @alone()
    def _em_step(self, x: Tensor, observed: Tensor | None, smoothing: float, batch_size: int) -> float:
        expected = self.expected_statistics()
        for rows, seen in batches(x, observed, batch_size):
            self.expect(expected, rows, seen)
        self.maximise(expected, smoothing)
        return expected.log_likelihood / len(x)

    def _leaf_log_prob(self, batch: LeafBatch) -> Tensor:
        """Log-densities of what each leaf sees, ``[data, leaf]``; 0 where it sees nothing."""
        return self.leaf.pixels(mask=batch.mask).log_prob(batch.patches)

    def _explain(self, batch: LeafBatch) -> Explanation:
        distribution = self.leaf.pixels(mask=self.view.mask)
        patches = batch.patches
        if batch.mask is not None:
            try:
                mode = distribution.mode
            except (NotImplementedError, AttributeError):
                name = type(self.leaf.pixels.likelihood).__name__
                raise ValueError(f"mpe needs the mode of the likelihood {name}, which is not defined") from None
            patches = torch.where(batch.mask, patches, mode)
        # seen densities times largest unseen ones, pixel by pixel
        tree, log_prob = self.circuit.mpe(distribution.log_prob(patches))
        return Explanation(self.view.assemble(tree, patches), tree, log_prob)


def _check_em(smoothing: float, batch_size: int) -> None:
    checks.number_of_at_least("smoothing", smoothing)
    checks.positive_integer("batch_size", batch_size)
