# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The configuration of a run: what is accepted, and what a wrong value is told."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_spvae.training.config import TrainConfig, read_config
from pyro_spvae.training.fit_config import FitConfig

NAMES = [field.name for field in dataclasses.fields(TrainConfig)]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["-inf", "auto"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@pytest.mark.parametrize("config", [TrainConfig(), TrainConfig(hidden=(), delta=3, lr=1, objective="renyi", alpha=0.5)])
def test_json_round_trip(config):
    text = json.dumps(config.to_dict(), allow_nan=False)
    assert TrainConfig.from_dict(json.loads(text)) == config


def test_is_frozen_and_plain():
    config = TrainConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.lr = 1.0
    assert config.to_dict().keys() == set(NAMES)


@pytest.mark.parametrize(
    ("options", "order"),
    [
        ({}, 0.0),
        ({"objective": "elbo"}, 1.0),
        ({"objective": "vr-max"}, -math.inf),
        ({"objective": "renyi", "alpha": 0.5}, 0.5),
    ],
)
def test_objectives_are_orders_of_the_leaf_bound(options, order):
    assert FitConfig(**options).order == order


@pytest.mark.parametrize(("value", "kept"), [(4, 4), ([4], 4), ([4, 1], (4, 1)), ((7, 2, 1), (7, 2, 1)), (None, None)])
def test_delta_is_a_side_or_several(value, kept):
    config = TrainConfig(delta=value)
    assert config.delta == kept
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


_COUNTS = ("particles", "epochs", "patience", "chunk_size")
_OPTIONAL_COUNTS = (
    "batch_size",
    "units",
    "leaves",
    "latent_dim",
    "depth",
    "repetitions",
    "leaf_size",
    "block",
    "validate_every",
    "samples",
)
_CHOICES = (
    *("structure", "preprocess", "networks", "activation", "weights", "tie", "precision"),
    *("objective", "gradient", "reduce", "optimiser", "schedule", "average"),
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(
            ({name: value}, f"{name} is {value!r}; a positive integer is needed$")
            for name in _COUNTS + _OPTIONAL_COUNTS
            for value in (0, -1, 1.5, True, "3")
        ),
        *(({name: None}, f"{name} is None") for name in _COUNTS),
        *(({name: "nonsense"}, f"{name} is 'nonsense'; known are [a-z0-9_-]+(, [a-z0-9_-]+)+$") for name in _CHOICES),
        *(({"delta": value}, "delta is ") for value in (0, True, 1.0, "4", [4, 0], [1.5])),
        ({"latentdim": 1}, "the unknown key 'latentdim'; did you mean latent_dim"),
        ({"optimizer": 1}, "the unknown key 'optimizer'; did you mean optimiser"),
        ({"zzz": 1}, "the unknown key 'zzz'; known are objective, "),
        ({"seed": -1}, "seed is -1; an integer of at least 0"),
        ({"seed": 2**63}, "seed is 9223372036854775808; an integer from 0"),
        ({"seed": 1.0}, "seed is 1.0; an integer"),
        ({"seed": False}, "seed is False; an integer"),
        *(({"lr": value}, f"lr is {value!r}; a positive number") for value in (0, math.inf, math.nan, "fast", True)),
        ({"lr": 10**400}, "lr is 1000"),
        ({"clip": 0}, "clip is 0; a positive number"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0; a number of at least 0"),
        (
            {"validate_every": 5, "optimiser": "em"},
            "validate_every is 5, but the optimiser 'em' takes a step after each epoch; leave it out",
        ),
        ({"weight_decay": 0.1}, "weight_decay belongs to the optimiser 'adamw', but optimiser is 'adam'"),
        ({"average": "ema", "optimiser": "em"}, "average is 'ema', but the optimiser 'em' averages statistics of rows"),
        ({"average": "swa", "optimiser": "online-em"}, "average is 'swa', but the optimiser 'online-em' averages stat"),
        ({"average_decay": 0.9}, "average_decay belongs to the average 'ema', but average is 'none'"),
        ({"average": "swa", "average_decay": 0.9}, "average_decay belongs to the average 'ema', but average is 'swa'"),
        ({"average": "ema", "average_decay": 1}, "average_decay is 1.0; a number above 0 and below 1 is needed"),
        ({"average": "ema", "average_decay": 0}, "average_decay is 0; a positive number"),
        ({"average_start": 0.5}, "average_start is 0.5, but average is 'none'; give ema or swa"),
        ({"average": "swa", "average_start": 1.0}, "average_start is 1.0; a number of at least 0 and below 1 is"),
        ({"average": "swa", "average_start": -1.0}, "average_start is -1.0; a number of at least 0"),
        ({"clip": 1, "optimiser": "adam-normgrad"}, "clip is 1.0, but the optimiser 'adam-normgrad' divides gradients"),
        ({"warmup": -1}, "warmup is -1; an integer of at least 0"),
        ({"objective": "renyi", "alpha": math.nan}, "alpha is nan; a finite number"),
        ({"objective": "renyi"}, "objective is 'renyi', which needs its order; give alpha"),
        ({"alpha": 0.5}, "alpha is the order of the objective 'renyi', but objective is 'iwae'"),
        ({"objective": "trace-elbo", "alpha": 0.5}, "alpha is the order of the objective 'renyi', but objective is"),
        ({"objective": "pyro-renyi-elbo", "alpha": 1}, "alpha is 1, which the objective 'pyro-renyi-elbo' does not"),
        *(
            ({"gradient": "dreg", "objective": name}, "gradient is 'dreg', which needs the objective 'iwae'; objective")
            for name in ("elbo", "trace-elbo", "pyro-renyi-elbo")
        ),
        *(
            (
                {"estimator": "nvil", "objective": name},
                f"estimator is 'nvil', which the objectives iwae, elbo, renyi .*'{name}'",
            )
            for name in ("trace-elbo", "trace-enum-elbo", "trace-mean-field-elbo", "pyro-renyi-elbo")
        ),
        (
            {"estimator": "nvil", "gradient": "dreg"},
            "estimator is 'nvil', for which gradient='dreg' has no use; leave it",
        ),
        ({"estimator": None}, "estimator is None; a text"),
        ({"kl": "of z"}, "kl is 'of z'; sample, analytic, or names of latent sites are needed"),
        ({"kl": "analytic"}, "kl is 'analytic', which needs the objective 'elbo'; objective is 'iwae'"),
        ({"kl": "analytic", "objective": "trace-elbo"}, "kl is 'analytic', which needs the objective 'elbo'"),
        *(({name: -1}, f"{name} is -1; a number of at least 0") for name in ("beta", "smoothing")),
        ({"step_size": 1.5}, "step_size is 1.5; a number above 0 and at most 1 is needed$"),
        ({"ridge": -0.1}, "ridge is -0.1; a number of at least 0 is needed$"),
        ({"clip": 1.0, "optimiser": "online-em"}, "clip is 1.0, but the optimiser 'online-em' takes no gradients; "),
        ({"clip": 1.0, "optimiser": "em"}, "clip is 1.0, but the optimiser 'em' takes no gradients; leave it out$"),
        ({"hidden": (8, 0)}, r"hidden is \(8, 0\); positive integers"),
        ({"hidden": "8,8"}, "hidden is '8,8'; positive integers"),
        ({"hidden": 8}, "hidden is 8; positive integers"),
        ({"device": "gpu"}, "device is 'gpu'; accepted are auto, cpu, cuda, cuda:N and mps"),
        ({"device": "cpu:1"}, "device is 'cpu:1'; accepted"),
        ({"tensorboard": 1}, "tensorboard is 1; true or false"),
        ({"data": ""}, "data is empty"),
        ({"data": 3}, "data is 3; a text"),
        ({"prior": None}, "prior is None; a text"),
    ],
)
def test_refusals_name_the_option(options, message):
    with pytest.raises(ValueError, match=f"^here(: | has ){message}"):
        TrainConfig.from_dict(options, "here")


def test_files_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + '{"data": "gr\u00f6\u00dfe.npy", "units": 3}'.encode())
    assert read_config(path) == TrainConfig(data="größe.npy", units=3)


LATIN = b'{"data": "\xff"}'


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[1]", b"3", b'{"lr": NaN}', b"{" * 100000, b'{"lr": 1e999}', b"\x00", b'{"lr": 0}', LATIN]
)
def test_files_that_are_no_configuration(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_bytes(text)
    with pytest.raises(ValueError, match="config.json is no valid JSON" if text == LATIN else "config.json"):
        read_config(path)
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(ValueError, match=f"^the file {path} cannot be read: "):
            read_config(path)


@given(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), VALUES, max_size=4))
def test_whatever_is_read_is_a_configuration_or_refused_in_one_line(values):
    try:
        config = TrainConfig.from_dict(values)
    except ValueError as error:
        assert str(error) and "\n" not in str(error).replace("\\n", "")
    else:
        assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict(), allow_nan=False))) == config


@given(st.binary(max_size=60))
def test_whatever_a_file_holds_only_a_refusal_leaves_the_reader(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="fuzz.json"):
        read_config(path)
