# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Variance and cost of gradients through latent bits, by estimator, on one trained model.

A DiscreteVAE of 12 bits on the bundled digits is trained for a few epochs; then the gradient of the evidence lower
bound in the logits of the guide is drawn again and again, of the same images and parameters. Its expectation is known
by enumeration of all 4,096 codes. Steps are timed at the size of DVAE++'s nonlinear model, in turns in one process on
one thread. Run ``python -m benchmarks.estimators``.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.discrete import BATCH, BITS, HIDDEN
from benchmarks.step import Lean
from benchmarks.turns import in_turns
from pyro_spvae import CircuitELBO, whole
from pyro_spvae.data import load_data
from pyro_spvae.distributions import (
    FactorialBernoulli,
    OverlappingExponentials,
    Smoothing,
    SpikeAndExponential,
    Unsmoothed,
    divergence,
)
from pyro_spvae.guides import DiscreteGuide
from pyro_spvae.infer import NVIL, REBAR, VIMCO, Concrete, MuProp, Reinforce, StraightThrough
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import SPVAE, DiscreteVAE
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.trainer import Trainer

LATENT, EPOCHS = 12, 20
IMAGES, COPIES, REPEATS = 50, 40, 20  # 800 draws of each image's gradient
TUNING, LR = 400, 2e-3  # steps in which estimators learn parameters of their own, and their rate
ROUNDS, WARM_UP = 10, 2
REINFORCE = "REINFORCE"
FAR = 1.5  # squared error of an unbiased estimator's mean over what its variance explains: 1 within 6 %


@dataclass(frozen=True)
class Contender:
    """
    An objective with its estimator.

    :ivar callable elbo: makes the objective.
    :ivar Smoothing smoothing: of the bits in training.
    :ivar int passes: of the decoder, for one gradient.
    """

    elbo: Callable[[], CircuitELBO]
    smoothing: Smoothing | None = None
    passes: int = 1

    @property
    def unbiased(self) -> bool:
        """Whether the expectation is the gradient of the bound of the bits."""
        return self.smoothing is None and self.elbo().estimator.unbiased


def contenders() -> dict[str, Contender]:
    """All of them, by name."""

    def of(make: Callable[[], Any], particles: int = 1, kl: str = "analytic") -> Callable[[], CircuitELBO]:
        return lambda: CircuitELBO(particles, alpha=1.0, kl=kl, estimator=make())

    joint, marginal = of(Reinforce), of(Reinforce, kl="sample")  # of smoothed bits the estimator has nothing to do
    found = {
        REINFORCE: Contender(of(Reinforce)),
        "NVIL, baseline of 100 units, learned": Contender(of(NVIL)),
        "MuProp": Contender(of(MuProp), passes=2),
        "REBAR, scale and temperature learned": Contender(of(REBAR), passes=3),
        "VIMCO, 2 particles": Contender(of(VIMCO, 2), passes=2),
        "VIMCO, 5 particles": Contender(of(VIMCO, 5), passes=5),
        "straight-through": Contender(of(StraightThrough)),
        "Concrete, density, T = 0.5": Contender(of(partial(Concrete, 0.5, "density"), kl="sample")),
        "Concrete, mass, T = 0.5": Contender(of(partial(Concrete, 0.5, "mass"), kl="sample")),
    }
    for beta in (8.0, 14.0):
        exponentials = OverlappingExponentials(beta)
        found[f"overlapping exponentials, beta {beta:g}, joint"] = Contender(joint, exponentials)
        found[f"overlapping exponentials, beta {beta:g}, marginal"] = Contender(marginal, exponentials)
    found["spike and exponential, beta 5"] = Contender(joint, SpikeAndExponential(5.0))
    return found


def build(smoothing: Smoothing | None, side: int, bits: int, hidden: tuple[int, ...]) -> SPVAE:
    """A DiscreteVAE alone."""
    torch.manual_seed(0)
    smoothing = Unsmoothed() if smoothing is None else smoothing
    leaf = DiscreteVAE(Bernoulli(), bits, smoothing=smoothing, hidden_dims=hidden)
    return SPVAE(whole((side, side)), 1, leaf=leaf, guide=DiscreteGuide(hidden_dims=hidden))


def trained() -> tuple[SPVAE, Tensor, Tensor]:
    """The model, training rows and the images of which gradients are compared."""
    data = load_data("digits", seed=0).preprocessed("binarize-static")
    model = build(None, 8, LATENT, (32, 32))
    objective = CircuitELBO(1, alpha=1.0, kl="analytic", estimator=MuProp())
    model.fit(data.train[:], data.validation[:], epochs=EPOCHS, lr=5e-3, batch_size=64, seed=0, objective=objective)
    return model.train(), data.train[:], data.test[:IMAGES]


