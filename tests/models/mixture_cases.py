# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
Circuits over mixture and stick-breaking leaves in which everything can be listed: binary images of six pixels, three
leaf regions of two, and leaves whose latent variables are sums over nodes of a quadrature.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from torch import Tensor
from torch.distributions import Normal

from pyro_spvae import CircuitELBO, poon_domingos
from pyro_spvae.circuits import RegionGraph
from pyro_spvae.guides import LeafGuide, MixedGuide, MixtureGuide, NormalGuide, StickGuide
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import DLDPMM, DLGMM, SBVAE, SPVAE, VAE, LeafModel, MixedLeaf
from pyro_spvae.testing.block_tests import moved_from_start
from tests.circuits.oracle import list_trees
from tests.helpers import assert_same_gradients, gradients

MEANS = (-2.0, 0.5, 2.0)
GRID = poon_domingos((1, 6), delta=2)
IMAGES = torch.cartesian_prod(*6 * [torch.tensor([0.0, 1.0], dtype=torch.float64)]).reshape(-1, 1, 1, 6)


def dlgmm(summed: bool = False, means: tuple[float, ...] = MEANS) -> DLGMM:
    """A mixture of as many components as there are means, in one dimension."""
    return DLGMM(Bernoulli(), 1, len(means), 1.2, means, summed=summed, hidden_dims=(3,))


def programs(kind: str) -> tuple[LeafModel, LeafGuide]:
    """A leaf and its guide by a name."""
    if kind == "mixed":
        leaf = MixedLeaf([VAE(Bernoulli(), 1, (3,)), dlgmm()])
        return leaf, MixedGuide([NormalGuide((3,)), MixtureGuide((3,))])
    if kind == "sticks":
        return SBVAE(Bernoulli(), 3, 2.0, (3,)), StickGuide((3,))
    if kind == "process":
        return DLDPMM(Bernoulli(), 1, 3, 4.0, MEANS, hidden_dims=(3,)), MixtureGuide((3,))
    return dlgmm(kind == "summed"), MixtureGuide((3,), enumerate=kind != "drawn")


KINDS = ("enumerated", "drawn", "summed", "process", "sticks", "mixed")


def make(
    kind: str = "enumerated",
    regions: RegionGraph = GRID,
    units: int = 2,
    pair: tuple[LeafModel, LeafGuide] | None = None,
) -> SPVAE:
    """A circuit over the leaves of a kind, whose guides are wide, so that importance weights have a small variance."""
    torch.manual_seed(3)
    leaf, guide = programs(kind) if pair is None else pair
    spvae = SPVAE(regions, units, leaf=leaf, guide=guide)
    moved_from_start(spvae)
    with torch.no_grad():
        for name, parameter in spvae.leaf.named_parameters():
            if "decoder" in name:
                parameter.mul_(3.0)  # so that pixels tell of components
        for name, parameter in spvae.leaf_guide.named_parameters():
            parameter.mul_(0.5)
            end = name.rpartition("biases.")[2]
            if end == "2":  # of fractions, a little flatter than their prior
                parameter.add_(torch.tensor([0.5, 0.1] if kind != "process" else [1.2, 1.2])[: parameter.size(-1)])
            elif end == "3":
                parameter.add_(0.7 * torch.tensor([MEANS[0], *MEANS[3 - parameter.size(-1) + 1 :]]))
            elif name.endswith(("biases.4", "z.network.stacks.1.biases.1")):  # of deviations
                parameter.add_(1.2)
    return spvae.eval()


def nodes(program: LeafModel) -> tuple[Tensor, Tensor]:
    """What is decoded and its prior probability at every node, ``[component, node, 1, 1, value]`` without component."""
    if isinstance(program, SBVAE):  # by uniform numbers u at Gauss-Legendre's nodes
        u, weight = (torch.as_tensor(values) for values in _legendre(24))
        v = 1 - (1 - u) ** 0.5  # of Beta(1, 2)
        first, second = torch.cartesian_prod(v, v).unbind(-1)
        pieces = torch.stack([first, (1 - first) * second, (1 - first) * (1 - second)], -1)
        return 3 * pieces, torch.cartesian_prod(weight, weight).prod(-1).unsqueeze(0)  # the decoder sees times K
    z = torch.linspace(-10, 10, 201)
    means, shares = [0.0], [1.0]
    if isinstance(program, DLGMM):
        means = list(MEANS)
        # of the Dirichlet distribution, or of fractions Beta(1, 4)
        shares = [0.2, 0.16, 0.64] if isinstance(program, DLDPMM) else [1 / 3] * 3
    mass = [share * Normal(mean, 1.0).log_prob(z).exp() * 0.1 for mean, share in zip(means, shares, strict=True)]
    return z.unsqueeze(-1), torch.stack(mass)


