# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Categorical pixels of low rank: what they share, what they start from, and the full form that they reach."""

from __future__ import annotations

import dataclasses
import math

import pyro
import pytest
import torch

from pyro_spvae import CircuitELBO, poon_domingos
from pyro_spvae.likelihoods import Categorical, LowRankCategorical
from pyro_spvae.likelihoods.low_rank_categorical import neighbours
from pyro_spvae.models import SPVAE, VAE
from pyro_spvae.nn import MLP
from pyro_spvae.testing.block_tests import LEAVES, PIXELS, ROWS
from pyro_spvae.training.build import build_model
from pyro_spvae.training.reading import modelled
from pyro_spvae.training.resolve import resolve
from tests.likelihoods.test_likelihoods import LikelihoodTests
from tests.training.cases import TINY, images

RANK = 3


class TestLowRankCategorical(LikelihoodTests):
    levels = 5
    heads = (PIXELS * RANK,)
    outside = (5.0, -1.0, 0.5, math.nan, math.inf)
    accepts = "the integers 0 to 4"

    def make(self):
        return LowRankCategorical(5, RANK)

    def test_probabilities_are_a_product_of_low_rank(self, part):
        """A row for each datum: weights of the datum times tables of the pixel, whose pixels differ by biases alone."""
        (logits,) = self.outputs(part)
        every = self.values.reshape(-1, 1, 1, 1).expand(-1, ROWS, LEAVES, PIXELS)
        for leaf in range(LEAVES):
            for pixel in range(PIXELS):
                mask = torch.zeros(LEAVES, PIXELS, dtype=torch.bool)
                mask[leaf, pixel] = True
                found = part((logits,), mask).log_prob(every)[..., leaf].exp()  # [V, ROWS]
                table = (part.table[leaf] + part.bias[leaf, pixel].unsqueeze(-1)).softmax(0)  # [V, R]
                weight = logits[:, leaf, RANK * pixel : RANK * (pixel + 1)].softmax(-1)
                torch.testing.assert_close(found, table @ weight.T)
                assert int(torch.linalg.matrix_rank(found, rtol=1e-9)) == RANK

    def test_parameters_have_gradients(self, part):
        outputs, x = self.outputs(part), self.draw(ROWS, LEAVES, PIXELS)
        grads = torch.autograd.grad(part(outputs).log_prob(x).sum(), list(part.parameters()))
        assert len(grads) == 2 and all(bool((grad != 0).all()) for grad in grads)

        def log_prob(table, bias):
            return torch.func.functional_call(part, {"table": table, "bias": bias}, (outputs,)).log_prob(x)

        assert torch.autograd.gradcheck(log_prob, [value.detach().requires_grad_() for value in part.parameters()])

    def test_is_the_full_form_at_full_rank(self):
        """With a diagonal table, whatever the biases."""
        part = LowRankCategorical(5, 5).bind(leaves=LEAVES, pixels=PIXELS)
        with torch.no_grad():
            part.table.copy_(1e4 * torch.eye(5))
            part.bias.normal_()
        full = Categorical(5).bind(leaves=LEAVES, pixels=PIXELS)
        outputs, x = (torch.randn(ROWS, LEAVES, PIXELS * 5),), self.draw(ROWS, LEAVES, PIXELS)
        torch.testing.assert_close(part(outputs).log_prob(x), full(outputs).log_prob(x))

    def test_starts_at_the_frequencies_of_the_data(self):
        """Of a decoder that says nothing yet; missing entries count for nothing, and one row for all levels alike."""
        part = LowRankCategorical(5, RANK).bind(leaves=LEAVES, pixels=PIXELS)
        x, seen = torch.randint(5, (40, LEAVES, PIXELS)).double(), torch.rand(40, LEAVES, PIXELS) < 0.7
        x[..., 0], seen[:, 1, 1] = 4.0, False
        expected = torch.full((5, LEAVES, PIXELS), 0.2)
        for level in range(5):
            expected[level] += ((x == level) & seen).sum(0)
        expected = expected / (seen.sum(0) + 1)
        part.start_at(torch.where(seen, x, 3.0), seen)
        outputs = part.outputs_from(torch.where(seen, x, 3.0), seen.double())
        assert part.wanted_rows == 0 and part.data.wanted_rows == 0
        probs = part(outputs).probs  # [L, P, V]
        torch.testing.assert_close(probs.movedim(-1, 0), expected)

    def test_components_start_as_neighbours(self):
        share = neighbours(256, 8).exp()
        torch.testing.assert_close(share.sum(-1), torch.ones(256))
        assert torch.equal(share.argmax(-1), torch.arange(256) // 32)

    def test_is_kept(self):
        part = self.make().bind(leaves=LEAVES, pixels=PIXELS)
        part.start_at(self.draw(9, LEAVES, PIXELS), None)
        again = self.make().bind(leaves=LEAVES, pixels=PIXELS)
        again.load_state_dict(part.state_dict())
        outputs, x = self.outputs(part), self.draw(ROWS, LEAVES, PIXELS)
        torch.testing.assert_close(again(outputs).log_prob(x), part(outputs).log_prob(x), rtol=0, atol=0)
        again.start_at(self.draw(3, LEAVES, PIXELS), None)  # once
        again.data.keep((torch.ones(LEAVES, PIXELS * 5),))
        torch.testing.assert_close(again(outputs).log_prob(x), part(outputs).log_prob(x), rtol=0, atol=0)
        plain = LowRankCategorical(5, RANK, from_mean=False).bind(leaves=LEAVES, pixels=PIXELS)
        plain.start_at(x, None)
        assert plain.data is None and set(plain.state_dict()) == {"table", "bias"}


def test_a_step_on_the_meta_device():
    """No tensor is made elsewhere, and nothing waits for values."""
    x = torch.randint(6, (7, 1, 4, 4)).float()
    spvae = SPVAE(poon_domingos((4, 4), 2), 2, leaf=VAE(LowRankCategorical(6, 2), 2, decoder=MLP((3,)))).float()
    spvae.start(x)
    spvae = spvae.to("meta")
    with pyro.validation_enabled(False):
        loss = CircuitELBO(2)(spvae.model, spvae.guide)(x.to("meta"))
    assert loss.is_meta and all(grad.is_meta for grad in torch.autograd.grad(loss, list(spvae.leaf.parameters())))


def test_a_model_is_made_by_name_trained_and_loaded(tmp_path):
    data = images(levels=40)
    config = resolve(dataclasses.replace(TINY, likelihood="low-rank-categorical(rank=3)"), data)
    assert config.preprocess == "integers"
    data = modelled(config, data)
    spvae = build_model(config, data)
    assert spvae.leaf.pixels.likelihood.levels == 40
    spvae.fit(data, epochs=2)
    spvae.save(tmp_path)
    again, x = SPVAE.load(tmp_path), data.test[:5]
    assert again.wanted_rows == 0
    values = []
    for one in (spvae, again):
        torch.manual_seed(1)
        values.append(one.log_likelihood(x, num_samples=5))
    torch.testing.assert_close(*values, rtol=0, atol=0)
    assert set(spvae.sample(3).unique().tolist()) <= set(range(40))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 4, "rank": 5}, "rank is 5, but there are 4 levels; a number of at most as many is needed"),
        ({"levels": 4, "rank": 0}, "rank is 0; a positive integer is needed"),
        ({"levels": 4, "rank": 2, "from_mean": 1}, "from_mean is 1; True or False is needed"),
    ],
)
def test_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        LowRankCategorical(**options)
