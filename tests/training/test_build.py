# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""From configuration and data to a model."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from pyro_spvae import poon_domingos, random_binary_tree
from pyro_spvae.data import Column, DataSet, Values
from pyro_spvae.guides import LeafGuide, NormalGuide
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import SPN, SPVAE, VAE, FactorizedLeaf
from pyro_spvae.nn import MLP, SEResNet
from pyro_spvae.priors import BoltzmannMachine, IndependentBits, MixtureOfGaussians, StandardNormal
from pyro_spvae.training.build import build_likelihood, build_model, build_regions
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.reading import modelled, region_shape
from pyro_spvae.training.resolve import resolve
from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.train import resume, train
from tests.training.cases import TINY, built, images, stopped_after, table

DATA = {
    "binary images": (images(levels=2), "poon-domingos", "bernoulli"),
    "few levels": (images(levels=17), "poon-domingos", "binomial"),
    "bytes": (images(levels=256, channels=3, side=9), "poon-domingos", "low-rank-categorical"),
    "floats": (images(levels=None), "poon-domingos", "normal"),
    "table": (table(), "random-binary-tree", "normal"),
    "two columns": (table(columns=2), "random-binary-tree", "normal"),
    "one column": (table(columns=1), "whole", "normal"),
}
TWO_LAYER = "tests.models.own_parts:TwoLayer"  # latent_dim=1 and no likelihood
OWN = "tests.models.own_parts:Laplace"


@pytest.mark.parametrize(("data", "structure", "likelihood"), DATA.values(), ids=DATA)
def test_what_is_left_open_is_chosen_from_the_data(data, structure, likelihood):
    config = resolve(TINY, data)
    assert (config.structure, config.likelihood) == (structure, likelihood)
    assert config.leaves == config.units
    assert resolve(config, data) == config  # nothing is left open
    unchanged = ("hidden", "latent_dim", "batch_size", "seed", "epochs", "particles")
    assert config.lr == 0.005
    assert all(getattr(config, field) == getattr(TINY, field) for field in unchanged)


@pytest.mark.parametrize("name", DATA)
def test_the_model_fits_the_data_in_shape_dtype_and_support(name):
    data, *_ = DATA[name]
    spvae, modelled_data, _ = built(data)
    for split in (modelled_data.train, modelled_data.test):
        spvae.check(split[:])
    assert spvae.event_shape == data.event_shape
    assert {p.dtype for p in spvae.parameters()} == {torch.float32}, "the configuration's, not torch's default"
    assert spvae.circuit.regions.shape == region_shape(data)
    assert spvae.sample(3).shape == (3, *data.event_shape)
    assert spvae.log_likelihood(modelled_data.test[:], num_samples=3).isfinite().all()


@pytest.mark.parametrize(
    ("leaf", "given", "size"),
    [
        ("vae", None, 8),
        ("vae", 3, 3),
        ("vae(latent_dim=5)", 3, 5),
        ("vae+hvae", None, 8),
        (TWO_LAYER, None, 1),
        (TWO_LAYER, 3, 3),
        ("factorized", None, None),
    ],
)
def test_the_latent_size_is_the_leafs_own_unless_given(leaf, given, size):
    guide = TWO_LAYER + "Guide" if leaf == TWO_LAYER else "auto"
    spvae, data, config = built(images(side=4), leaf=leaf, guide=guide, latent_dim=given, units=2)
    assert config.latent_dim == size and resolve(config, data) == config
    assert config.likelihood == ("auto" if leaf == TWO_LAYER else "binomial")  # this leaf has pixels of its own
    shapes = {latent.event_shape for latent in spvae.latents.values()}
    assert shapes == (set() if size is None else {(size,)})


_WHOLE = {"structure": "whole", "units": 1}
_DVAEPP = "dvaepp(groups=1,local_shape=(1,2,2),channels=2)"
_ITS_GUIDE = "dvaepp(levels=1,channels=2)"


@pytest.mark.parametrize(
    ("options", "prior"),
    [
        ({"leaf": "vae"}, StandardNormal),
        ({"leaf": "discrete-vae"}, IndependentBits),
        ({"leaf": "discrete-vae", "prior": "boltzmann-machine"}, BoltzmannMachine),
        ({"leaf": "vae", "prior": "mixture-of-gaussians"}, MixtureOfGaussians),
        ({"leaf": _DVAEPP, "guide": _ITS_GUIDE, **_WHOLE}, BoltzmannMachine),
        ({"leaf": _DVAEPP, "guide": _ITS_GUIDE, "prior": "standard-normal", **_WHOLE}, StandardNormal),
    ],
)
def test_the_prior_is_the_leafs_own_unless_given(options, prior):
    config = resolve(dataclasses.replace(TINY, **options), DATA["binary images"][0])
    assert type(build_model(config, DATA["binary images"][0]).leaf.prior) is prior