def exact_gradient(model: SPVAE, x: Tensor) -> Tensor:
    """The gradient of the negative bound in the logits, by enumeration of codes; ``[image, bit]``."""
    with torch.no_grad():
        codes = torch.tensor(list(itertools.product([0.0, 1.0], repeat=LATENT)))[:, None, None]  # [code, 1, leaf, bit]
        log_x = model.leaf.pixels(2 * codes - 1).log_prob(model.view(x))
        prior: FactorialBernoulli = model.leaf.prior()
        logits = model.leaf_guide.encode(model.leaf.features(model.view(x)))[0]
    q = FactorialBernoulli(logits.requires_grad_())
    kl = divergence(q, prior, codes)
    assert kl is not None
    bound = (q.log_prob(codes).exp() * log_x).sum() - kl.sum()
    (gradient,) = torch.autograd.grad(-bound, logits)
    return gradient.squeeze(-2)


def drawn_gradients(model: SPVAE, elbo: CircuitELBO, x: Tensor, repeats: int = REPEATS) -> Tensor:
    """Draws of the gradient of the negative bound in the logits, ``[draw, image, bit]``."""
    seen: list[Tensor] = []
    loss = elbo(model.model, model.guide)
    handle = model.leaf_guide.z.network.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs[0]))
    found = []
    try:
        for _ in range(repeats):
            seen.clear()
            value = loss(x.repeat(COPIES, 1, 1, 1))
            (logits,) = seen
            found.append(torch.autograd.grad(value, logits)[0].reshape(COPIES, len(x), -1))
    finally:
        handle.remove()
    return torch.cat(found)


def tune(model: SPVAE, elbo: CircuitELBO, rows: Tensor, steps: int = TUNING) -> None:
    """Trains the parameters of the estimator, and none of the model's."""
    loss = elbo(model.model, model.guide)
    parameters = list(elbo.estimator.parameters())
    if not parameters:
        return
    optimiser = torch.optim.Adam(parameters, lr=LR * elbo.estimator.lr_factor)
    for _ in range(steps):
        x = rows[torch.randint(len(rows), (100,))]
        gradients = torch.autograd.grad(loss(x) / len(x), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimiser.step()


def compare() -> list[dict[str, Any]]:
    """
    Variances.

    :returns: for every contender ``variance`` of a draw, summed over bits, the mean over images; ``passes``, whether it
        is ``unbiased``, and of its mean the ``cosine`` with the exact gradient and the ``length`` along it.
    :raises RuntimeError: if an unbiased estimator is further from the exact gradient than its variance explains.
    """
    rows = []
    with Lean():
        model, train, x = trained()
        exact = exact_gradient(model, x)
        state = {name: value for name, value in model.state_dict().items() if "inverse_temperature" not in name}
        for name, contender in contenders().items():
            one = build(contender.smoothing, 8, LATENT, (32, 32))
            one.load_state_dict(state, strict=False)
            elbo = contender.elbo()
            torch.manual_seed(1)
            tune(one, elbo, train)
            drawn = drawn_gradients(one, elbo, x)
            mean, variance = drawn.mean(0), drawn.var(0)
            noise = variance.sum() / len(drawn)  # of the squared length of the mean
            if contender.unbiased and (mean - exact).square().sum() > FAR * noise:
                raise RuntimeError(f"the mean of {name} is not the gradient of the bound")
            along = (mean * exact).sum() / exact.square().sum()
            length = (mean.square().sum() - noise).clamp(min=0).sqrt() / exact.norm()
            rows.append(
                {
                    "contender": name,
                    "variance": variance.sum(-1).mean().item(),
                    "passes": contender.passes,
                    "unbiased": contender.unbiased,
                    "cosine": (along / length).item(),
                    "length": length.item(),
                }
            )
    return rows


def measure_cost() -> dict[str, float]:
    """The ratio of a training step's CPU time to that of REINFORCE, by contender."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x = torch.rand(BATCH, 1, 28, 28).round()
        steps = {}
        with Lean():
            for name, contender in contenders().items():
                spvae = build(contender.smoothing, 28, BITS, (HIDDEN, HIDDEN))
                trainer = Trainer(spvae, x, x, FitConfig(), objective=contender.elbo())
                steps[name] = partial(trainer.train_step, x)
            times = in_turns(steps, ROUNDS, WARM_UP)
    finally:
        torch.set_num_threads(threads)
    return {
        name: statistics.median(a / b for a, b in zip(taken, times[REINFORCE], strict=True))
        for name, taken in times.items()
    }


def table(rows: list[dict[str, Any]], cost: dict[str, float]) -> str:
    """Markdown."""
    lines = [
        "| estimator | variance of the gradient | decoder passes | variance at equal passes, REINFORCE = 1 "
        "| step over REINFORCE's | unbiased | cosine of the mean with the exact gradient | its length over that |",
        "|---|---|---|---|---|---|---|---|",
    ]
    first = rows[0]["variance"] * rows[0]["passes"]
    for row in rows:
        bias = "yes | | " if row["unbiased"] else f"no | {row['cosine']:.2f} | {row['length']:.2f} "
        lines.append(
            f"| {row['contender']} | {row['variance']:.3g} | {row['passes']} "
            f"| {row['variance'] * row['passes'] / first:.2g} | {cost[row['contender']]:.2f} | {bias}|"
        )
    return "\n".join(lines)


def main() -> str:
    """Measures and prints."""
    text = table(compare(), measure_cost())
    print(text)
    return text


if __name__ == "__main__":
    main()
