# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Architectures and saved models: what comes back is the same model, and what does not fit is refused."""

from __future__ import annotations

import os
import sys

import pyro
import pytest
import torch

from pyro_spvae import Circuit, CircuitELBO, poon_domingos, random_binary_tree, whole
from pyro_spvae.checkpoint import read_checkpoint, write_checkpoint
from pyro_spvae.guides import MixedGuide, NormalGuide
from pyro_spvae.likelihoods import Bernoulli, Binomial, Normal
from pyro_spvae.models import SPVAE, VAE, MixedLeaf
from pyro_spvae.nn import MLP, MultiScale, PixelCNN
from pyro_spvae.priors import StandardNormal
from pyro_spvae.registry import make
from tests.conditionals.test_pixels import scattered
from tests.helpers import small_spvae
from tests.models import own_parts

GRID = poon_domingos((4, 4), delta=2)
MODELS = {
    "defaults": lambda: SPVAE(GRID),
    "binomial": lambda: small_spvae(GRID, likelihood=Binomial(7), leaves=3),
    "no channels": lambda: small_spvae(GRID, channels=None),
    "three channels": lambda: small_spvae(GRID, channels=3),
    "ragged": lambda: small_spvae(poon_domingos((5, 4), delta=3)),
    "table": lambda: small_spvae(random_binary_tree(7, 2, 3, seed=1), units=3),
    "one leaf": lambda: small_spvae(whole((3, 3)), units=1),
    "given circuit": lambda: SPVAE(Circuit(GRID, units=3, leaves=1), hidden_dims=(3,)),
    "tied circuit": lambda: SPVAE(Circuit(GRID, 2, tie="shape"), hidden_dims=(3,)),
    "tied circuit of products": lambda: SPVAE(Circuit(GRID, 2, tie="shape", weights="cp"), hidden_dims=(3,)),
    "networks": lambda: SPVAE(
        GRID,
        leaf=VAE(Normal(), 2, (3,), activation="tanh", networks="shared"),
        guide=NormalGuide(encoder=MLP((4, 2), output_gain=1.0), scale="precision"),
    ),
    "own parts": lambda: SPVAE(
        GRID,
        leaf=VAE(own_parts.Laplace(0.3), 2, prior=own_parts.Mixture(3, 0.5), decoder=own_parts.Affine(0.2)),
        guide=NormalGuide(encoder=own_parts.Affine()),
    ),
    "lists and dicts of parts": lambda: SPVAE(
        GRID,
        leaf=MixedLeaf(
            [VAE(Normal(), 2, prior=own_parts.Sum([own_parts.Mixture(2)], {"a": StandardNormal()})), VAE(Normal(), 3)]
        ),
        guide=MixedGuide([NormalGuide((3,)), NormalGuide()]),
    ),
    "own programs": lambda: SPVAE(GRID, leaf=own_parts.TwoLayer(2), guide=own_parts.TwoLayerGuide()),
    "own guide": lambda: SPVAE(GRID, leaf=VAE(Normal(), 2, (3,)), guide=own_parts.LinearGuide()),
    "running statistics": lambda: scattered(
        SPVAE(GRID, leaf=VAE(Bernoulli(), 2, decoder=PixelCNN(filters=3, layers=2, latents="masked")))
    ),
    "multi-scale": lambda: scattered(
        SPVAE(GRID, leaf=VAE(Bernoulli(), 2, decoder=MultiScale(1, 3, 1, padding="bottom-right", checkpoint=True)))
    ),
}


def of_prior(name):
    """Changes the class of the prior."""
    prior = {"kind": "prior", "class": name, "options": {}}
    return lambda state: state["architecture"]["leaf"]["options"].update(prior=prior)