def test_cells_of_images_are_a_quarter_of_the_longer_side():
    assert resolve(TINY, images(side=20)).delta == 5
    assert resolve(TINY, images(side=21)).delta == 7  # equal cells
    assert resolve(TINY, images(side=22)).delta == 6  # a quarter, rounded up
    assert resolve(TINY, images(side=8)).delta == 4  # at least 4
    assert resolve(TINY, images(side=3)).delta == 3  # at most the side


@pytest.mark.parametrize(
    ("structure", "options"),
    [
        ("poon-domingos", {"delta": 2}),
        ("quad-tree", {"delta": 2}),
        ("random-binary-tree", {"depth": 2, "repetitions": 3}),
        ("learned", {"leaf_size": 1, "repetitions": 1}),
        ("chow-liu", {"block": 16}),
        ("whole", {}),
    ],
)
def test_structure_options_reach_the_graph(structure, options):
    config = resolve(dataclasses.replace(TINY, structure=structure, **options), images())
    regions = build_regions(config, images())
    counts = {"poon-domingos": 4, "quad-tree": 4, "random-binary-tree": 12, "learned": 16, "chow-liu": 1, "whole": 1}
    assert regions.counts(1)["leaf_regions"] == counts[structure]


def test_the_seed_decides_random_trees_and_parameters():
    def build(seed):
        config = resolve(dataclasses.replace(TINY, structure="random-binary-tree", seed=seed), images())
        torch.manual_seed(seed)
        return build_regions(config, images()).leaf_scopes, build_model(config, images()).state_dict()

    (scopes, state), (same_scopes, same_state), (other_scopes, other_state) = build(0), build(0), build(1)
    assert scopes == same_scopes != other_scopes
    assert all(torch.equal(state[key], same_state[key]) for key in state)
    assert any(not torch.equal(state[key], other_state[key]) for key in state)


def test_the_normal_knows_whether_its_data_lie_in_the_unit_interval():
    for data, mean in ((images(levels=256), "sigmoid"), (images(levels=None), "sigmoid"), (table(), "identity")):
        config = resolve(dataclasses.replace(TINY, likelihood="normal(min_scale=0.25)"), data)
        likelihood = build_likelihood(config, modelled(config, data).values)
        assert isinstance(likelihood, Normal) and (likelihood.mean, likelihood.min_scale) == (mean, 0.25)


@pytest.mark.parametrize(
    ("options", "levels", "preprocess", "likelihood"),
    [
        ({}, 2, "integers", "bernoulli"),
        ({}, 32, "integers", "binomial"),
        ({}, 33, "integers", "low-rank-categorical"),
        ({}, 256, "integers", "low-rank-categorical"),
        ({}, None, "none", "normal"),
        ({"likelihood": "normal"}, 4, "dequantize", "normal"),
        ({"likelihood": "binomial"}, 256, "integers", "binomial"),
        ({"likelihood": "categorical"}, 2, "integers", "categorical"),
        ({"likelihood": OWN}, 4, "dequantize", OWN),  # says that it is of real numbers
        ({"preprocess": "binarize"}, 256, "binarize", "bernoulli"),
        ({"preprocess": "binarize-static"}, None, "binarize-static", "bernoulli"),
        ({"preprocess": "integers"}, 256, "integers", "low-rank-categorical"),
        ({"preprocess": "dequantize"}, 256, "dequantize", "normal"),
        ({"preprocess": "dequantize"}, 2, "dequantize", "normal"),
        ({"preprocess": "paper"}, 256, "paper", "normal"),
        ({"preprocess": "none", "likelihood": "normal"}, 256, "none", "normal"),
    ],
)
def test_preprocessing_and_likelihood_are_chosen_to_fit(options, levels, preprocess, likelihood):
    spvae, data, config = built(images(levels=levels), **options)
    assert (config.preprocess, config.likelihood) == (preprocess, likelihood)
    spvae.check(data.train[:])
    assert spvae.log_likelihood(data.test[:2], num_samples=2).isfinite().all()