def _legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on (0, 1), by the eigenvalues of the Jacobi matrix (Golub and Welsch 1969)."""
    k = torch.arange(1.0, count)
    off = (k / (4 * k * k - 1).sqrt()).diag(1)
    values, vectors = torch.linalg.eigh(off + off.T)
    return (values + 1) / 2, vectors[0].square()


class Exact:
    """
    What the model says of images, by sums over induced trees, components and nodes.

    :ivar Tensor mass: prior probability of every state of a leaf, ``[component, node, leaf]``.
    :ivar Tensor white: probability of a pixel's being 1 given a node, ``[node, leaf, pixel]``.
    """

    def __init__(self, spvae: SPVAE) -> None:
        self.spvae, self.trees = spvae, list_trees(spvae.circuit)
        leaf = spvae.leaf
        subsets = leaf.subsets if isinstance(leaf, MixedLeaf) else None
        parts = [(leaf, torch.arange(spvae.num_leaves))] if subsets is None else [(s.program, s.index) for s in subsets]
        sizes = [nodes(program)[1].shape for program, _ in parts]
        components, count = (max(axis) for axis in zip(*sizes, strict=True))
        self.mass = torch.zeros(components, count, spvae.num_leaves)
        self.white = torch.empty(count, spvae.num_leaves, spvae.view.pixels)
        with torch.no_grad():
            for program, index in parts:
                values, mass = nodes(program)
                self.mass[: len(mass), :, index] = mass.unsqueeze(-1)
                self.white[:, index] = program.pixels(values.unsqueeze(1).expand(-1, len(index), -1)).mean

    def joint(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """p(component, node, seen pixels) of every leaf, ``[component, node, data, leaf]``."""
        patches, white = self.spvae.view(x), self.white.unsqueeze(1)
        factor = torch.where(patches > 0.5, white, 1 - white)
        if observed is not None:
            factor = torch.where(self.spvae.view(observed.expand(x.shape)), factor, 1.0)
        return self.mass.unsqueeze(2) * factor.prod(-1)

    def leaf(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """log p(x_l), nats, ``[data, leaf]``."""
        return self.joint(x, observed).sum((0, 1)).log()

    def by_tree(self, leaf: Tensor) -> Tensor:
        """log p(T, x) of leaf values ``[data, leaf]``, ``[data, tree]``."""
        return (self.trees.log_weight + leaf @ self.trees.leaves.to(leaf.dtype).T).detach()

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """log p(x), nats, ``[data]``."""
        return self.by_tree(self.leaf(x, observed)).logsumexp(-1)

    def leaf_posterior(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """Probability that each leaf is on the tree, ``[data, leaf]``."""
        return self.by_tree(self.leaf(x, observed)).softmax(-1) @ self.trees.leaves.to(x.dtype)

    def components(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """p(c | x_l) of every leaf, ``[data, leaf, component]``."""
        joint = self.joint(x, observed).sum(1)
        return (joint / joint.sum(0)).movedim(0, -1)

    def anew(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """The probabilities of all images that are generated anew given one datum: the tree and states are its own."""
        given = self.leaf(x, observed)  # [1, leaf]
        state = self.joint(x, observed).sum(0).squeeze(1) / given.exp()  # [node, leaf]
        white, patches = self.white.unsqueeze(1), self.spvae.view(IMAGES)
        predicted = (state.unsqueeze(1) * torch.where(patches > 0.5, white, 1 - white).prod(-1)).sum(0).log()
        log_tree = self.by_tree(given).log_softmax(-1)
        return (log_tree + predicted @ self.trees.leaves.to(predicted.dtype).T).logsumexp(-1).exp().detach()


def numbers(x: Tensor) -> Tensor:
    """The places among all images of binary ones ``[.., 1, 1, 6]``, as they are listed."""
    return (x.flatten(-3) @ (2.0 ** torch.arange(5, -1, -1)).to(x.dtype)).long()


def assert_frequencies(found: Tensor, chance: Tensor) -> None:
    """
    Numbers of independent draws against their probabilities, by Pearson's statistic: within 5 deviations of its mean.

    :param Tensor found: counts, ``[value]``.
    :param Tensor chance: probabilities that sum to 1, ``[value]``; what is impossible never occurs.
    """
    assert abs(float(chance.sum()) - 1) < 1e-9
    possible = chance > 1e-12
    assert not bool(found[~possible].any())
    expected = (chance * found.sum())[possible]
    rare = expected < 5  # counted together
    found = found[possible].to(chance.dtype)
    if bool(rare.any()):
        found = torch.cat([found[~rare], found[rare].sum().reshape(1)])
        expected = torch.cat([expected[~rare], expected[rare].sum().reshape(1)])
    freedom = len(expected) - 1
    statistic = float(((found - expected) ** 2 / expected).sum())
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5 + 10, f"{statistic} with {freedom} degrees of freedom"


def assert_expectation(values: Tensor, expected: Tensor, least: float) -> None:
    """
    Independent values have their expectations, in standard errors, singly and together.

    :param Tensor values: ``[repeat, case]``.
    :param Tensor expected: ``[case]``.
    :param float least: relative error of their sum that the repeats must show.
    """
    error = values.std(0) / len(values) ** 0.5
    z = (values.mean(0) - expected) / error
    assert float(z.abs().max()) < 6 and float(z.square().sum()) < len(z) + 5 * (2 * len(z)) ** 0.5
    total, sum_error = values.sum(1).mean(), float(values.sum(1).std()) / len(values) ** 0.5
    assert float((total - expected.sum()).abs()) < 4.5 * sum_error < least * float(expected.sum())


def over_trees(spvae: SPVAE, leaf: Tensor) -> Tensor:
    """The root over leaf values ``[.., leaf]``, by every induced tree."""
    trees = list_trees(spvae.circuit)
    return (trees.log_weight + leaf @ trees.leaves.to(leaf.dtype).T).logsumexp(-1)


def assert_same_losses(spvae: SPVAE, one: Any, other: Any, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Two losses are equal under one seed, with all gradients; returns both of the first."""
    found = []
    for loss in (one, other):
        pyro.set_rng_seed(2)
        value = loss(x)
        found.append((value.detach(), gradients(spvae, value)))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert_same_gradients(found[0][1], found[1][1])
    return found[0]


