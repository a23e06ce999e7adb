# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a trained model can be asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.infer import log_likelihood
from pyro_spvae.locking import alone
from pyro_spvae.queries.batch import LeafBatch, batches
from pyro_spvae.queries.calibrated import Calibration
from pyro_spvae.queries.calibration import calibrate
from pyro_spvae.queries.conditional_means import ConditionalMeans
from pyro_spvae.queries.embedding import Embedding
from pyro_spvae.queries.generation import BLOCK, EXACT_BLOCK
from pyro_spvae.queries.posterior import LeafDraws, TreePosterior
from pyro_spvae.queries.programs import guide_draws
from pyro_spvae.queries.quiet import forked, quiet

_BLOCK, _EXACT_BLOCK = BLOCK, EXACT_BLOCK


class Queries(ConditionalMeans):
    """
    The part of :class:`~pyro_spvae.models.SPVAE` that answers questions about data.

    The model is in evaluation mode for each answer. Where leaves are autoregressive, the likelihood's means are those
    of each pixel given a draw of the pixels before it, and a leaf region is either seen or missing as a whole. Where
    channels of a position are coupled, means are those of each given a draw of the channels before it.

    Data are tensors ``[data, *event_shape]``, NumPy arrays or pandas DataFrames, whose columns and categories are found
    by their names. In a table NaN is a missing entry, whatever ``observed`` says.

    Several threads may ask; each answer is given to one at a time, since Pyro's state belongs to the process.

    Example::

        >>> spvae = SPVAE(poon_domingos((4, 4), delta=2), units=2, latent_dim=2, likelihood=Bernoulli())
        >>> x = spvae.sample(6)
        >>> spvae.reconstruct(x).shape
        torch.Size([6, 1, 4, 4])
        >>> spvae.impute(x, torch.rand(1, 4, 4) < 0.5, num_samples=3).shape
        torch.Size([3, 6, 1, 4, 4])
        >>> spvae.interpolate(x[:2], x[2:4], steps=4).shape
        torch.Size([4, 2, 1, 4, 4])
    """

    @alone()
    def posterior(self, x: Any, observed: Any = None, num_particles: int = 100) -> TreePosterior:
        """
        A guide over tree and latent variables given data, for ``Predictive(spvae.model, guide=spvae.posterior(x))``.

        The tree is drawn from the circuit's posterior given importance weighted leaf values, each leaf's latent
        variables by resampling ``num_particles`` draws of the guide (from the prior where the leaf sees nothing). Call
        the model with ``num=len(x)``: it then generates anew for each datum, also the entries that were observed.

        :param Tensor x: data ``[data, *event_shape]``.
        :param Tensor observed: as in :meth:`model`.
        :param int num_particles: importance samples of each leaf.
        :returns: a callable that states the sites ``tree`` and those of the leaf guide, each time drawn anew from the
            same particles.
        """
        x, observed = self.taken(x, observed)
        batch = self.check(x, observed)
        with quiet(self):  # what follows from the parameters alone, such as a VampPrior's components, is made once
            return TreePosterior(self, batch, num_particles)

    @alone()
    def log_likelihood(
        self,
        x: Any,
        observed: Any = None,
        *,
        num_samples: int = 5000,
        chunk_size: int = 2048,
        progress: bool = False,
    ) -> Tensor:
        """
        Log-likelihood of every datum by importance sampling, see :func:`pyro_spvae.infer.log_likelihood`.

        :returns: nats, ``[data]``, higher is better.

        Example::

            >>> spvae = SPVAE(poon_domingos((2, 2), delta=1), units=2, latent_dim=2, likelihood=Bernoulli())
            >>> x = torch.cartesian_prod(*[torch.arange(2.0)] * 4).reshape(16, 1, 2, 2)  # all images
            >>> spvae.log_likelihood(x, num_samples=100).shape
            torch.Size([16])
            >>> exact = SPVAE(poon_domingos((2, 2), delta=1), units=2, leaf=FactorizedLeaf(Bernoulli()))
            >>> round(exact.log_likelihood(x).exp().sum().item(), 4)  # without latent variables
            1.0
        """
        x, observed = self.taken(x, observed)
        self.refuse(x, observed)
        with quiet(self):
            return log_likelihood(
                self.model,
                self.guide,
                x,
                observed=observed,
                num_samples=num_samples,
                chunk_size=chunk_size,
                progress=progress,
            )

    @alone()
    @torch.no_grad()
    def reconstruct(self, x: Any, observed: Any = None, *, num_particles: int = 100) -> Tensor:
        """
        The likelihood's mean given one posterior draw of tree and latent variables for every datum.

        :returns: ``[data, *event_shape]``.
        """
        return self._complete(x, observed, 1, num_particles, means=True)[0]

    @alone()
    @torch.no_grad()
    def impute(
        self,
        x: Any,
        observed: Any = None,
        num_samples: int = 1,
        *,
        num_particles: int = 100,
        means: bool = False,
        progress: bool = False,
    ) -> Tensor:
        """
        Draws the missing entries given the seen ones.

        :param x: data ``[data, *event_shape]``; values at missing entries are not looked at.
        :param observed: ``bool``, broadcastable to ``x``, True = seen; need not be given for tables with NaN.
        :param int num_samples: completions of each datum.
        :param int num_particles: importance samples of each leaf that latent variables are drawn from.
        :param bool means: fill with the likelihood's means instead of draws, given the draw of tree and latent
            variables of each completion; the mean over all of these is :meth:`conditional_mean`.
        :param bool progress: show a progress bar where pixels are drawn one after the other.
        :returns: ``[num_samples, data, *event_shape]``, seen entries as in ``x``.

        Example::

            >>> import math
            >>> table = torch.tensor([[0.3, math.nan], [math.nan, 1.2], [0.1, 0.7]])  # NaN is missing
            >>> spvae = SPVAE(whole(2), units=1, leaves=2, likelihood=Normal())
            >>> imputed = spvae.impute(table, num_samples=4)
            >>> imputed.shape, bool(imputed.isnan().any()), bool((imputed[:, 2] == table[2]).all())
            (torch.Size([4, 3, 2]), False, True)
        """
        num_samples = checks.positive_integer("num_samples", num_samples)
        x, observed = self.taken(x, observed)
        checks.instance("observed", observed, Tensor)
        filled = self._complete(x, observed, num_samples, num_particles, means, progress, hidden=True)
        return torch.where(observed, x.to(filled.dtype), filled)

    def _complete(
        self,
        x: Any,
        observed: Any,
        num_samples: int,
        num_particles: int,
        means: bool,
        progress: bool = False,
        hidden: bool = False,
    ) -> Tensor:
        """
        Draws of whole data from the posterior, ``[num_samples, data, *event_shape]``, few data at a time; or of what is
        ``hidden`` alone, given what is seen.
        """
        x, observed = self.taken(x, observed)
        self.refuse(x, observed)
        num_particles = checks.positive_integer("num_particles", num_particles)
        blocks = []
        with quiet(self):
            for batch in self._blocks(x, observed, num_particles):
                posterior = TreePosterior(self, batch, num_particles)
                seen = (batch.patches, batch.mask) if hidden and batch.mask is not None else None
                drawn = [self._generate(batch.rows, posterior, means, progress, seen=seen) for _ in range(num_samples)]
                blocks.append(torch.stack(drawn))
        return torch.cat(blocks, 1)

    @alone()
    @torch.no_grad()
    def embed(self, x: Any, observed: Any = None, *, num_particles: int = 100, sums: bool = True) -> Embedding:
        """
        What the model knows of each datum: latent means of every leaf (probabilities of discrete variables),
        probabilities of mixture components, and the exact posterior over induced trees given importance weighted leaf
        values, summed to leaves and to products.

        :param Tensor x: data ``[data, *event_shape]``.
        :param Tensor observed: as in :meth:`model`. A leaf that sees nothing of a datum has its prior's mean.
        :param int num_particles: importance samples of each leaf.
        :param bool sums: whether the posterior over products is wanted, as many numbers a datum as the circuit has
            weights.
        :returns: :class:`~pyro_spvae.queries.Embedding`. Of a distribution without a known mean draws are averaged.
        """
        x, observed = self.taken(x, observed)
        self.refuse(x, observed)
        num_particles = checks.positive_integer("num_particles", num_particles)
        blocks = []
        with quiet(self):
            for batch in self._blocks(x, observed, num_particles):
                draws = LeafDraws.make(self, batch, num_particles)
                leaf = draws.leaf_values
                by_sum = self.circuit.sum_posterior(leaf) if sums else []
                blocks.append((draws.summaries(self), self.circuit.posterior(leaf), by_sum))
        return Embedding(
            latents=_joined([latents for (latents, _), _, _ in blocks]),
            leaf_posterior=torch.cat([posterior for _, posterior, _ in blocks]),
            sum_posterior=[torch.cat(parts) for parts in zip(*(part[2] for part in blocks), strict=True)]
            if sums
            else None,
            components=_joined([components for (_, components), _, _ in blocks]),
        )

    @alone()
    def calibration(
        self,
        x: Any,
        observed: Any = None,
        holdout: float = 0.1,
        draws: int = 100,
        seed: int = 0,
        *,
        num_particles: int = 100,
        training: Any = None,
    ) -> Calibration:
        """
        Whether imputations are as good, and as uncertain, as they say: hides seen entries, draws them given the others
        as :meth:`impute` does, and compares. Hidden entries are not looked at before.

        Densities of hidden entries given the seen ones, of each and of all of a row together, are exact where nothing
        is latent, else of the particles that draws are made of, see :class:`~pyro_spvae.queries.predictive.Predictive`.

        :param x: data ``[data, *event_shape]``.
        :param observed: as in :meth:`impute`; what is hidden is among the seen entries.
        :param float holdout: part of them that is hidden, by the seed and the number of the row; of images all channels
            of a pixel.
        :param int draws: completions of each row, at least 2.
        :param int seed: of masks and draws; torch's generators are left alone.
        :param int num_particles: importance samples of each leaf.
        :param training: rows whose columns are the baselines; by default the entries of ``x`` that are not hidden.
        :returns: :class:`~pyro_spvae.queries.calibrated.Calibration`.
        :raises ValueError: if ``holdout`` is not between 0 and 1 or hides nothing, or other options are out of range.
        """
        x, observed = self.taken(x, observed)
        self.refuse(x, observed)
        if training is not None:
            training, there = self.taken(training)
            try:
                self.refuse(training, there)
            except ValueError as error:
                raise ValueError(f"training does not fit: {error}") from None
            training = training if there is None else torch.where(there, training, torch.nan)
        return calibrate(
            self,
            x,
            observed,
            holdout=holdout,
            draws=draws,
            seed=checks.seed(seed),
            num_particles=num_particles,
            training=training,
        )

    @alone()
    @torch.no_grad()
    def draw_latents(self, x: Any, observed: Any = None, num_samples: int = 1) -> dict[str, Tensor]:
        r"""
        Draws latent variables of all leaves from the guide :math:`q(z \mid x)`; of a leaf that sees nothing of a datum
        from the prior.

        Variables that training sums over are drawn as well, one value in each draw, and those after them given it. No
        importance weights are taken into account, see :meth:`posterior` for those.

        :param Tensor x: data ``[data, *event_shape]``.
        :param Tensor observed: as in :meth:`model`.
        :param int num_samples: draws for each datum.
        :returns: for each latent site ``[num_samples, data, leaf, *event]``; 0 for leaves of another kind, see
            :class:`~pyro_spvae.models.MixedLeaf`.
        """
        x, observed = self.taken(x, observed)
        self.refuse(x, observed)
        num_samples = checks.positive_integer("num_samples", num_samples)
        if not self.latents:
            return {}
        blocks = []
        with quiet(self):
            for batch in self._blocks(x, observed, num_samples):
                batch = batch.kept()
                sizes = [min(_BLOCK, num_samples - start) for start in range(0, num_samples, _BLOCK)]
                draws = [guide_draws(self, batch, size) for size in sizes]
                blocks.append({name: torch.cat([part[name] for part in draws]) for name in self.latents})
        return {name: torch.cat([part[name] for part in blocks], 1) for name in self.latents}

    @alone()
    @torch.no_grad()
    def interpolate(self, start: Any, end: Any, steps: int = 8, num_particles: int = 100) -> Tensor:
        r"""
        A path from one datum to another through the model.

        At :math:`t` between 0 and 1 it is the likelihood's mean under the most probable induced tree for leaf values
        :math:`(1 - t)\, \ell(\mathrm{start}) + t\, \ell(\mathrm{end})`, the geometric path between the two
        posteriors over trees, with latent variables :math:`(1 - t)\, \mu(\mathrm{start}) + t\, \mu(\mathrm{end})`,
        means under the guide; of discrete ones the mode of the nearer end. At both ends it is the most probable
        reconstruction.

        :param Tensor start: data ``[data, *event_shape]``.
        :param Tensor end: as many data; both see the same noise.
        :param int steps: number of points, ends included, at least 2.
        :param int num_particles: importance samples of each leaf.
        :returns: ``[steps, data, *event_shape]``.
        """
        if not checks.is_positive(steps) or steps < 2:
            raise ValueError(f"steps is {steps!r}; an integer of at least 2 is needed")
        steps = int(steps)
        num_particles = checks.positive_integer("num_particles", num_particles)
        (start, start_seen), (end, end_seen) = self.taken(start), self.taken(end)
        for name, x, seen in (("start", start, start_seen), ("end", end, end_seen)):
            try:
                self.refuse(x)
                if seen is not None:
                    raise ValueError("x holds NaN, missing entries, and paths need whole rows")
            except (TypeError, ValueError) as error:
                raise type(error)(f"{name}: {error}") from None
        if start.shape != end.shape:
            raise ValueError(f"end has shape {list(end.shape)}; that of start, {list(start.shape)}, is needed")
        blocks = []
        with quiet(self):
            for first, last in zip(
                self._blocks(start, None, num_particles), self._blocks(end, None, num_particles), strict=True
            ):
                device = first.x.device
                with forked(device):
                    draws = LeafDraws.make(self, first, num_particles)
                others = LeafDraws.make(self, last, num_particles)
                leaf, other_leaf = draws.leaf_values, others.leaf_values
                values, other_values = draws.points(self), others.points(self)
                points = []
                for t in torch.linspace(0, 1, steps, device="cpu").tolist():
                    tree, _ = self.circuit.mpe(torch.lerp(leaf, other_leaf, t))
                    latents = {
                        name: self.latents[name].between(value, other_values[name], t) for name, value in values.items()
                    }
                    with forked(device):  # autoregressive leaves draw pixels; all points see the same noise
                        points.append(self.decode(tree, latents))
                blocks.append(torch.stack(points))
        return torch.cat(blocks, 1)

    def _blocks(self, x: Tensor, observed: Tensor | None, num_particles: int) -> Iterator[LeafBatch]:
        """Data as the programs see them, few rows at a time."""
        first = 0
        for block, seen in batches(x, observed, max(1, _BLOCK // num_particles) if self.latents else _EXACT_BLOCK):
            yield replace(self.prepare(block, seen), first=first)
            first += len(block)


def _joined(blocks: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of blocks of data by name, of all data."""
    return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}
