# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Grids on latent spaces, and the pictures that leaves make of them."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.util import is_validation_enabled
from torch import nn
from torch.distributions import biject_to, constraints

from pyro_spvae import poon_domingos, quad_tree, random_binary_tree, whole
from pyro_spvae.blocks import Latent
from pyro_spvae.circuits import RegionGraph
from pyro_spvae.data import Values
from pyro_spvae.distributions import LeafNormal
from pyro_spvae.guides import LeafGuide
from pyro_spvae.likelihoods import Binomial, Normal
from pyro_spvae.models import SPVAE, LeafModel
from pyro_spvae.plots import clouds, has_prior_grid, latent_picture
from pyro_spvae.plots.latent_planes import component_grid, decode, in_coordinates, principal_components, prior_grid
from pyro_spvae.plots.latent_spaces import Tile, manifold, tiles
from pyro_spvae.priors import Prior
from tests.helpers import small_spvae
from tests.plots.cases import shown

UNIT = Values(low=0, high=1)


class Shifted(Prior):
    """A prior that is no standard normal."""

    def build(self, leaves, event_shape):
        self.loc = nn.Parameter(torch.ones(leaves, *event_shape))

    def forward(self):
        return LeafNormal(self.loc, torch.ones_like(self.loc))


class TestGrids:
    def test_the_prior_finds_all_cells_of_the_grid_equally_likely(self):
        points = prior_grid(2, leaves=3, size=4)
        assert points.shape == (16, 3, 2) and torch.equal(points[:, 0], points[:, 2])
        quantiles = torch.distributions.Normal(0.0, 1.0).cdf(points[:, 0]).reshape(4, 4, 2)
        steps = torch.tensor([0.125, 0.375, 0.625, 0.875])
        assert torch.allclose(quantiles[..., 0], steps.expand(4, 4)), "the first coordinate rises to the right"
        assert torch.allclose(quantiles[..., 1], steps.flip(0).unsqueeze(-1).expand(4, 4)), "the second upwards"

    def test_one_dimension_is_read_row_by_row(self):
        quantiles = torch.distributions.Normal(0.0, 1.0).cdf(prior_grid(1, leaves=1, size=3).flatten())
        assert torch.allclose(quantiles, (torch.arange(9) + 0.5) / 9)

    def test_components_are_eigenvectors_of_the_covariance(self):
        means = torch.randn(40, 3, 5) * torch.tensor([1.0, 3.0, 0.5, 2.0, 0.1]) + 7
        found = principal_components(means)
        for leaf in range(3):
            covariance = means[:, leaf].T.cov()
            variances, vectors = torch.linalg.eigh(covariance)
            assert torch.allclose(found.deviations[leaf] ** 2, variances.flip(0)[:2])
            assert torch.allclose(found.explained[leaf], (variances / variances.sum()).flip(0)[:2])
            overlap = (found.axes[leaf] @ vectors.flip(1)[:, :2]).abs()
            assert torch.allclose(overlap, torch.eye(2), atol=1e-8)
            centred = means[:, leaf] - means[:, leaf].mean(0)
            assert torch.allclose(found.scores[:, leaf], centred @ found.axes[leaf].T)
        assert torch.allclose(found.centre, means.mean(0))

    def test_the_plane_reaches_two_standard_deviations(self):
        found = principal_components(torch.randn(30, 2, 4))
        points = component_grid(found, 5)
        assert points.shape == (25, 2, 4)
        assert torch.allclose(points.reshape(5, 5, 2, 4)[2, 2], found.centre)
        coordinates = torch.einsum("pld,lcd->plc", points - found.centre, found.axes) / found.deviations
        square = coordinates[:, 1].reshape(5, 5, 2)
        assert torch.allclose(square[..., 0], torch.linspace(-2, 2, 5).expand(5, 5))
        assert torch.allclose(square[..., 1], torch.linspace(2, -2, 5).unsqueeze(-1).expand(5, 5))

    def test_one_component(self):
        found = principal_components(torch.randn(30, 2, 1))
        coordinates = (component_grid(found, 3) - found.centre) / found.deviations
        assert torch.allclose(coordinates.abs(), torch.linspace(-2, 2, 9).abs()[:, None, None].expand(9, 2, 1))

    def test_a_leaf_whose_means_never_vary(self):
        means = torch.randn(10, 2, 3)
        means[:, 1] = 4.0
        found = principal_components(means)
        assert found.explained[1].tolist() == [0.0, 0.0] and found.deviations[1].tolist() == [0.0, 0.0]
        assert torch.allclose(component_grid(found, 3)[:, 1], torch.tensor(4.0))


