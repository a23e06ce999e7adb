# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Decoders of their own kind, and networks that are one thing in training and another in evaluation."""

from __future__ import annotations

import re

import pytest
import torch

from pyro_spvae import distributed
from pyro_spvae.models import SPVAE
from pyro_spvae.nn import MLP, Conv, GatedConv, MultiScale, PixelCNN
from pyro_spvae.registry import names
from pyro_spvae.training import trainer as trainer_module
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.evaluation import log_likelihoods, mean_bounds
from pyro_spvae.training.run_folder import RunFolder
from tests.training.cases import built, images, same, trainer_of

DATA = images(levels=2)
PIXEL = {
    "network": "gated-conv(layers=((3, 3, 1, 1),))",
    "decoder": "pixelcnn(filters=4, layers=2)",
    "structure": "poon-domingos",
    "delta": 2,
}
ASKED = f"decoder is {PIXEL['decoder']!r}, but the leaf"
KNOWN = f"known are {', '.join(names('network'))}, or package.module:Class"
BY_SCALES = "multi-scale(smallest=1, filters=4, blocks=1, padding=bottom-right)"
ENCODER = (
    "the network '{}' is a decoder and cannot encode patches; give it as decoder alone, and another network as encoder"
)


def statistics(spvae):
    return {name: value.clone() for name, value in spvae.named_buffers() if "running" in name}


class TestDecoderOption:
    def test_decoders_may_be_of_another_kind(self):
        spvae, *_ = built(DATA, **PIXEL)
        assert isinstance(spvae.leaf.pixels.decoder, PixelCNN) and isinstance(spvae.leaf_guide.z.network, GatedConv)
        assert (spvae.leaf.pixels.decoder.filters, spvae.leaf_guide.z.network.layers) == (4, ((3, 3, 1, 1),))
        spvae, *_ = built(DATA, **{**PIXEL, "decoder": BY_SCALES})
        decoder = spvae.leaf.pixels.decoder
        assert isinstance(decoder, MultiScale) and (decoder.smallest, decoder.padding) == (1, "bottom-right")
        spvae, *_ = built(DATA, network="conv(filters=(2,))", decoder="mlp", hidden=(5,), delta=2)
        assert isinstance(spvae.leaf.pixels.decoder, MLP) and isinstance(spvae.leaf_guide.z.network, Conv)
        assert spvae.leaf.pixels.decoder.hidden_dims == (5,)

    def test_by_default_they_are_like_the_encoders(self):
        assert TrainConfig().decoder is None
        spvae, *_ = built(DATA, network="gated-conv(layers=((3, 3, 1, 1),))", delta=2)
        assert isinstance(spvae.leaf.pixels.decoder, GatedConv)

    def test_some_of_several_kinds_of_leaves(self):
        spvae, *_ = built(DATA, **{**PIXEL, "leaf": "vae+factorized", "units": 2})
        assert isinstance(spvae.leaf.subsets[0].program.pixels.decoder, PixelCNN)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"leaf": "factorized", "latent_dim": None}, f"{ASKED} 'factorized' takes none; leave one of them out"),
            ({"leaf": "vae(hidden_dims=(3,))"}, f"{ASKED} 'vae(hidden_dims=(3,))' takes none; leave one of them out"),
            ({"decoder": " "}, "decoder is empty; a name is needed"),
            ({"decoder": 3}, "decoder is 3; a text is needed"),
            ({"decoder": "pixelcn"}, f"network is 'pixelcn'; did you mean pixelcnn? {KNOWN}"),
            ({"network": "pixelcnn", "decoder": None}, ENCODER.format("pixelcnn")),
            ({"network": BY_SCALES, "decoder": None}, ENCODER.format("multi-scale")),
        ],
    )
    def test_refusals(self, options, message):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            built(DATA, **{**PIXEL, **options})


class TestModes:
    def test_training_learns_statistics_and_validation_uses_them(self, monkeypatch):
        spvae, data, config = built(DATA, **PIXEL)
        seen = []

        def validate(validated, *args):
            seen.append(statistics(validated))
            result = mean_bounds(validated, *args)
            assert same(seen[-1], statistics(validated))
            assert all(module.training for module in validated.modules())
            return result

        monkeypatch.setattr(trainer_module, "mean_bounds", validate)
        spvae.eval()
        before = statistics(spvae)
        trainer_of(spvae, data, config).run(max_steps=4)
        assert len(seen) == 2 and not same(before, seen[0]) and not same(seen[0], seen[1])
        assert not any(module.training for module in spvae.modules())  # as it was given

    def test_figures_do_not_depend_on_the_mode_and_leave_statistics_alone(self):
        spvae, data, config = built(DATA, **PIXEL)
        trainer = trainer_of(spvae, data, config)
        trainer.run()
        before, figures = statistics(spvae), []
        for training in (True, False):
            spvae.train(training)
            values = log_likelihoods(spvae, data.test, samples=4, chunk_size=16, seed=1)
            figures.append((values.tolist(), mean_bounds(spvae, trainer.elbo, data.test, 1)))
            assert spvae.training is training and same(before, statistics(spvae))
        assert figures[0] == figures[1]

    @pytest.mark.parametrize("decoder", [PIXEL["decoder"], BY_SCALES])
    def test_checkpoints_hold_statistics(self, tmp_path, decoder):
        options = {**PIXEL, "decoder": decoder}
        spvae, data, config = built(DATA, **options)
        folder = RunFolder.create(tmp_path / "run", config.to_dict(), {})
        identity = {"architecture": spvae.architecture()}
        trainer_of(spvae, data, config, folder, identity).run()
        again = SPVAE.load(tmp_path / "run", checkpoint="best.pt")
        assert same(statistics(spvae), statistics(again))
        fresh, *_ = built(DATA, **options)
        assert not same(statistics(spvae), statistics(fresh))
        values = [log_likelihoods(each, data.test, samples=4, chunk_size=16, seed=1) for each in (spvae, again)]
        assert torch.equal(*values)

    def test_processes_average_what_each_has_seen(self, monkeypatch):
        spvae, *_ = built(DATA, **PIXEL)
        for value in statistics(spvae).values():
            value.normal_()
        before = {name: value.clone() for name, value in spvae.state_dict().items()}
        assert distributed.average_statistics(spvae) is None and same(before, spvae.state_dict())  # alone
        monkeypatch.setattr(distributed, "world", lambda: 2)
        monkeypatch.setattr(distributed, "total", lambda values: values.add_(3.0))  # the other process has 3
        distributed.average_statistics(spvae)
        for name, value in spvae.state_dict().items():
            torch.testing.assert_close(value, (before[name] + 3) / 2 if "running" in name else before[name])