def assert_trace_enum_of_each_tree(spvae: SPVAE, x: Tensor, num: int) -> None:
    r"""
    Of a tree that is given Pyro's enumeration sums the components of the unchanged pair out leaf by leaf, as
    ``alpha=1`` does; then :math:`\log \sum_T \exp L_T` is the circuit's bound, as :math:`\log p(T)` is in each.

    :param Tensor x: one datum, as losses are of all data.
    """
    selections = list_trees(spvae.circuit).leaves.unique(dim=0)
    elbos = CircuitELBO(num, alpha=1.0), TraceEnum_ELBO(num, vectorize_particles=True, max_plate_nesting=2)
    bounds, grads = [], []
    for tree in selections:
        model = poutine.condition(spvae.model, data={"tree": tree.reshape(1, 1, -1)})
        ours, theirs = (partial(elbo.differentiable_loss, model, spvae.guide) for elbo in elbos)
        loss, own = assert_same_losses(spvae, ours, theirs, x)
        bounds.append(-loss)
        grads.append(own)
    pyro.set_rng_seed(2)
    loss = elbos[0].differentiable_loss(spvae.model, spvae.guide, x)
    assert len(bounds) > 3
    torch.testing.assert_close(loss.detach(), -torch.stack(bounds).logsumexp(0))
    share = torch.stack(bounds).softmax(0)
    expected = {name: torch.einsum("t,t...", share, torch.stack([one[name] for one in grads])) for name in grads[0]}
    assert_same_gradients(gradients(spvae, loss), expected)