LOGITS = "circuit.layers.0.logits"
CHANGES = [
    (lambda s: s.pop("architecture"), "the file .* holds no model: it has no 'architecture'"),
    (lambda s: s.pop("model"), "the file .* holds no model: it has no 'model'"),
    (lambda s: s.update(model=torch.ones(2)), "the file .* holds no model: its parameters are a Tensor, not a dict"),
    (lambda s: s.update(architecture=torch.ones(2)), "the model in .* cannot be made: architecture is a Tensor"),
    (lambda s: s["architecture"].update(units=3), f"the parameters in .*: {LOGITS} has shape .*needed"),
    (lambda s: s["architecture"].update(dtype="float32"), "the parameters in .* has shape .* and type torch.float64"),
    (lambda s: s["model"].popitem(), "the parameters in .*: leaf_guide.z.network.* is missing"),
    (lambda s: s["model"].update(extra=torch.ones(1)), "the parameters in .* are not those .*: there is no extra"),
    (lambda s: s["model"].update({LOGITS: [1.0]}), f"the parameters in .*: {LOGITS} is a list, not a tensor"),
    (of_prior("gone.module:Prior"), "the model in .* made: prior is 'gone.module:Prior', which cannot be imported"),
    (of_prior("os:system"), "the model in .* cannot be made: prior is 'os:system'; a subclass of .*Prior is needed"),
]


def same_answers(one, other):
    x = one.sample(5)
    answers = []
    for spvae in (one, other):
        pyro.set_rng_seed(7)
        answers.append((spvae.log_likelihood(x, num_samples=12), spvae.sample(4), spvae.reconstruct(x)))
    assert all(torch.equal(first, second) for first, second in zip(*answers, strict=True))


