# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Architectures: a model as plain values, a new model of them, and what is refused."""

from __future__ import annotations

import json

import pyro
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_spvae import Circuit, poon_domingos
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import SPVAE, VAE
from pyro_spvae.registry import describe
from tests.helpers import small_spvae
from tests.queries.test_storage import GRID, MODELS

NO_ROOT = '{"shape":[2],"leaf_scopes":[[0]],"partitions":[]}'
HUGE = describe(VAE(Normal(), latent_dim=10**13))
CHANGES = [
    ({"unitz": 2}, "architecture has the unknown key 'unitz'; its keys are root, regions, units, leaves, "),
    ({"units": ...}, "architecture lacks the key 'units'; its keys are root, regions, "),
    ({"regions": 3}, "regions is a int; the JSON text of a region graph is needed"),
    ({"regions": "{"}, "text must be the JSON of a region graph, but is not JSON"),
    ({"regions": "[" * 100_000}, "architecture describes a model that cannot be made (RecursionError"),
    ({"regions": NO_ROOT}, "the root, region 0, must hold all 2 var"),
    ({"units": 0}, "units must be a positive integer"),
    ({"units": 2.0}, "units is 2.0; a positive integer is needed"),
    ({"leaves": None}, "leaves is None; a positive integer is needed"),
    ({"leaves": True}, "leaves is True; a positive integer is needed"),
    ({"tie": "shapes"}, "tie must be one of ('none', 'shape'), but is 'shapes'"),
    ({"weights": []}, "weights must be one of ('full', 'cp'), but is []"),
    ({"channels": "auto"}, "channels is 'auto'; a positive integer or None is needed"),
    ({"channels": 0}, "channels is 0; a positive integer or None is needed"),
    ({"dtype": "int64"}, "dtype is 'int64'; known are float64, float32"),
    ({"dtype": ["float32"]}, "dtype is ['float32']; known are float64, float32"),
    ({"root": 3}, "root is 3; the name of a class of models is needed"),
    ({"root": "spna"}, "root is 'spna'; did you mean spn?"),
    ({"root": "os:system"}, "root is 'os:system'; a subclass of pyro_spvae.queries.root.Root is needed"),
    ({"root": "spn"}, "leaf is a VAE; one without latent variables whose density is known"),
    ({"leaf": None}, "the description of a leaf is None; a dict"),
    ({"leaf": HUGE}, "architecture describes a model that cannot be made ("),
    ({"guide": HUGE}, "a guide is needed, but the description is of 'leaf'"),
]


class TestArchitecture:
    def test_is_plain_survives_json_and_makes_a_new_model(self):
        pyro.set_rng_seed(5)
        spvae = MODELS["own parts"]()
        architecture = spvae.architecture()
        text = json.dumps(architecture)
        assert list(architecture) == ["root", "regions", "units", "leaves", "channels", "leaf", "guide", "dtype"]
        for described in (architecture, json.loads(text)):
            pyro.set_rng_seed(5)
            again = SPVAE.from_architecture(described)
            assert json.dumps(again.architecture()) == json.dumps(described) == text
            assert all(torch.equal(*pair) for pair in zip(spvae.parameters(), again.parameters(), strict=True))

    def test_names_the_options_of_the_circuit_that_are_not_the_defaults(self):
        architecture = SPVAE(Circuit(GRID, 2, tie="shape", weights="cp")).architecture()
        assert list(architecture)[-3:] == ["dtype", "tie", "weights"]
        circuit = SPVAE.from_architecture(architecture).circuit
        assert (circuit.tie, circuit.weights, circuit.num_weights) == ("shape", "cp", 2 * 2 * 4 + 2 * 2 * 5 + 2)
        assert "weights" not in SPVAE(Circuit(GRID, 2, tie="shape")).architecture()

    @pytest.mark.parametrize(("change", "message"), CHANGES)
    def test_what_is_no_architecture(self, change, message):
        architecture = small_spvae(GRID).architecture() | change
        architecture = {key: value for key, value in architecture.items() if value is not ...}
        with pytest.raises(ValueError) as error:
            SPVAE.from_architecture(architecture)
        assert str(error.value).startswith(message) and "\n" not in str(error.value)

    @pytest.mark.parametrize("value", [None, [], "regions", 3])
    def test_what_is_no_dict(self, value):
        with pytest.raises(ValueError, match="^architecture is a .*; a dict is needed$"):
            SPVAE.from_architecture(value)

    plain = st.recursive(
        st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=5,
    )

    @settings(deadline=None, max_examples=60)
    @given(st.data())
    def test_any_change_is_built_or_refused(self, data):
        """One value somewhere in an architecture replaced by another."""
        architecture = MODELS["networks"]().architecture()
        place = architecture
        while True:
            key = data.draw(st.sampled_from(sorted(place)))
            if not isinstance(place[key], dict) or not place[key] or data.draw(st.booleans()):
                break
            place = place[key]
        place[key] = data.draw(self.plain)
        try:
            spvae = SPVAE.from_architecture(architecture)
        except ValueError as error:
            assert str(error)
        else:
            assert spvae.architecture()

    def test_what_cannot_be_described(self):
        class MyCircuit(Circuit):
            pass

        with pytest.raises(ValueError, match="^the circuit is a MyCircuit, which cannot be described; use a Circuit$"):
            SPVAE(MyCircuit(GRID, 2)).architecture()
        mixed = small_spvae(GRID)
        mixed.circuit.float()
        with pytest.raises(ValueError, match="^the parameters have the types .*torch.float32.*torch.float64"):
            mixed.architecture()

    def test_a_large_graph_is_stored_in_reasonable_size(self):
        """8 x 8 cells of one VAE each: the graph takes less room than the parameters."""
        torch.set_default_dtype(torch.float32)
        spvae = SPVAE(poon_domingos((16, 16), delta=2), hidden_dims=(4,), latent_dim=2)
        assert len(spvae.architecture()["regions"]) < 4 * sum(p.numel() for p in spvae.parameters())
