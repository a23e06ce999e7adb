# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Pseudo-inputs of a VampPrior as images, and what is generated from each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pyro_spvae.blocks.life_cycle import parts
from pyro_spvae.data import Values
from pyro_spvae.distributions import LeafNormalMixture
from pyro_spvae.evaluating import evaluating
from pyro_spvae.models import SPVAE
from pyro_spvae.plots.images import image_grid, image_rows
from pyro_spvae.priors import VampPrior
from pyro_spvae.queries.programs import model_laws

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 100  # pseudo-inputs of a grid
_ROWS = 25  # pseudo-inputs that are generated from, and those of a row where there are several leaf programs
_DRAWS = 7  # images generated from each
_LEAVES = 8  # leaf programs of a region that are shown


class Generations(NamedTuple):
    """
    :ivar Tensor inputs: pseudo-inputs, ``[component, *event_shape]``, as features.
    :ivar Tensor images: means of what is generated from each, ``[component, draw, *event_shape]``.
    """

    inputs: Tensor
    images: Tensor


def vamp_prior(spvae: SPVAE) -> VampPrior | None:
    """The VampPrior of all leaves, if they have one."""
    found = (part for part in parts(spvae.leaf) if isinstance(part, VampPrior))
    return next((prior for prior in found if prior.sizes["leaves"] == spvae.num_leaves), None)


@torch.no_grad()
def pseudo_input_images(spvae: SPVAE, prior: VampPrior, components: int, program: int = 0) -> Tensor:
    """
    The pseudo-inputs of one leaf program of every leaf region, put together to images; where leaf regions overlap,
    those of the most probable induced tree are used.

    :param VampPrior prior: the model's.
    :param int components: how many, from the first.
    :param int program: number of the leaf program in its region.
    :returns: features, ``[component, *event_shape]``.
    """
    circuit, inputs = spvae.circuit, prior.inputs[:components]
    tree, _ = circuit.mpe(inputs.new_zeros(spvae.num_leaves))
    regions = tree.reshape(-1, circuit.leaves).any(-1, keepdim=True)
    programs = torch.arange(circuit.leaves, device=tree.device) == program
    return spvae.view.assemble((regions & programs).reshape(-1).to(inputs.device), inputs)


@torch.no_grad()
def generate(spvae: SPVAE, prior: VampPrior, components: int, draws: int) -> Generations:
    r"""
    Images generated from pseudo-inputs: for each an induced tree is drawn, and ``draws`` times latent variables
    :math:`z_l \sim q(z_l \mid u_{kl})` of all its leaves; lower layers are drawn from the model.

    :param VampPrior prior: the model's.
    :param int components: how many pseudo-inputs, from the first.
    :param int draws: images for each.
    :returns: the pseudo-inputs of the leaves of each tree, and the means.
    """
    inputs, mixture = prior.inputs[:components], prior()
    loc, scale = (value[:components].unsqueeze(1) for value in (mixture.loc, mixture.scale))  # [K, 1, L, d]
    z = loc + scale * torch.randn(len(inputs), draws, *loc.shape[2:], dtype=loc.dtype, device=loc.device)
    tree = spvae.circuit.sample((len(inputs),)).to(inputs.device)
    # the first of its kind, from which the model draws the others
    site = next(name for name, law in model_laws(spvae).items() if isinstance(law, LeafNormalMixture))
    images = spvae.decode(tree.repeat_interleave(draws, 0), {site: z.flatten(0, 1)})
    return Generations(spvae.view.assemble(tree, inputs), images.unflatten(0, (len(inputs), draws)))


def pseudo_input_pictures(spvae: SPVAE, values: Values) -> dict[str, Figure]:
    """
    ``pseudo_inputs``: a grid of the first 100, or a row of the first 25 for each of several leaf programs; and
    ``generations``: a row for each of the first 25, itself in the first column. Nothing for other priors
    and for rows that are no images. The same for the same model.

    :param Values values: range of the pixels.

    Example::

        >>> from pyro_spvae.data import Values
        >>> from pyro_spvae.plots import pseudo_input_pictures
        >>> vae = SPVAE(whole((8, 8)), units=1, prior=VampPrior(4), likelihood=Bernoulli())
        >>> list(pseudo_input_pictures(vae, Values.grey_levels(2)))
        ['pseudo_inputs', 'generations']
    """
    prior = vamp_prior(spvae)
    if prior is None or len(spvae.event_shape) != 3 or spvae.num_features != spvae.view.pixels:
        return {}
    with evaluating(spvae, seed=0):
        ends = prior.inputs.new_tensor([values.low, values.high]).reshape(2, 1, 1)
        shape = (2, spvae.num_leaves, spvae.view.pixels)
        low, high = spvae.leaf.features(ends.expand(shape)).mean((1, 2)).tolist()
        if spvae.circuit.leaves == 1:
            images = pseudo_input_images(spvae, prior, _SHOWN)
            grid = image_grid(images, low, high, title="pseudo-inputs")
        else:
            shown = range(min(_LEAVES, spvae.circuit.leaves))
            rows = {f"pseudo-inputs, VAE {i + 1}": pseudo_input_images(spvae, prior, _ROWS, i) for i in shown}
            grid = image_rows(rows, low, high)
        inputs, generated = generate(spvae, prior, _ROWS, _DRAWS)
        columns = torch.cat([_unit(inputs, low, high).unsqueeze(1), _unit(generated, values.low, values.high)], 1)
    title = "pseudo-inputs and what is generated from them"
    return {
        "pseudo_inputs": grid,
        "generations": image_grid(columns.flatten(0, 1), title=title, columns=columns.size(1)),
    }


def _unit(images: Tensor, low: float, high: float) -> Tensor:
    return (images - low) / ((high - low) or 1.0)