def test_very_many_levels_need_no_number_each():
    """Of all pixels of all leaves: those of 16 bits, or of large images."""
    chosen = [resolve(dataclasses.replace(TINY, leaves=leaves), images(levels=2**16)).likelihood for leaves in (16, 17)]
    assert chosen == ["low-rank-categorical", "discretized-logistic"]


@pytest.mark.parametrize(
    "options",
    [
        {"structure": "whole", "leaf": "factorized", "optimiser": "em", "particles": 1, "latent_dim": None},
        {"structure": "whole", "leaf": "gaussian", "particles": 1, "latent_dim": None},
        {"leaf": "vae+gaussian"},
    ],
)
def test_many_levels_are_normal_where_they_are_trained_by_em_or_jointly(options):
    config = dataclasses.replace(TINY, hidden=TrainConfig().hidden, **options)
    many, few = (resolve(config, images(levels=levels)) for levels in (256, 17))
    assert (many.preprocess, many.likelihood) == ("dequantize", "normal")
    assert (few.preprocess, few.likelihood) == ("integers", "binomial")


@pytest.mark.parametrize("levels", [2, 17, 256, None])
def test_a_leaf_without_latent_variables_has_no_guide(levels):
    spvae, data, config = built(images(levels=levels), leaf="factorized", latent_dim=None)
    assert config.guide == "none" and resolve(config, images(levels=levels)) == config
    assert isinstance(spvae, SPN) and isinstance(spvae.leaf, FactorizedLeaf) and type(spvae.leaf_guide) is LeafGuide
    assert spvae.log_likelihood(data.test[:2]).isfinite().all()
    assert resolve(TINY, images()).guide == "normal"


def test_precision_is_that_of_the_parameters():
    spvae, *_ = built(images(), precision="float64")
    assert {parameter.dtype for parameter in spvae.parameters()} == {torch.float64}


def grouped_rows(rows, seed=0):
    """A table whose columns 0, 2, 4 and 1, 3, 5 belong together."""
    draw = np.random.default_rng(seed)
    return np.tile(draw.normal(size=(rows, 2)), 3) + draw.normal(scale=0.4, size=(rows, 6))


