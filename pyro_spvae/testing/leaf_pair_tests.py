# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What every pair of leaf model and guide is tested by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, TraceEnum_ELBO
from torch import Tensor

from pyro_spvae.circuits import poon_domingos
from pyro_spvae.distributions.joined import own_leaves
from pyro_spvae.infer import CircuitELBO, collapse_tree
from pyro_spvae.infer.enumerated import enumerate_dim, enumerate_guide
from pyro_spvae.infer.site import is_drawn
from pyro_spvae.models import SPVAE
from pyro_spvae.testing.block_tests import check_gradients, close, moved_from_start
from pyro_spvae.testing.model_tests import ModelTests, check_step_on_meta


class LeafPairTests(ModelTests):
    """
    A leaf model and its guide, in a circuit of two leaf regions of two by two pixels and two leaves each: importance
    weights by hand, bounds below the evidence, equality with Pyro's enumeration, masks, modes, types, every query.

    Subclasses define :meth:`make`, and :meth:`data` where values are not real.

    Example::

        >>> from pyro_spvae.testing import LeafPairTests
        >>> class TestVAE(LeafPairTests):
        ...     def make(self):
        ...         return VAE(Normal(), latent_dim=2), NormalGuide()
        >>> issubclass(TestVAE, LeafPairTests)
        True
    """

    #: whether the guide draws latent variables in the model's order, as a tree that is sampled needs
    same_order = True
    #: whether a part of a leaf region may be missing
    partial_masks = True
    #: whether parameters have a gradient wherever they are; not where an activation is flat
    smooth = True
    #: importance samples by which the evidence is found
    samples = 20_000
    #: options of the objective in training mode, where latent variables may be drawn otherwise than in evaluation
    trained_by: Mapping[str, Any] = {}

    def make(self) -> tuple[Any, Any]:
        """A new leaf model and guide."""
        raise NotImplementedError("define make(self), which returns a new leaf model and a new guide")

    def data(self, rows: int) -> Tensor:
        """Rows ``[rows, 1, 2, 4]`` in the likelihood's support."""
        return torch.randn(rows, 1, 2, 4)

    def model(self, **changes: Any) -> SPVAE:
        """The pair in a circuit, away from its start."""
        torch.manual_seed(0)
        leaf, guide = self.make()
        options: dict[str, Any] = {"regions": poon_domingos((2, 4), delta=2), "units": 2} | changes
        spvae = SPVAE(options["regions"], units=options["units"], leaf=leaf, guide=guide)
        if spvae.wanted_rows:
            spvae.start(self.data(spvae.wanted_rows))
        moved_from_start(spvae)
        spvae.prepare_evaluation()
        return spvae.eval()

    def trains(self, particles: int = 2) -> CircuitELBO:
        """The objective of a training step."""
        return CircuitELBO(**{"num_particles": particles} | dict(self.trained_by))

    def _traces(self, spvae: SPVAE, x: Tensor, particles: int) -> tuple[Any, Any]:
        torch.manual_seed(1)

        def plated(program: Any) -> Any:
            return pyro.plate("particles", particles, dim=-3)(program)

        guide: Any = poutine.trace(enumerate_guide(plated(spvae.guide), 3)).get_trace(x)
        model = collapse_tree(poutine.replay(plated(spvae.model), trace=guide))
        trace: Any = poutine.trace(model).get_trace(x)
        for found in (guide, trace):
            found.compute_log_prob()
        return guide, trace

    def test_states_what_it_declares(self, spvae: SPVAE, x: Tensor) -> None:
        guide, model = self._traces(spvae, x, 2)
        sites = {name: site for name, site in guide.nodes.items() if is_drawn(site)}
        assert sites.keys() >= spvae.latents.keys()
        for name, latent in spvae.latents.items():
            for trace in (guide, model):
                law, value = trace.nodes[name]["fn"], trace.nodes[name]["value"]
                assert tuple(law.event_shape) == latent.event_shape
                assert bool(law.support.check(value).all()), f"{name} is drawn outside of its support"

    def test_weights_by_hand(self, spvae: SPVAE, x: Tensor) -> None:
        """log w = log p(x, z) - log q(z), of every particle, datum and leaf, by Pyro's own traces; the mean by hand."""
        guide, model = self._traces(spvae, x, 4)
        weight = sum(model.nodes[name]["log_prob"] for name in ("x", *spvae.latents))
        weight = weight - sum(site["log_prob"] for site in guide.nodes.values() if is_drawn(site))
        share = [site["log_prob"] for site in guide.nodes.values() if is_drawn(site) and enumerate_dim(site)]
        joint = weight + sum(share) if share else weight
        joint = joint.expand(*joint.shape[:-3], 4, self.rows, spvae.num_leaves)
        leaf = joint.reshape(-1, self.rows, spvae.num_leaves).logsumexp(0) - torch.tensor(4.0).log()
        torch.manual_seed(1)
        close(CircuitELBO(4).bound(spvae.model, spvae.guide, x), spvae.circuit(leaf))

    def test_bounds_are_below_the_evidence(self, spvae: SPVAE, x: Tensor) -> None:
        evidence = spvae.log_likelihood(x, num_samples=self.samples if spvae.latents else 1)
        for alpha in (0.0, 1.0):
            bounds = torch.stack([CircuitELBO(3, alpha).bound(spvae.model, spvae.guide, x) for _ in range(60)])
            error = bounds.std(0) / len(bounds) ** 0.5
            assert bool((bounds.mean(0) < evidence + 4.5 * error + 0.05).all())

    def test_equals_pyros_enumeration(self) -> None:
        """
        ``TraceEnum_ELBO`` lists the trees of the unchanged pair; the value is that of the circuit in both modes, and so
        are the gradients of a mode whose draws are differentiable.
        """
        spvae = self.model()
        torch.manual_seed(5)
        x = self.data(2)
        for training in (False, True):
            spvae.train(training)
            torch.manual_seed(2)
            guide: Any = poutine.trace(spvae.guide).get_trace(x)
            inside = [site for name, site in guide.nodes.items() if is_drawn(site) and name != "tree"]
            if not self.same_order or any(site["infer"].get("enumerate") for site in inside):
                pytest.skip("needs one order of latent variables, and draws of all of them")
            sampled = not training or self.trained_by.get("kl", "sample") == "sample"
            self._check_enumeration(spvae, x, sampled and all(site["fn"].has_rsample for site in inside))

    def _check_enumeration(self, spvae: SPVAE, x: Tensor, differentiable: bool) -> None:
        results: list[tuple[Tensor, Any]] = []
        for elbo in (CircuitELBO(1), TraceEnum_ELBO(max_plate_nesting=2)):
            torch.manual_seed(2)
            if not differentiable:
                results.append((torch.tensor(elbo.loss(spvae.model, spvae.guide, x)), ()))
                continue
            loss = elbo.differentiable_loss(spvae.model, spvae.guide, x)
            grads = torch.autograd.grad(loss, list(spvae.parameters()), allow_unused=True)
            results.append((loss.detach(), grads))
        (ours, our_grads), (theirs, their_grads) = results
        close(ours, theirs)
        for own, other in zip(our_grads, their_grads, strict=True):
            if own is not None and other is not None:
                close(own, other)

    def test_a_training_step_looks_at_no_value(self, x: Tensor) -> None:
        """Tensors of the meta device have no content: every look at a value, for which a GPU is waited for, fails."""
        check_step_on_meta(self.model().train(), self.trains(), x)

    def test_each_leaf_sees_its_own_patch(self, spvae: SPVAE, x: Tensor) -> None:
        changed = x.clone()
        changed[..., :2] = x.flip(0)[..., :2]
        found = []
        for rows in (x, changed):
            torch.manual_seed(1)
            found.append(CircuitELBO(2).terms(spvae.model, spvae.guide, (rows,), {}).log_weight)
        same = (spvae.view(x) == spvae.view(changed)).all(-1).all(0)  # [leaf]
        assert bool(same.any()) and not bool(same.all())
        close(found[0][..., same], found[1][..., same])
        assert float((found[0] - found[1])[..., ~same].detach().abs().max()) > 1e-6

    def test_missing_entries(self, spvae: SPVAE, x: Tensor) -> None:
        """What is not seen may be anything, and a leaf that sees nothing is a factor of exactly 1."""
        nothing = torch.zeros(1, 2, 4, dtype=torch.bool)
        bound = CircuitELBO(2).bound(spvae.model, spvae.guide, torch.full_like(x, torch.nan), nothing)
        torch.testing.assert_close(
            bound, torch.zeros(self.rows), rtol=0, atol=1e-6 if x.dtype == torch.float32 else 1e-10
        )
        observed = torch.ones(1, 2, 4, dtype=torch.bool)
        observed[..., 2:] = False
        if self.partial_masks:
            observed[..., 0, 0] = False
        values = []
        for filler in (0.0, torch.nan):
            torch.manual_seed(1)
            rows = torch.where(observed, x, filler)
            values.append(CircuitELBO(2).bound(spvae.model, spvae.guide, rows, observed))
        close(values[0], values[1])

    def test_masked_pixels_count_for_nothing(self, spvae: SPVAE, x: Tensor) -> None:
        """Whatever patches hold where the mask does not: the model puts 0 there, which may be a value like others."""
        if not self.partial_masks:
            pytest.skip("pixels of a patch cannot be missing alone")
        observed = torch.ones(1, 2, 4, dtype=torch.bool)
        observed[..., 0, 0] = observed[..., 1, 3] = False
        batch, (guide, _) = spvae.prepare(x, observed), self._traces(spvae, x, 2)
        assert batch.mask is not None
        others = torch.where(batch.mask, batch.patches, spvae.prepare(self.data(self.rows)).patches)
        found = []
        for patches in (batch.patches, others):
            with pyro.plate("data", self.rows, dim=-2), pyro.plate("leaf", spvae.num_leaves, dim=-1):
                with poutine.trace() as tracer, poutine.replay(trace=guide):
                    spvae.leaf(patches, batch.mask)
            law: Any = tracer.trace.nodes["x"]["fn"]
            found.append(law.log_prob(patches))
        close(*found)

    def test_rows_are_independent(self, spvae: SPVAE, x: Tensor) -> None:
        """Log-weights of a datum given its latent variables do not depend on which others are in the batch."""
        guide, _ = self._traces(spvae, x, 2)
        sites = {name: site for name, site in guide.nodes.items() if is_drawn(site)}
        # copies: of a draw itself more may be known than its value
        given = {name: site["value"].clone() for name, site in sites.items()}
        programs = collapse_tree(spvae.model), spvae.guide
        together = [_log_probs(program, given, x) for program in programs]
        for row in range(self.rows):
            own = {name: _row(value, row, sites[name]["fn"].event_dim) for name, value in given.items()}
            for program, of_all in zip(programs, together, strict=True):
                for name, alone in _log_probs(program, own, x[row : row + 1]).items():
                    close(*torch.broadcast_tensors(alone, _row(of_all[name], row, 0)))

    def test_both_modes(self, spvae: SPVAE, x: Tensor) -> None:
        for training in (True, False):
            spvae.train(training)
            assert bool(CircuitELBO(2).bound(spvae.model, spvae.guide, x).isfinite().all())

    def test_gradients_reach_every_parameter(self, spvae: SPVAE, x: Tensor) -> None:
        if not self.smooth:
            pytest.skip("flat somewhere")
        loss = CircuitELBO(3).differentiable_loss(spvae.model, spvae.guide, x)
        named = {name: p for name, p in spvae.named_parameters() if p.requires_grad}
        check_gradients(named, loss)
        loss = self.trains(3).differentiable_loss(spvae.train().model, spvae.guide, x)
        for name, grad in zip(named, torch.autograd.grad(loss, list(named.values()), allow_unused=True), strict=True):
            assert grad is not None and bool(grad.isfinite().all()), f"the gradient of {name} in training is {grad}"

    def test_follows_dtype(self, spvae: SPVAE, x: Tensor) -> None:
        """The densities of values drawn in single precision, in both."""
        drawn: Any = poutine.trace(spvae.to(torch.float32).guide).get_trace(x.float())
        values = {name: site["value"] for name, site in drawn.nodes.items() if is_drawn(site)}
        totals = []
        for dtype in (x.dtype, torch.float32):
            spvae.to(dtype)
            # copies: of a draw itself more may be known than its value
            given = {
                name: value.to(dtype, copy=True) if value.is_floating_point() else value
                for name, value in values.items()
            }
            log_probs = []
            for program in (collapse_tree(spvae.model), spvae.guide):
                trace: Any = poutine.trace(poutine.condition(program, data=given)).get_trace(x.to(dtype))
                trace.compute_log_prob()
                log_probs.append(sum(trace.nodes[name]["log_prob"] for name in ("x", *given) if name in trace.nodes))
            totals.append(torch.stack([torch.as_tensor(value) for value in log_probs if not isinstance(value, int)]))
        assert totals[1].dtype == torch.float32
        torch.testing.assert_close(totals[1].to(x.dtype), totals[0], rtol=1e-3, atol=1e-3)

    def test_a_step_runs_on_the_meta_device(self, spvae: SPVAE, x: Tensor) -> None:
        """Forward and backward: nothing is made on another device, and nothing waits for the host."""
        spvae.to("meta").train()
        with pyro.validation_enabled(False), pyro.settings.context(module_local_params=True):
            loss = self.trains()(spvae.model, spvae.guide)(x.to("meta"))
            loss.backward()
        assert loss.is_meta and any(parameter.grad is not None for parameter in spvae.parameters())

    def test_a_prepared_batch_is_the_data(self, spvae: SPVAE, x: Tensor) -> None:
        found = []
        for rows in (x, spvae.prepare(x)):
            torch.manual_seed(1)
            found.append(CircuitELBO(2).bound(spvae.model, spvae.guide, rows))
        close(found[0], found[1])

    def test_subsampling_acts_outside_of_the_logarithm(self, spvae: SPVAE, x: Tensor) -> None:
        torch.manual_seed(1)
        bound = CircuitELBO(2).bound(
            spvae.model, spvae.guide, x, size=10 * self.rows
        )  # of each datum, without the scale
        torch.manual_seed(1)
        loss = CircuitELBO(2).loss(spvae.model, spvae.guide, x, size=10 * self.rows)
        assert loss == pytest.approx(-10 * float(bound.sum()), rel=1e-6)

    def test_is_saved_and_loaded(self, spvae: SPVAE, x: Tensor, tmp_path: Any) -> None:
        if any("<locals>" in type(part).__qualname__ for part in (spvae.leaf, spvae.leaf_guide)):
            pytest.skip("a class inside of a function cannot be found again")
        spvae.save(tmp_path / "model")
        again = SPVAE.load(tmp_path / "model")
        found = []
        for one in (spvae, again):
            torch.manual_seed(1)
            found.append(one.log_likelihood(x, num_samples=20))
        close(found[0], found[1])

    def test_latents_are_drawn_and_given(self, spvae: SPVAE, x: Tensor) -> None:
        """Inside of the supports; given all latent variables of a datum, what is generated is a datum."""
        observed = torch.ones(1, 2, 4, dtype=torch.bool)
        observed[..., 2:] = False
        guide, _ = self._traces(spvae, x, 2)
        for seen in (None, observed):
            drawn = spvae.draw_latents(x, seen, 3)
            assert drawn.keys() == spvae.latents.keys()
            for name, latent in spvae.latents.items():
                own = own_leaves(guide.nodes[name]["fn"])  # where leaves are of several kinds
                value = drawn[name] if own is None else drawn[name][:, :, own]
                assert drawn[name].shape == (3, self.rows, spvae.num_leaves, *latent.event_shape)
                assert value.dtype == guide.nodes[name]["value"].dtype and bool(latent.support.check(value).all())
        for name, value in drawn.items():
            spvae.check(spvae.sample(self.rows, {name: value[0]}, num_particles=3))
        spvae.check(spvae.sample(self.rows, {name: value[0] for name, value in drawn.items()}))

    def test_queries(self, spvae: SPVAE, x: Tensor) -> None:
        """Every query answers, and stays inside the supports."""
        observed = torch.ones(1, 2, 4, dtype=torch.bool)
        observed[..., 2:] = False
        embedding = spvae.embed(x, observed.expand_as(x))
        assert embedding.latents.keys() == spvae.latents.keys()
        assert all(bool(value.isfinite().all()) for value in embedding.latents.values())
        for name, probs in embedding.components.items():
            assert probs.shape[:2] == (self.rows, spvae.num_leaves) and bool((probs >= 0).all())
            has_site = embedding.most_probable[name] >= 0
            close(probs.sum(-1), has_site.to(probs.dtype))
        imputed = spvae.impute(x, observed, 2, num_particles=10)
        assert imputed.shape == (2, *x.shape) and bool((imputed == x)[..., :2].all())
        spvae.check(imputed[0])
        spvae.check(spvae.sample(4))
        assert spvae.sample(4, means=True).shape == (4, 1, 2, 4)
        assert bool(spvae.reconstruct(x, num_particles=10).isfinite().all())
        assert spvae.interpolate(x[:1], x[1:2], 3, 10).shape == (3, 1, 1, 2, 4)
        drawn = Predictive(spvae.model, guide=spvae.posterior(x, num_particles=10), num_samples=2)(num=self.rows)
        assert drawn["image"].shape == (2, self.rows, 1, 1, 2, 4)
        for name, latent in spvae.latents.items():
            value = spvae.posterior(x, num_particles=10)
            law_value: Any = poutine.trace(value).get_trace().nodes[name]["value"]
            assert tuple(law_value.shape) == (self.rows, spvae.num_leaves, *latent.event_shape)


def _log_probs(program: Any, given: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """Log-probabilities of data and latent variables by site, ``[.., data, leaf]``."""
    trace: Any = poutine.trace(poutine.condition(program, data=given)).get_trace(x)
    trace.compute_log_prob()
    return {name: trace.nodes[name]["log_prob"] for name in ("x", *given) if name in trace.nodes}


def _row(value: Tensor, row: int, event_dim: int) -> Tensor:
    """One datum of values ``[.., data, leaf, *event]``, of which the data axis may be one entry."""
    axis = value.dim() - event_dim - 2
    return value if axis < 0 or value.size(axis) == 1 else value.narrow(axis, row, 1)