class TestDecode:
    @pytest.mark.parametrize("shape", [(2, 2), (3, 3)])
    def test_means_are_those_of_the_leaves_likelihood(self, shape):
        spvae = small_spvae(poon_domingos(shape, delta=2) if shape == (3, 3) else None)
        z = torch.randn(5, spvae.num_leaves, 2)
        wanted = spvae.leaf.pixels.likelihood(spvae.leaf.pixels.decoder(z)).mean
        assert torch.allclose(decode(spvae, {"z": z}), wanted)

    def test_settings_and_generators_are_put_back(self):
        spvae = small_spvae()
        decode(spvae, {"z": torch.zeros(1, spvae.num_leaves, 2)})
        assert is_validation_enabled() and not pyro.settings.get("module_local_params")
        assert not list(pyro.get_param_store())


class TestTiles:
    def test_a_grid_with_an_uneven_last_cell(self):
        assert tiles(poon_domingos((5, 3), delta=2)) == [
            Tile(0, 0, 2, 2),
            Tile(0, 2, 2, 1),
            Tile(2, 0, 2, 2),
            Tile(2, 2, 2, 1),
            Tile(4, 0, 1, 2),
            Tile(4, 2, 1, 1),
        ]
        assert tiles(whole((4, 6))) == [Tile(0, 0, 4, 6)]
        assert sum(tile.height * tile.width for tile in tiles(quad_tree((6, 6), 2))) == 36

    def test_other_structures_have_none(self):
        assert tiles(random_binary_tree((4, 4), depth=2, repetitions=2, seed=0)) is None
        assert tiles(random_binary_tree(6, depth=1, repetitions=1, seed=0)) is None
        overlapping = RegionGraph((1, 3), [[0], [0, 1], [1, 2], [2]], [(4, 0, 2), (4, 1, 3)])
        assert tiles(overlapping) is None


def test_a_manifold_has_each_patch_in_its_place():
    patches = torch.arange(4.0)[:, None] * 100 + torch.arange(12.0)  # two channels of 2 x 3, each with padding
    patches = torch.nn.functional.pad(patches.reshape(4, 2, 6), (0, 1), value=-1.0).flatten(1)
    picture = manifold(patches, Tile(0, 0, 2, 3), channels=2)
    assert picture.shape == (2, 4, 6)
    assert picture[0, :2, :3].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert picture[1, :2, :3].tolist() == [[6, 7, 8], [9, 10, 11]]
    assert picture[0, :2, 3:].tolist() == [[100, 101, 102], [103, 104, 105]]
    assert picture[1, 2:, 3:].tolist() == [[306, 307, 308], [309, 310, 311]]


def test_manifolds_of_ragged_regions_are_parts_of_the_image():
    """Of two channels, as the view of the model cuts them."""
    spvae = SPVAE(poon_domingos((5, 3), delta=2), units=1, channels=2, likelihood=Normal())
    image = torch.rand(1, 2, 5, 3)
    patches = spvae.view.patches(image)[0, :: spvae.circuit.leaves]
    for own, tile in zip(patches, tiles(spvae.circuit.regions), strict=True):
        rows, columns = slice(tile.top, tile.top + tile.height), slice(tile.left, tile.left + tile.width)
        assert torch.equal(manifold(own.unsqueeze(0), tile, 2), image[0, :, rows, columns])


def embedded(spvae, levels=None):
    x = torch.rand(12, *spvae.event_shape)
    embedding = spvae.embed(x if levels is None else (levels * x).floor())
    return embedding.latents, embedding.leaf_posterior


