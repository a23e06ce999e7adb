# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A likelihood of the user's own: the example of the docstring, and what is checked when it is bound."""

from __future__ import annotations

import doctest
import inspect
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch.testing import assert_close

from pyro_spvae import SPVAE, testing, whole
from pyro_spvae.distributions import LeafBernoulli, LeafPoisson
from pyro_spvae.likelihoods import Likelihood


def example() -> type[Likelihood]:
    """The class in the docstring, as it stands there."""
    text = inspect.getdoc(Likelihood)
    assert text is not None
    parts = [part.source for part in doctest.DocTestParser().get_examples(text)]
    code = "".join(part for part in parts if part.startswith(("from ", "class ")))
    names: dict[str, Any] = {"Likelihood": Likelihood, "torch": torch, "__name__": __name__}
    exec(compile(code, "Likelihood", "exec", dont_inherit=True), names)
    found: type[Likelihood] = names["Laplace"]
    return found


Laplace = example()


class TestExample(testing.LikelihoodTests):
    test_is_made_anew_from_its_description = None  # tests of classes that are found again are elsewhere

    def make(self):
        return Laplace()

    def test_has_a_scale_of_its_own(self, part):
        loc, raw = self.outputs(part)
        assert_close(part((loc, raw)).variance, 2 * (1e-3 + torch.nn.functional.softplus(raw)) ** 2)

    def test_trains(self):
        spvae = SPVAE(whole((3,)), units=1, likelihood=Laplace(), latent_dim=2, hidden_dims=(4,))
        x = torch.randn(40, 3)
        before = spvae.log_likelihood(x, num_samples=50).mean()
        spvae.fit(x, epochs=20, lr=1e-2)
        assert spvae.log_likelihood(x, num_samples=50).mean() > before


class Own(Likelihood):
    accepts = "the integers 0, 1, 2, .."
    law = staticmethod(lambda out: dist.Normal(out, 1.0).to_event(1))

    def forward(self, outputs, mask=None):
        return self.law(outputs[0])


def own(law, **attributes):
    return type("Own", (Own,), {"law": staticmethod(law), **attributes})


NOT_STATED = "whose support is not all real numbers; define supports(self, x), whether each value is in it"
REFUSED = [
    (
        own(lambda out: dist.Normal(out, 1.0)),
        "the likelihood Own returned a Normal of event shape [] for heads of zeros, but its leaves have 4 pixels; [4] "
        "is needed, and .to_event(1) makes the last dimension an event",
    ),
    (
        own(lambda out: dist.Normal(out[..., :3], 1.0).to_event(1)),
        "the likelihood Own returned a Independent of event shape [3] for heads of zeros, but its leaves have 4 "
        "pixels; [4] is needed, and .to_event(1) makes the last dimension an event",
    ),
    (
        own(lambda out: dist.Normal(out, 1.0).to_event(1), accepts=None),
        "the likelihood Own does not state what values it accepts; define accepts, as in accepts = 'finite real "
        "numbers'",
    ),
    (own(lambda out: dist.Poisson(out.exp()).to_event(1)), f"the likelihood Own returned a Poisson, {NOT_STATED}"),
    (own(lambda out: LeafPoisson(out.exp())), f"the likelihood Own returned a LeafPoisson, {NOT_STATED}"),
    (own(LeafBernoulli), f"the likelihood Own returned a LeafBernoulli, {NOT_STATED}"),
]


@pytest.mark.parametrize(("kind", "message"), REFUSED)
def test_what_is_refused_when_bound(kind, message):
    with pytest.raises(ValueError) as error:
        kind().bind(leaves=3, pixels=4)
    assert str(error.value) == message


def test_no_distribution_is_refused_when_bound():
    with pytest.raises(TypeError, match="^the block Own returned a Tensor; one of pyro.distributions is needed$"):
        own(lambda out: out)().bind(leaves=3, pixels=4)


def test_looks_at_no_value_when_bound():
    noise = torch.get_rng_state()
    with torch.device("meta"):
        part = own(lambda out: dist.Poisson(out.exp()).to_event(1), supports=lambda self, x: x >= 0)()
        assert part.bind(leaves=3, pixels=4).sizes["pixels"] == 4
    assert torch.equal(torch.get_rng_state(), noise)