class TestRoundTrip:
    @pytest.mark.parametrize("name", MODELS)
    def test_parameters_likelihoods_and_samples(self, name, tmp_path):
        spvae = MODELS[name]()
        spvae.save(tmp_path)
        loaded = SPVAE.load(tmp_path)
        state, other = spvae.state_dict(), loaded.state_dict()
        assert list(state) == list(other)
        assert all(torch.equal(value, other[key]) and value.dtype == other[key].dtype for key, value in state.items())
        assert loaded.architecture() == spvae.architecture() and loaded.event_shape == spvae.event_shape
        assert all(parameter.requires_grad for parameter in loaded.parameters()) and loaded.training
        same_answers(spvae, loaded)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    @pytest.mark.parametrize("default", [torch.float32, torch.float64])
    def test_types_whatever_the_default_type_is(self, dtype, default, tmp_path):
        spvae = small_spvae(GRID).to(dtype)
        spvae.save(tmp_path)
        torch.set_default_dtype(default)
        loaded = SPVAE.load(tmp_path)
        assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
        assert torch.get_default_dtype() == default
        if dtype != torch.bfloat16:
            same_answers(spvae, loaded)

    @pytest.mark.parametrize("saving", [False, True])
    @pytest.mark.parametrize("loading", [False, True])
    def test_with_and_without_local_parameters(self, saving, loading, tmp_path):
        with pyro.settings.context(module_local_params=saving):
            spvae = small_spvae(GRID)
            spvae.save(tmp_path)
        with pyro.settings.context(module_local_params=loading):
            loaded = SPVAE.load(tmp_path)
            loss = CircuitELBO(2)(loaded.model, loaded.guide)(torch.randn(3, 1, 4, 4))
            loss.backward()
        assert all(parameter.grad is not None for parameter in loaded.parameters())
        assert list(spvae.state_dict()) == list(loaded.state_dict())

    def test_generators_and_the_default_device_do_not_matter(self, tmp_path):
        spvae = small_spvae(GRID)
        spvae.save(tmp_path)
        before = torch.get_rng_state()
        with torch.device("meta"):
            loaded = SPVAE.load(tmp_path)
        assert torch.equal(torch.get_rng_state(), before)
        same_answers(spvae, loaded)

    def test_parts_are_imported_where_they_are_not_yet(self, tmp_path, monkeypatch):
        code = "from pyro_spvae.priors import MixtureOfGaussians\nclass Own(MixtureOfGaussians):\n    pass\n"
        (tmp_path / "parts_of_a_user.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        spvae = SPVAE(GRID, prior=make("prior", "parts_of_a_user:Own(components=2)"))
        spvae.save(tmp_path)
        monkeypatch.delitem(sys.modules, "parts_of_a_user")
        loaded = SPVAE.load(tmp_path)
        assert type(loaded.leaf.prior) is sys.modules["parts_of_a_user"].Own is not type(spvae.leaf.prior)
        same_answers(spvae, loaded)

    def test_a_class_of_ones_own_loads_itself(self, tmp_path):
        class Mine(SPVAE):
            pass

        small_spvae(GRID).save(tmp_path / "theirs")
        assert type(Mine.load(tmp_path / "theirs")) is Mine
        own_parts.OwnRoot(GRID).save(tmp_path / "own")
        assert type(SPVAE.load(tmp_path / "own")) is type(own_parts.OwnRoot.load(tmp_path / "own")) is own_parts.OwnRoot
        with pytest.raises(ValueError, match="the model is a OwnRoot, no Mine; load it by OwnRoot.load$"):
            Mine.load(tmp_path / "own")

    def test_a_second_save_replaces_the_first(self, tmp_path):
        for spvae in (small_spvae(GRID), small_spvae(GRID)):
            spvae.save(tmp_path / "new" / "folder")
        same_answers(spvae, SPVAE.load(tmp_path / "new" / "folder"))
        assert os.listdir(tmp_path / "new" / "folder") == ["model.pt"]


@pytest.fixture
def of_script(monkeypatch):
    """Puts a class into the script that runs, as if it were defined there."""

    def put(base, name):
        cls = type(name, (base,), {"__module__": "__main__"})
        monkeypatch.setattr(sys.modules["__main__"], name, cls, raising=False)
        return cls

    return put


class TestClassesOfTheScript:
    """No other program can load them, which is said once."""

    @pytest.mark.parametrize("kind", ["root", "leaf", "guide", "prior", "likelihood", "network"])
    def test_saving(self, of_script, tmp_path, kind):
        if kind == "root":
            spvae = of_script(SPVAE, "Own")(GRID)
        elif kind == "leaf":
            spvae = SPVAE(GRID, leaf=of_script(VAE, "Own")(Normal()))
        elif kind == "guide":
            spvae = SPVAE(GRID, guide=of_script(NormalGuide, "Own")())
        elif kind == "network":
            spvae = SPVAE(GRID, guide=NormalGuide(encoder=of_script(MLP, "Own")((3,))))
        else:
            prior = kind == "prior"
            part = of_script(own_parts.Mixture, "Own")(2) if prior else of_script(Bernoulli, "Own")()
            own = VAE(Normal(), prior=part) if prior else VAE(part)
            leaf = MixedLeaf([own, VAE(Normal() if prior else Bernoulli())])
            spvae = SPVAE(GRID, leaf=leaf, guide=MixedGuide([NormalGuide(), NormalGuide()]))
        with pytest.warns(UserWarning, match="^the class Own is defined in the script that runs") as caught:
            spvae.save(tmp_path)
        assert len(caught) == 1 and caught[0].filename == __file__
        same_answers(spvae, type(spvae).load(tmp_path))

    def test_several_are_said_at_once(self, of_script, tmp_path):
        prior, likelihood = of_script(own_parts.Mixture, "Own"), of_script(Bernoulli, "Other")
        leaf = MixedLeaf([VAE(likelihood(), prior=prior(2)), VAE(likelihood())])
        spvae = SPVAE(GRID, leaf=leaf, guide=MixedGuide([NormalGuide(), NormalGuide()]))
        message = "^the classes Other, Own are defined in the script .*; move them into a module that both import$"
        with pytest.warns(UserWarning, match=message) as caught:
            spvae.save(tmp_path)
        assert len(caught) == 1

    def test_runs(self, of_script, tmp_path):
        spvae = SPVAE(whole(2), latent_dim=1, hidden_dims=(2,), prior=of_script(own_parts.Mixture, "Own")(2))
        x = torch.rand(20, 2)
        with pytest.warns(UserWarning, match="^the class Own is defined in the script that runs") as caught:
            spvae.fit(x, epochs=3, out=tmp_path / "run")
        assert len(caught) == 1 and caught[0].filename == __file__
        spvae.fit(x, epochs=1)  # leaves nothing that could be loaded

    def test_nothing_is_said_where_nothing_is_saved(self, of_script, tmp_path):
        spvae = SPVAE(GRID, likelihood=of_script(Bernoulli, "Own")())
        assert spvae.architecture()["leaf"]["options"]["likelihood"]["class"] == "__main__:Own"
        (tmp_path / "file").write_text("")
        with pytest.raises(ValueError, match="cannot be made"):
            spvae.save(tmp_path / "file" / "folder")


class TestFiles:
    @pytest.fixture
    def folder(self, tmp_path):
        small_spvae(GRID).save(tmp_path)
        return tmp_path

    def test_which_file_of_a_folder(self, folder):
        """model.pt, else best.pt, else last.pt; or the one that is asked for."""
        for name, value in (("last", 1.0), ("best", 2.0), ("model", 3.0)):
            state = read_checkpoint(folder / "model.pt")
            state["model"]["circuit.layers.0.logits"].fill_(value)
            write_checkpoint(folder / f"{name}.pt", state | {"optimiser": {"step": 1}})

        def read(*args):
            return SPVAE.load(*args).circuit.layers[0].logits[0, 0, 0].item()

        assert read(folder) == 3.0 and read(str(folder / "best.pt")) == 2.0
        assert read(folder, "cpu", "last") == read(folder, "cpu", "last.pt") == 1.0
        (folder / "model.pt").unlink()
        assert read(folder) == 2.0
        (folder / "best.pt").unlink()
        assert read(folder) == 1.0
        (folder / "last.pt").unlink()
        with pytest.raises(ValueError, match="holds no model: there is no model.pt, best.pt, last.pt in it$"):
            read(folder)

    def test_none_is_saved_into_the_folder_of_a_run(self, tmp_path):
        """There it would stay the one that is loaded, whatever training goes on to."""
        spvae = small_spvae(GRID)
        spvae.fit(torch.rand(20, *spvae.event_shape), epochs=1, out=tmp_path / "run")
        with pytest.raises(
            ValueError, match="^the folder .*run is that of a run, whose best model is in its best.pt; "
        ):
            spvae.save(tmp_path / "run")
        assert not (tmp_path / "run" / "model.pt").exists()

    def test_files_that_are_not_there(self, folder):
        with pytest.raises(ValueError, match="^there is no checkpoint .*none$"):
            SPVAE.load(folder / "none")
        with pytest.raises(ValueError, match="^there is no checkpoint .*best.pt$"):
            SPVAE.load(folder, checkpoint="best")
        with pytest.raises(ValueError, match="^checkpoint is 'best', but .*model.pt is no folder$"):
            SPVAE.load(folder / "model.pt", checkpoint="best")

    def test_folder_that_cannot_be_written(self, folder):
        (folder / "file").write_text("")
        for place in ("file", "file/below"):
            with pytest.raises(
                ValueError, match=f"^the folder {folder / place} cannot be made: (File exists|Not a directory)$"
            ):
                small_spvae(GRID).save(folder / place)

    def test_nothing_is_written_if_a_part_cannot_be_described(self, tmp_path):
        spvae = SPVAE(GRID, leaf=VAE(Normal(), 2, (3,), own_parts.Mixture(torch.tensor(2))))
        with pytest.raises(ValueError, match="^a Mixture cannot be saved: its option components is a Tensor"):
            spvae.save(tmp_path / "run")
        assert not os.listdir(tmp_path)

    def test_damaged_file(self, folder):
        content = (folder / "model.pt").read_bytes()
        (folder / "model.pt").write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match="^the checkpoint .*model.pt cannot be read: it is damaged"):
            SPVAE.load(folder)

    @pytest.mark.parametrize(("change", "message"), CHANGES)
    def test_contents_that_do_not_fit(self, folder, change, message):
        state = read_checkpoint(folder / "model.pt")
        change(state)
        write_checkpoint(folder / "model.pt", state)
        with pytest.raises(ValueError, match=f"^{message}") as error:
            SPVAE.load(folder)
        assert "\n" not in str(error.value)

    def test_files_of_versions_that_named_no_structure(self, folder):
        state = read_checkpoint(folder / "model.pt")
        before = SPVAE.load(folder)
        del state["model"]["circuit._extra_state"]
        write_checkpoint(folder / "model.pt", state)
        same_answers(before, SPVAE.load(folder))

    @pytest.mark.parametrize("device", ["cuda:7", "nowhere", "mps", "xpu"])
    def test_devices_that_are_not_there(self, folder, device):
        if device != "nowhere" and getattr(torch, device.partition(":")[0]).is_available():
            pytest.skip("it is there")
        with pytest.raises(ValueError, match=f"^device is '{device}', where the model cannot be put \\(") as error:
            SPVAE.load(folder, device=device)
        assert "\n" not in str(error.value)

    def test_on_another_device(self, folder):
        loaded = SPVAE.load(folder, device="meta")
        assert {parameter.device.type for parameter in loaded.parameters()} == {"meta"}