class TestPicture:
    def test_each_patch_is_the_decoded_grid_point(self):
        spvae = small_spvae(poon_domingos((4, 4), delta=2))
        latents, posterior = embedded(spvae)
        assert has_prior_grid(spvae, latents)
        drawn = latent_picture(spvae, latents, posterior, UNIT, panels=4, grid=3)
        assert drawn.explained is None
        patches = decode(spvae, {"z": prior_grid(2, spvae.num_leaves, 3)})  # [9, L, 4]
        assert [axes.get_title() for axes in drawn.figure.axes] == ["VAE 1", "VAE 2"]
        for vae, axes in enumerate(drawn.figure.axes):
            picture = np.asarray(axes.images[0].get_array())
            assert picture.shape == (13, 13, 3)  # two cells of three patches of two pixels, and a line
            for cell, (top, left) in enumerate([(0, 0), (0, 7), (7, 0), (7, 7)]):
                for point in range(9):
                    y, x = top + 2 * (point // 3), left + 2 * (point % 3)
                    patch = patches[point, 2 * cell + vae].reshape(2, 2).clamp(0, 1)
                    assert np.allclose(picture[y : y + 2, x : x + 2, 0], patch, atol=1e-6)

    def test_principal_components_where_the_prior_gives_no_plane(self):
        for options in ({"latent_dim": 4}, {"prior": Shifted()}):
            spvae = small_spvae(poon_domingos((4, 4), delta=2), **options)
            latents, posterior = embedded(spvae)
            assert not has_prior_grid(spvae, latents)
            drawn = latent_picture(spvae, latents, posterior, UNIT, panels=1, grid=2)
            found = principal_components(latents["z"])
            assert torch.allclose(drawn.explained, found.explained)
            (axes,) = drawn.figure.axes
            share = found.explained[::2].sum(-1).mean()
            assert axes.get_title() == f"VAE 1, {share:.0%} of the variance on average"
            patch = decode(spvae, {"z": component_grid(found, 2)})[0, 0].reshape(2, 2).clamp(0, 1)
            assert np.allclose(np.asarray(axes.images[0].get_array())[:2, :2, 0], patch, atol=1e-6)

    def test_colours(self):
        spvae = small_spvae(poon_domingos((4, 2), delta=2), channels=3, likelihood=Binomial(4))
        drawn = latent_picture(spvae, *embedded(spvae, 5), Values.grey_levels(5), panels=2, grid=2)
        patch = decode(spvae, {"z": prior_grid(2, spvae.num_leaves, 2)})[3, 0].reshape(3, 2, 2) / 4
        picture = np.asarray(drawn.figure.axes[0].images[0].get_array())
        assert np.allclose(picture[2:4, 2:4], patch.movedim(0, -1), atol=1e-6)

    @pytest.mark.parametrize("latent_dim", [1, 2, 3])
    def test_scatter_plots_where_regions_do_not_tile_an_image(self, latent_dim):
        regions = random_binary_tree(6, depth=1, repetitions=2, seed=0)
        spvae = small_spvae(regions, latent_dim=latent_dim)
        latents, posterior = embedded(spvae)
        drawn = latent_picture(spvae, latents, posterior, UNIT, panels=4, grid=3)
        found = principal_components(latents["z"])
        assert torch.allclose(drawn.explained, found.explained)
        *clouds, _ = drawn.figure.axes
        assert [axes.get_title() for axes in clouds[:3]] == ["region 0, VAE 1", "region 0, VAE 2", "region 1, VAE 1"]
        assert len(clouds) == spvae.num_leaves
        order = posterior[:, 2].argsort()
        assert np.allclose(clouds[2].collections[0].get_offsets()[:, 0], found.scores[order, 2, 0])

    def test_many_scatter_plots_are_cut(self):
        regions = random_binary_tree(64, depth=5, repetitions=1, seed=0)
        spvae = small_spvae(regions)
        drawn = latent_picture(spvae, *embedded(spvae), UNIT, panels=2, grid=3)
        assert (drawn.figure.get_size_inches() * drawn.figure.dpi < 5000).all(), (
            "more of those that are drawn elsewhere"
        )
        assert len(drawn.figure.axes) == 24 + 1 and "the first 12 of 32 leaf regions" in drawn.figure.get_suptitle()


def test_clouds_are_points_coloured_by_their_weights():
    points, weights = torch.randn(20, 2), torch.rand(20)
    figure = clouds({f"region {i}": (points + i, weights) for i in range(3)}, 2, "probability", "rows")
    panels, colours = figure.axes[:3], figure.axes[3]
    assert [axes.get_title() for axes in panels] == ["region 0", "region 1", "region 2"]
    assert colours.get_ylabel() == "probability"
    for i, axes in enumerate(panels):
        (cloud,) = axes.collections
        order = weights.argsort()
        assert np.allclose(cloud.get_offsets(), (points + i)[order]), "the most probable on top"
        assert np.allclose(cloud.get_array(), weights[order])
    (axes, _) = clouds({"one": (points[:, :1], weights)}, 4, "probability").axes
    assert np.allclose(axes.collections[0].get_offsets()[:, 1], weights.sort().values)


class Cells(LeafModel):
    """Pixels whose means are the latent variable itself, or three times a kind."""

    def __init__(self, discrete):
        super().__init__()
        self.law = dist.Categorical(torch.ones(3)) if discrete else dist.Beta(torch.ones(4), torch.ones(4)).to_event(1)
        self.latents = {"v": Latent((), self.law.support) if discrete else Latent(4, constraints.unit_interval)}

    def build(self, leaves, **sizes):
        self.log_scale = nn.Parameter(torch.zeros(leaves, 1))

    def forward(self, x=None, mask=None):
        v = pyro.sample("v", self.law)
        loc = v if v.is_floating_point() else 3.0 * v.unsqueeze(-1)
        loc, scale = torch.broadcast_tensors(loc, self.log_scale.exp().expand(-1, 4))
        return pyro.sample("x", LeafNormal(loc, scale, mask=mask), obs=x)


class CellsGuide(LeafGuide):
    def __init__(self, discrete):
        super().__init__()
        self.discrete = discrete

    def forward(self, h):
        kinds, betas = dist.Categorical(logits=h[..., :3]), dist.Beta(1 + 9 * h, 10 - 9 * h).to_event(1)
        pyro.sample("v", kinds if self.discrete else betas)


class TestSupports:
    def test_a_plane_stays_inside(self):
        spvae = SPVAE(poon_domingos((4, 4), delta=2), units=1, leaf=Cells(False), guide=CellsGuide(False))
        latents, posterior = embedded(spvae)
        figure, explained = latent_picture(spvae, latents, posterior, UNIT, panels=1, grid=3)
        found = principal_components(latents["v"].logit())
        assert torch.allclose(explained, found.explained)
        patch = component_grid(found, 3)[0, 0].sigmoid().reshape(2, 2)
        assert np.allclose(shown(figure)[0][:2, :2, 0], patch, atol=1e-6)

    def test_kinds_are_shown_as_clouds_of_their_probabilities(self):
        spvae = SPVAE(poon_domingos((4, 4), delta=2), units=1, leaf=Cells(True), guide=CellsGuide(True))
        latents, posterior = embedded(spvae)
        assert not has_prior_grid(spvae, latents)
        figure, explained = latent_picture(spvae, latents, posterior, UNIT, panels=1, grid=3)
        found = principal_components(latents["v"])
        assert latents["v"].shape == (12, 4, 3) and torch.allclose(explained, found.explained)
        order = posterior[:, 1].argsort()
        assert np.allclose(figure.axes[1].collections[0].get_offsets(), found.scores[order, 1])


class Halves(constraints.Constraint):
    """A support of one's own, of which torch knows nothing."""

    event_dim = 1

    def check(self, value):
        return (value <= 0.5).all(-1)


class Registered(Halves):
    """One that torch knows a transform to, which fails."""


@biject_to.register(Registered)
def _fails(support):
    raise NotImplementedError("to be done")


class TestCoordinates:
    def test_a_support_without_a_transform_keeps_its_values(self):
        values = torch.rand(5, 3, 2) / 2
        found = in_coordinates(Latent(2, Halves()), values, torch.zeros(()))
        assert found.transform is None and torch.equal(found.values, values)

    def test_what_a_transform_raises_is_not_hidden(self):
        with pytest.raises(NotImplementedError, match="^to be done$"):
            in_coordinates(Latent(2, Registered()), torch.rand(5, 3, 2), torch.zeros(()))

    def test_values_on_the_edge_of_the_support_stay(self):
        values = torch.tensor([0.0, 0.25, 0.75]).reshape(3, 1, 1)
        found = in_coordinates(Latent(1, constraints.positive), values, torch.zeros(()))
        assert found.transform is None and torch.equal(found.values, values)
        inside = in_coordinates(Latent(1, constraints.positive), values[1:], torch.zeros(()))
        assert torch.allclose(inside.values, values[1:].log()) and torch.allclose(
            inside.value(inside.values), values[1:]
        )


@pytest.mark.parametrize("regions, cells", [(whole((28, 20)), 1), (poon_domingos((28, 20), 7), 12)])
def test_an_oblong_image_of_few_or_ragged_leaf_regions(regions, cells):
    """28 x 20 pixels, as of Frey faces, cut into cells of 7 x 7 and 7 x 6."""
    spvae = small_spvae(regions, latent_dim=3)
    drawn = latent_picture(spvae, *embedded(spvae), UNIT, panels=2, grid=3)
    lines = {1: (0, 0), 12: (3, 2)}[cells]  # between rows and columns of cells, one pixel each
    assert len(tiles(regions)) == cells and len(drawn.figure.axes) == 2
    for picture in shown(drawn.figure):
        assert picture.shape == (3 * 28 + lines[0], 3 * 20 + lines[1], 3)