class TestLearnedStructure:
    config = dataclasses.replace(TINY, structure="learned")

    def test_what_is_left_open_is_chosen_from_the_data(self):
        for data, leaf_size in ((table(columns=1), 1), (table(columns=9), 4), (images(side=12), 9)):
            config = resolve(self.config, data)
            assert (config.leaf_size, config.repetitions, config.depth, config.delta) == (leaf_size, 2, None, None)
            assert resolve(config, data) == config
            model = build_model(config, data)
            assert model.circuit.regions.shape == region_shape(data)
        assert resolve(TINY, table()).leaf_size is None

    def test_is_that_of_the_training_rows_alone(self):
        x = torch.from_numpy(grouped_rows(300)).float()
        values = Values(low=float(x.min()), high=float(x.max()))
        noise = x.gather(0, torch.rand(x.shape).argsort(0))
        config = resolve(self.config, DataSet("grouped", x, x, x, values))
        found = build_regions(config, DataSet("grouped", x, noise, noise, values))
        assert found.leaf_scopes == ((0, 2, 4), (1, 3, 5))
        assert build_regions(config, DataSet("grouped", noise, x, x, values)).leaf_scopes != found.leaf_scopes

    def test_is_that_of_rows_after_preprocessing_with_channels_together(self):
        side = torch.rand(600, 1, 1, 2) < 0.5
        x = (side.repeat_interleave(2, -1).expand(600, 3, 4, 4) ^ (torch.rand(600, 3, 4, 4) < 0.1)).to(torch.uint8)
        data = DataSet("halves", x * 200, x * 200, x * 200, Values.grey_levels(256))
        for preprocess in ("binarize", "dequantize", "integers", "paper"):
            config = resolve(dataclasses.replace(self.config, preprocess=preprocess, leaf_size=8), data)
            regions = build_regions(config, modelled(config, data))
            assert regions.shape == (4, 4)
            assert [{variable % 4 // 2 for variable in scope} for scope in regions.leaf_scopes] == [{0}, {1}]

    def test_of_many_rows_is_that_of_some_drawn_by_the_seed(self):
        x = torch.from_numpy(grouped_rows(12_000)).float()
        x[:10_000] = x[:10_000].gather(0, torch.rand(10_000, 6).argsort(0))  # the first rows show nothing
        data = DataSet("grouped", x, x[:9], x[:9], Values(low=float(x.min()), high=float(x.max())))
        config = resolve(self.config, data)
        graphs = [build_regions(config, data) for _ in range(2)]
        assert graphs[0] == graphs[1] and graphs[0].leaf_scopes == ((0, 2, 4), (1, 3, 5))

    def test_is_kept_by_the_run_and_learned_again_when_it_is_resumed(self, tmp_path):
        np.save(tmp_path / "table.npy", grouped_rows(200))
        config = dataclasses.replace(
            self.config, data=str(tmp_path / "table.npy"), leaf_size=2, repetitions=3, batch_size=32
        )
        whole = train(config, tmp_path / "whole")
        with stopped_after(5):
            train(config, tmp_path / "stopped")
        torch.manual_seed(123)
        assert resume(tmp_path / "stopped")["log_likelihood"] == whole["log_likelihood"]
        kept = [RunFolder(tmp_path / name).load("last.pt")["architecture"] for name in ("whole", "stopped")]
        assert kept[0] == kept[1]
        regions = SPVAE.load(tmp_path / "whole").circuit.regions
        assert regions.to_json() == kept[0]["regions"] and max(map(len, regions.leaf_scopes)) == 2
        blocks = {0, 2, 4}, {1, 3, 5}
        assert all(any(set(scope) <= block for block in blocks) for scope in regions.leaf_scopes)
        # its config.json trains the same model
        again = TrainConfig.from_dict(RunFolder(tmp_path / "whole").read_json("config.json"))
        assert (again.structure, again.leaf_size, again.repetitions) == ("learned", 2, 3)


class TestChowLiuStructure:
    config = dataclasses.replace(TINY, structure="chow-liu")

    def test_what_is_left_open_is_chosen(self):
        for data in (table(columns=1), table(columns=9), images(side=12)):
            config = resolve(self.config, data)
            assert (config.block, config.weights, config.leaf_size, config.delta) == (1, "cp", None, None)
            assert resolve(config, data) == config
            circuit = build_model(config, data).circuit
            assert circuit.weights == "cp" and circuit.regions.shape == region_shape(data)
            assert circuit.num_leaf_regions == circuit.regions.num_variables
        assert resolve(dataclasses.replace(self.config, weights="full"), table()).weights == "full"
        assert (resolve(TINY, table()).block, resolve(TINY, table()).weights) == (None, "full")

    def test_is_that_of_the_training_rows_alone(self):
        x = torch.from_numpy(grouped_rows(300)).float()
        values = Values(low=float(x.min()), high=float(x.max()))
        noise = x.gather(0, torch.rand(x.shape).argsort(0))
        config = resolve(dataclasses.replace(self.config, block=3), DataSet("grouped", x, x, x, values))
        found = build_regions(config, DataSet("grouped", x, noise, noise, values))
        assert found.leaf_scopes == ((0, 2, 4), (1, 3, 5))
        assert build_regions(config, DataSet("grouped", noise, x, x, values)).leaf_scopes != found.leaf_scopes

    def test_knows_which_columns_hold_names(self, tmp_path):
        """Names of no order tell all of each other, as numbers they would not; and messages name columns."""
        generator = np.random.default_rng(0)
        place = generator.integers(0, 20, 2000)
        number = place + generator.normal(scale=0.5, size=2000)
        one, other = (
            np.array([f"n{value:02}" for value in names])[place] for names in (range(20), generator.permutation(20))
        )
        lines = [f"{n:.4f},{a},{b}" for n, a, b in zip(number, one, other, strict=True)]
        (tmp_path / "table.csv").write_text("\n".join(["number,one,other", *lines]) + "\n")
        config = dataclasses.replace(self.config, data=str(tmp_path / "table.csv"), block=2, epochs=1)
        train(config, tmp_path / "run")
        assert SPVAE.load(tmp_path / "run").circuit.regions.leaf_scopes == ((0,), (1, 2))
        seen = torch.full((9, 2), math.nan)
        seen[:5, 0], seen[4:, 1] = torch.arange(5.0), torch.arange(5.0)
        columns = [Column("age", "real"), Column("height", "real")]
        data = DataSet("holes", seen, seen, seen, Values(low=0, high=4), missing="nan", columns=columns)
        with pytest.raises(ValueError, match="^x must have at least 2 rows .*, but has 1 of age and height"):
            build_model(resolve(self.config, data), data)

    def test_is_kept_by_the_run_and_learned_again_when_it_is_resumed(self, tmp_path):
        np.save(tmp_path / "table.npy", grouped_rows(200))
        config = dataclasses.replace(self.config, data=str(tmp_path / "table.npy"), block=2, batch_size=32, units=3)
        whole = train(config, tmp_path / "whole")
        with stopped_after(5):
            train(config, tmp_path / "stopped")
        torch.manual_seed(123)
        assert resume(tmp_path / "stopped")["log_likelihood"] == whole["log_likelihood"]
        kept = [RunFolder(tmp_path / name).load("last.pt")["architecture"] for name in ("whole", "stopped")]
        assert kept[0] == kept[1]
        circuit = SPVAE.load(tmp_path / "whole").circuit
        assert circuit.regions.to_json() == kept[0]["regions"] and circuit.weights == "cp"
        again = TrainConfig.from_dict(RunFolder(tmp_path / "whole").read_json("config.json"))
        assert (again.structure, again.block, again.weights) == ("chow-liu", 2, "cp")

    @pytest.mark.parametrize("leaf", ["vae", "factorized", "vae+factorized"])
    def test_of_images_goes_with_leaves_of_every_kind(self, leaf):
        spvae, data, config = built(images(side=4), structure="chow-liu", leaf=leaf, units=2, latent_dim=None)
        assert spvae.circuit.num_leaf_regions == 16
        assert spvae.log_likelihood(data.test[:3], num_samples=2).isfinite().all()


@pytest.mark.parametrize("structure", ["random-binary-tree", "learned", "chow-liu"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_trained_on_with_leaf_regions_of_unequal_sizes(structure, channels, tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (60, channels, 5, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", np.maximum(x, x[:, :, :1]))  # rows of pixels depend on each other
    options = {"random-binary-tree": {"depth": 2}, "learned": {"leaf_size": 4}, "chow-liu": {"block": 4}}[structure]
    config = dataclasses.replace(TINY, data=str(tmp_path / "images.npy"), structure=structure, units=2, **options)
    results = train(config, tmp_path / "run")
    assert np.isfinite(results["log_likelihood"])
    spvae = SPVAE.load(tmp_path / "run")
    sizes = {len(scope) for scope in spvae.circuit.regions.leaf_scopes}
    assert len(sizes) > 1 and spvae.event_shape == (channels, 5, 3)
    if structure == "random-binary-tree":
        assert spvae.circuit.regions == random_binary_tree((5, 3), 2, 4, seed=0) and sizes == {3, 4}
    assert {"samples.png", "reconstructions.png"} <= {path.name for path in (tmp_path / "run" / "figures").iterdir()}


def test_two_kinds_of_leaves_take_turns():
    spvae, *_ = built(images(side=8), leaf="vae+factorized", units=4, delta=4)
    assert [type(subset.program) for subset in spvae.leaf.subsets] == [VAE, FactorizedLeaf]
    assert [type(subset.program) for subset in spvae.leaf_guide.subsets] == [NormalGuide, LeafGuide]
    assert [subset.index[:4].tolist() for subset in spvae.leaf.subsets] == [[0, 2, 4, 6], [1, 3, 5, 7]]


DVAEPP = "dvaepp(groups=1,local_shape=(1,1,1),channels=2{})"


@pytest.mark.parametrize(
    ("brackets", "options", "kind", "found"),
    [
        ("", {}, SEResNet, {"channels": (2,)}),
        ("", {"decoder": "mlp"}, MLP, {"hidden_dims": (4,)}),
        ("", {"decoder": "mlp", "hidden": (6, 5)}, MLP, {"hidden_dims": (6, 5)}),
        ("", {"network": "mlp"}, SEResNet, {"channels": (2,)}),
        ("", {"network": "se-resnet(channels=3,levels=1)"}, SEResNet, {"channels": 3, "levels": 1}),
        ("", {"network": "mlp(hidden_dims=(7,))"}, MLP, {"hidden_dims": (7,)}),
        ("", {"network": "conv", "decoder": "se-resnet(channels=4)"}, SEResNet, {"channels": 4}),
        (",decoder=mlp(hidden_dims=(5,))", {}, MLP, {"hidden_dims": (5,)}),
        (",decoder=mlp(hidden_dims=(5,))", {"network": "conv"}, MLP, {"hidden_dims": (5,)}),
    ],
)
def test_networks_of_its_own_are_kept_unless_others_are_named(brackets, options, kind, found):
    common = {"guide": "dvaepp(levels=2,channels=2,hidden_dims=(3,))", "structure": "whole"}
    spvae, data, _ = built(images(), leaf=DVAEPP.format(brackets), **common, **options)
    decoder = spvae.leaf.pixels.decoder
    assert type(decoder) is kind and {name: getattr(decoder, name) for name in found} == found
    assert spvae.leaf_guide.hidden_dims == (3,) and spvae.eval().sample(2).shape[1:] == data.event_shape


def test_what_has_no_networks_of_its_own_gets_those_that_are_configured():
    spvae, _, _ = built(images(), hidden=(6,))
    assert spvae.leaf.pixels.decoder.hidden_dims == (6,) == spvae.leaf_guide.z.network.hidden_dims


def test_sum_weights_are_tied_and_factored():
    sizes = {}
    for tie, weights in (("none", "full"), ("shape", "full"), ("none", "cp"), ("shape", "cp")):
        circuit = built(images(side=8), delta=2, units=3, tie=tie, weights=weights)[0].circuit
        assert (circuit.tie, circuit.weights) == (tie, weights)
        sizes[tie, weights] = sum(parameter.numel() for parameter in circuit.parameters())
    assert sizes["shape", "cp"] < min(sizes["shape", "full"], sizes["none", "cp"])
    assert max(sizes["shape", "full"], sizes["none", "cp"]) < sizes["none", "full"]


def test_several_deltas():
    data = images(side=8)
    config = resolve(dataclasses.replace(TINY, delta=[4, 2]), data)
    assert build_regions(config, data) == poon_domingos((8, 8), [4, 2])


DISCRETE = r"likelihood is '{}', but the values of table are .*accepted (is|are) 'normal'"
TREES = "describes random-binary-tree"


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("few levels", {"likelihood": "bernoulli"}, "likelihood is 'bernoulli', but the values of images are not only"),
        *(("table", {"likelihood": name}, DISCRETE.format(name)) for name in ("binomial", "categorical", "bernoulli")),
        ("bytes", {"structure": "whole", "delta": 2}, "delta is 2, but the structure whole has no cells; leave it out"),
        ("bytes", {"structure": "learned", "delta": 2}, "delta is 2, but the structure learned has no cells; leave it"),
        ("bytes", {"depth": 2}, f"depth is 2 and {TREES}, but the structure is poon-domingos; leave it out"),
        ("bytes", {"depth": 2, "structure": "learned"}, f"depth is 2 and {TREES}, but the structure is learned"),
        ("bytes", {"repetitions": 2}, f"repetitions is 2 and {TREES} and learned, but the structure is poon-domingos"),
        ("table", {"leaf_size": 2}, "leaf_size is 2 and describes learned, but the structure is random-binary-tree"),
        ("table", {"block": 2}, "block is 2 and describes chow-liu, but the structure is random-binary-tree; leave it"),
        ("table", {"leaf_size": 5, "structure": "learned"}, "leaf_size must be at most the number of .*, 4, but is 5"),
        ("bytes", {"delta": [4, 2], "structure": "quad-tree"}, r"delta is \[4, 2\], .* quad-tree takes one; give one"),
        ("bytes", {"leaf": "vae+factorized", "units": 3}, ".*2 kinds, but leaves .* is 3; a multiple of "),
        ("bytes", {"leaf": "factorized", "prior": "vamp"}, "prior is 'vamp', but the leaf 'factorized' takes none; le"),
        (
            "bytes",
            {"leaf": "factorized"},
            "latent_dim is 2, but the leaf 'factorized' takes none; leave one of them out",
        ),
        (
            "bytes",
            {"leaf": "sbvae", "latent_dim": 5},
            "latent_dim is 5, but the leaf 'sbvae' takes none; leave one of ",
        ),
        ("bytes", {"leaf": TWO_LAYER, "likelihood": "normal"}, f"likelihood is 'normal', but the leaf '{TWO_LAYER}' t"),
        (
            "few levels",
            {"leaf": "factorized", "guide": "normal", "latent_dim": None},
            "a NormalGuide states .* sites z, but .* none; give",
        ),
        ("few levels", {"leaf": "hvae", "guide": "normal"}, "a NormalGuide states .* sites z, but .* z2, z1; give"),
        ("few levels", {"guide": "none"}, "the guide LeafGuide states .* none, but the leaf VAE declares z; they must"),
    ],
)
def test_what_does_not_go_together_is_refused(data, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        built(DATA[data][0], **options)
