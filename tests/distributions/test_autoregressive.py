# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A chain of pixels as a leaf distribution: density, draws in order, shapes, masks."""

from __future__ import annotations

import itertools

import pyro
import pytest
import torch
from torch.distributions import constraints
from torch.testing import assert_close

from pyro_spvae.distributions import LeafAutoregressive, LeafBernoulli
from pyro_spvae.distributions.autoregressive import pixel_means

SIZE = 4
WEIGHT = torch.tensor([[0.0, 0, 0, 0], [1.5, 0, 0, 0], [-1, 2, 0, 0], [0.5, -2, 1, 0]], dtype=torch.float64)


def logits(context, value):
    """Pixel j has the log-odds ``c_j + sum_{i < j} W_ji x_i``."""
    return context.flatten(-3) + value @ WEIGHT.T


def chain(context, mask=None, calls=None, together=2):
    def conditionals(context, value):
        return LeafBernoulli(logits(context, value), mask=mask)

    def ancestral(rows):
        value = rows.new_zeros(*rows.shape[:2], SIZE)
        for start in range(0, len(rows), together):  # so many rows at a time
            part = slice(start, min(start + together, len(rows)))
            for place in range(SIZE):
                if calls is not None:
                    calls.append((start, place))
                odds = logits(rows[part], value[part])[..., [place]]
                value[part, :, place : place + 1] = torch.bernoulli(odds.sigmoid())
                yield part, torch.tensor([place]), value[part, :, place : place + 1]

    support = constraints.independent(constraints.boolean, 1)
    return LeafAutoregressive(context, SIZE, conditionals, ancestral, support, mask)


def contexts(*batch):
    return torch.randn(*batch, 1, 2, 2)


def test_log_prob_is_the_sum_of_conditionals():
    context, x = contexts(5, 3, 2), (torch.rand(3, 2, SIZE) > 0.5).double()
    total = torch.zeros(5, 3, 2)
    for j in range(SIZE):
        odds = context.flatten(-3)[..., j] + sum((WEIGHT[j, i] * x[..., i] for i in range(j)), torch.zeros(3, 2))
        total += torch.where(x[..., j] == 1, odds.sigmoid(), (-odds).sigmoid()).log()
    assert_close(chain(context).log_prob(x), total)


def test_density_sums_to_one_and_draws_follow_it():
    torch.manual_seed(3)
    d = chain(contexts(2), together=3000)
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=SIZE)))
    probability = d.log_prob(images.unsqueeze(1)).exp()  # [image, leaf]
    assert_close(probability.sum(0), torch.ones(2))
    number = 20_000
    index = (d.sample((number,)) @ torch.tensor([8.0, 4, 2, 1])).long()  # [N, L]
    for leaf in range(2):
        share = torch.bincount(index[:, leaf], minlength=16) / number
        error = (share - probability[:, leaf]) / (probability[:, leaf] / number).sqrt()
        assert error.abs().max() < 4.5


@pytest.mark.parametrize(
    ("batch", "sample_shape"), [((3, 2), ()), ((3, 2), (4,)), ((2,), (5, 1)), ((), ()), ((), (2,))]
)
def test_shapes(batch, sample_shape):
    calls: list = []
    d = chain(contexts(*batch), calls=calls)
    x = d.sample(sample_shape)
    assert d.batch_shape == batch and d.event_shape == (SIZE,)
    assert x.shape == (*sample_shape, *batch, SIZE)
    assert d.log_prob(x).shape == (*sample_shape, *batch)
    assert d.conditional_mean(x).shape == x.shape
    assert len(calls) % SIZE == 0


def test_expand_draws_anew_for_every_event_and_shares_the_context():
    context = contexts(1, 2)
    wide = chain(context).expand((50, 2))
    assert wide.context is context and wide.batch_shape == (50, 2)
    assert wide.sample().unique(dim=0).size(0) > 5
    assert wide.log_prob(torch.zeros(SIZE)).shape == (50, 2)


def test_means():
    d = chain(contexts(3, 2))
    x = (torch.rand(3, 2, SIZE) > 0.5).double()
    expected = logits(d.context, x).sigmoid()
    assert_close(d.conditional_mean(x), expected)
    assert_close(pixel_means(d, x), expected)
    plain = LeafBernoulli(torch.randn(3, 2, SIZE))
    assert_close(pixel_means(plain, x), plain.mean)


def test_draws_without_a_graph():
    d = chain(contexts(2).requires_grad_())
    assert not d.has_rsample and not d.sample().requires_grad


PART = torch.tensor([True, True, False, True])


@pytest.mark.parametrize(
    ("error", "message", "act"),
    [
        (ValueError, "within the support", lambda: chain(contexts(2)).log_prob(torch.full((2, SIZE), 0.5))),
        (ValueError, "^batch_shape", lambda: chain(contexts(50, 2)).expand((3, 2))),
        (ValueError, "^mask shows a part of a patch, .*; hide leaf regions as", lambda: chain(contexts(2), PART)),
        (NotImplementedError, "^LeafAutoregressive has no mean in closed form; ", lambda: chain(contexts()).mean),
        (NotImplementedError, "^$", lambda: chain(contexts(2)).rsample()),
    ],
)
def test_refusals(error, message, act):
    with pytest.raises(error, match=message):
        act()


def test_without_validation_shapes_are_checked_and_no_value_is_read():
    with pyro.validation_enabled(False):
        assert chain(contexts(2), PART).pixel_mask is PART
        with pytest.raises(ValueError, match="accepts events of shape"):
            chain(contexts(2)).log_prob(torch.zeros(2, 1))


def test_a_hidden_event_adds_nothing_whatever_fills_it():
    mask = torch.tensor([[True] * SIZE, [False] * SIZE])
    context = contexts(3, 2).requires_grad_()
    d, plain = chain(context, mask), chain(context)
    x = torch.ones(3, 2, SIZE)
    expected = plain.log_prob(x)[:, 0]
    x[:, 1] = float("inf")
    with pyro.validation_enabled(False):
        log_prob = d.log_prob(x)
    assert_close(log_prob[:, 0], expected)
    assert (log_prob[:, 1] == 0).all()
    (gradient,) = torch.autograd.grad(log_prob.sum(), context)
    assert gradient[:, 0].any() and (gradient[:, 1] == 0).all()


def test_progress_bar(capsys):
    chain(contexts(3, 2)).sample(progress=True)
    assert f"{3 * 2 * SIZE}/{3 * 2 * SIZE}" in capsys.readouterr().err
    chain(contexts(3, 2)).sample()
    assert capsys.readouterr().err == ""
