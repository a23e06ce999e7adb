# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The configuration of a run."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from pyro_spvae.training.config import TrainConfig

_COUNTS = ("units", "latent_dim", "particles", "batch_size", "epochs", "patience", "samples", "chunk_size")
_OPTIONAL_COUNTS = ("leaves", "delta", "depth", "repetitions")


@pytest.mark.parametrize("config", [TrainConfig(), TrainConfig(alpha=-math.inf, hidden=(), delta=3, lr=1)])
def test_json_round_trip(config):
    text = json.dumps(config.to_dict(), allow_nan=False)
    assert TrainConfig(**json.loads(text)) == config


def test_is_frozen_and_plain():
    config = TrainConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.lr = 1.0
    assert config.to_dict().keys() == {field.name for field in dataclasses.fields(TrainConfig)}


@pytest.mark.parametrize("name", [*_COUNTS, *_OPTIONAL_COUNTS])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3"])
def test_counts_are_positive_integers(name, value):
    with pytest.raises(ValueError, match=f"^{name} is {value!r}; a positive integer is needed$"):
        TrainConfig(**{name: value})


@pytest.mark.parametrize("name", _COUNTS)
def test_none_is_for_what_the_data_decide(name):
    with pytest.raises(ValueError, match=f"^{name} is None"):
        TrainConfig(**{name: None})


@pytest.mark.parametrize("name", ["structure", "likelihood", "gradient", "networks", "activation"])
def test_choices_are_listed(name):
    with pytest.raises(ValueError, match=f"^{name} is 'nonsense'; known are [a-z_-]+(, [a-z_-]+)+$"):
        TrainConfig(**{name: "nonsense"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed is -1; an integer from 0"),
        ({"seed": 2**63}, "seed is 9223372036854775808; an integer from 0"),
        ({"seed": 1.0}, "seed is 1.0; an integer"),
        ({"seed": False}, "seed is False; an integer"),
        ({"lr": 0}, "lr is 0.0; a positive number"),
        ({"lr": math.inf}, "lr is inf; a positive number"),
        ({"lr": math.nan}, "lr is nan; a positive number"),
        ({"lr": "fast"}, "lr is 'fast'; a number"),
        ({"lr": True}, "lr is True; a number"),
        ({"alpha": math.nan}, "alpha is nan; a finite number or -inf"),
        ({"alpha": math.inf}, "alpha is inf; a finite number or -inf"),
        ({"alpha": None}, "alpha is None; a number"),
        ({"gradient": "dreg", "alpha": 0.5}, "gradient is 'dreg', which needs alpha 0; alpha is 0.5"),
        ({"hidden": (8, 0)}, r"hidden is \(8, 0\); a tuple of positive integers"),
        ({"hidden": "8,8"}, "hidden is '8,8'; a tuple of positive integers"),
        ({"hidden": 8}, "hidden is 8; a tuple of positive integers"),
    ],
)
def test_refusals_name_the_option(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        TrainConfig(**options)
