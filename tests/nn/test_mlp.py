# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Stacked networks equal one ordinary network per leaf."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pyro_spvae import CircuitELBO, poon_domingos
from pyro_spvae.guides import NormalGuide
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import SPVAE, VAE
from pyro_spvae.nn import MLP, Network
from pyro_spvae.nn.mlp import ACTIVATIONS
from tests.helpers import gradients

LEAVES, INPUTS = 3, 4


def bound(leaves, inputs, hidden, outputs, **options):
    return MLP(hidden, **options).bind(leaves=leaves, inputs=inputs, outputs=outputs)


def twin(stack, leaf, activation):
    """The network of one leaf, of torch's own layers with the same parameters."""
    layers = []
    for weight, bias in zip(stack.weights, stack.biases, strict=True):
        linear = nn.Linear(*weight.shape[1:])
        linear.weight = nn.Parameter(weight[leaf].T.detach().clone())
        linear.bias = nn.Parameter(bias[leaf, 0].detach().clone())
        layers += [linear, activation]
    return nn.Sequential(*layers[:-1])


class Activation(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.function = getattr(F, name) if hasattr(F, name) else getattr(torch, name)

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("hidden", [(), (5,), (5, 6)])
@pytest.mark.parametrize("networks", ["separate", "shared"])
@pytest.mark.parametrize("lead", [(), (7,), (2, 7)])
def test_equals_one_torch_network_per_leaf(hidden, networks, lead):
    mlp = bound(LEAVES, INPUTS, hidden, (2, 3), networks=networks, output_gain=1.0)
    with torch.no_grad():
        for parameter in mlp.parameters():
            parameter.normal_()  # biases too
    x = torch.randn(*lead, LEAVES, INPUTS, requires_grad=True)
    twins = [[twin(stack, leaf, Activation("softplus")) for leaf in range(LEAVES)] for stack in mlp.stacks]
    reference = x.detach().clone().requires_grad_()
    outputs = [torch.stack([nets[leaf](reference[..., leaf, :]) for leaf in range(LEAVES)], dim=-2) for nets in twins]
    expected = outputs if networks == "separate" else list(outputs[0].split([2, 3], -1))
    actual = mlp(x)
    assert [tuple(out.shape) for out in actual] == [(*lead, LEAVES, 2), (*lead, LEAVES, 3)]
    torch.testing.assert_close(list(actual), expected)

    weights = [torch.randn_like(out) for out in expected]
    sum((out * w).sum() for out, w in zip(actual, weights, strict=True)).backward()
    sum((out * w).sum() for out, w in zip(expected, weights, strict=True)).backward()
    torch.testing.assert_close(x.grad, reference.grad)
    for stack, nets in zip(mlp.stacks, twins, strict=True):
        for depth, (weight, bias) in enumerate(zip(stack.weights, stack.biases, strict=True)):
            linears = [nets[leaf][2 * depth] for leaf in range(LEAVES)]
            torch.testing.assert_close(weight.grad, torch.stack([linear.weight.grad.T for linear in linears]))
            torch.testing.assert_close(bias.grad.squeeze(1), torch.stack([linear.bias.grad for linear in linears]))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_torchs(name):
    mlp = bound(1, INPUTS, (5,), (2,), activation=name)
    x = torch.randn(6, 1, INPUTS)
    torch.testing.assert_close(mlp(x)[0].squeeze(1), twin(mlp.stacks[0], 0, Activation(name))(x.squeeze(1)))


def test_leaves_do_not_see_each_other():
    mlp = bound(LEAVES, INPUTS, (5,), (2,))
    x = torch.randn(6, LEAVES, INPUTS)
    changed = x.clone()
    changed[:, 1] += 1
    difference = (mlp(x)[0] != mlp(changed)[0]).all(-1).all(0)
    assert difference.tolist() == [False, True, False]


def test_separate_outputs_share_nothing_and_shared_ones_a_trunk():
    def size(networks):
        return sum(p.numel() for p in bound(LEAVES, 4, (5, 6), (2, 3), networks=networks).parameters())

    trunk = 4 * 5 + 5 + 5 * 6 + 6
    heads = 6 * (2 + 3) + 2 + 3
    assert size("separate") == LEAVES * (2 * trunk + heads)
    assert size("shared") == LEAVES * (trunk + heads)


def test_initial_parameters():
    inputs, hidden, gain = 50, 200, 0.1
    stack = bound(8, inputs, (hidden,), (100,), output_gain=gain).stacks[0]
    for weight, fan_in, factor in ((stack.weights[0], inputs, 1.0), (stack.weights[1], hidden, gain)):
        expected = factor * math.sqrt(2 / fan_in)
        assert weight.std().item() == pytest.approx(expected, rel=0.02)
        assert weight.abs().max() <= 2.01 * expected * math.sqrt(1.3)
    assert not any(bias.any() for bias in stack.biases)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_dims": (3, 0)}, r"hidden_dims is \(3, 0\); positive integers are needed"),
        ({"hidden_dims": (True,)}, r"hidden_dims is \(True,\); positive integers are needed"),
        ({"hidden_dims": 3}, r"hidden_dims is 3; a sequence of positive integers is needed, such as \(32, 32\)"),
        ({"hidden_dims": "33"}, r"hidden_dims is '33'; a sequence of positive integers is needed, such as \(32, 32\)"),
        ({"activation": "step"}, "activation is 'step'; known are softplus, relu, leaky_relu, elu, silu, tanh, gated"),
        (
            {"activation": ["relu"]},
            r"activation is \['relu'\]; known are softplus, relu, leaky_relu, elu, silu, tanh, gated",
        ),
        ({"init": "xavier"}, "init is 'xavier'; known are truncated, he, glorot"),
        ({"init": ["he"]}, r"init is \['he'\]; known are truncated, he, glorot"),
        ({"networks": "one"}, "networks is 'one'; known are separate, shared"),
        ({"output_gain": 0}, "output_gain is 0; a positive number is needed"),
        ({"output_gain": math.inf}, "output_gain is inf; a positive number is needed"),
        ({"output_gain": "1"}, "output_gain is '1'; a positive number is needed"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        MLP(**options)


class Linear(Network):
    """A network of one's own: no hidden layer, no bias."""

    def build(self, leaves, inputs, outputs):
        self.weights = nn.ParameterList(torch.randn(leaves, inputs, size) for size in outputs)

    def forward(self, x):
        return tuple(torch.einsum("...li,lio->...lo", x, weight) for weight in self.weights)


class TestNetworkOfAPart:
    """VAE and NormalGuide take any network, and make an MLP of their own options by default."""

    def test_default_is_the_mlp_of_the_options(self):
        for part, name in (
            (VAE(Normal(), 2, (5,), activation="relu", networks="shared"), "decoder"),
            (NormalGuide((5,), "relu", "shared"), "encoder"),
        ):
            network = getattr(part, name)
            assert type(network) is MLP
            assert (network.hidden_dims, network.activation, network.networks) == ((5,), "relu", "shared")
        for network in (VAE(Normal()).decoder, NormalGuide().encoder):
            assert (network.hidden_dims, network.activation, network.networks) == ((32, 32), "softplus", "separate")
            assert network.output_gain == 0.1

    def test_names_of_parameters(self):
        spvae = SPVAE(poon_domingos((2, 2), delta=1), leaf=VAE(Normal(), 2, (3,)), guide=NormalGuide((3,)))
        names = {name.rsplit(".", 3)[0] for name in spvae.state_dict() if not name.startswith("circuit")}
        assert names == {"leaf.decoder.stacks", "leaf_guide.encoder.stacks"}

    def test_given_networks_are_bound_and_used(self):
        decoder, encoder = Linear(), Linear()
        leaf = VAE(Normal(), latent_dim=2, decoder=decoder)
        guide = NormalGuide(encoder=encoder, scale="precision")
        spvae = SPVAE(poon_domingos((4, 4), delta=2), units=2, leaf=leaf, guide=guide)
        assert decoder.sizes == {"leaves": 8, "inputs": 2, "outputs": (4, 4)}
        assert encoder.sizes == {"leaves": 8, "inputs": 4, "outputs": (2, 2)}
        names = {name for name in spvae.state_dict() if not name.startswith("circuit")}
        assert names == {f"{part}.weights.{i}" for part in ("leaf.decoder", "leaf_guide.encoder") for i in (0, 1)}
        x = torch.randn(3, 8, 4)
        torch.testing.assert_close(guide.encode(x).loc, torch.einsum("nli,lio->nlo", x, encoder.weights[0]))
        loss = CircuitELBO(2)(spvae.model, spvae.guide)(torch.randn(3, 1, 4, 4))
        assert all(grad.abs().sum() > 0 for grad in gradients(spvae, loss).values())

    def test_one_network_for_two_parts_is_refused(self):
        network = Linear()
        leaf, guide = VAE(Normal(), decoder=network), NormalGuide(encoder=network)
        with pytest.raises(ValueError, match="^this Linear is bound already"):
            SPVAE(poon_domingos((2, 2), delta=1), leaf=leaf, guide=guide)

    @pytest.mark.parametrize("options", [{"hidden_dims": (32, 32)}, {"activation": "softplus"}, {"networks": "shared"}])
    def test_network_and_its_options_are_refused(self, options):
        (name,) = options
        for part, make in (
            ("decoder", lambda: VAE(Normal(), decoder=Linear(), **options)),
            ("encoder", lambda: NormalGuide(encoder=Linear(), **options)),
        ):
            message = rf"^{part} is given, so leave out the options of the default network \({name}\)$"
            with pytest.raises(ValueError, match=message):
                make()

    def test_what_is_no_network_is_refused(self):
        with pytest.raises(TypeError, match="^decoder is a Linear; an instance of Network is needed$"):
            VAE(Normal(), decoder=nn.Linear(2, 2))
        with pytest.raises(TypeError, match="^encoder is the class Linear; an instance of Network is needed$"):
            NormalGuide(encoder=Linear)
        with pytest.raises(TypeError, match="^likelihood is the class Normal; an instance of Likelihood is needed$"):
            VAE(Normal)

    def test_a_network_must_say_what_it_does(self):
        with pytest.raises(NotImplementedError, match="^Network must define build"):
            Network().bind(leaves=1, inputs=1, outputs=(1,))
        with pytest.raises(NotImplementedError, match="^Network must define forward"):
            Network()(torch.zeros(1, 1))


class TestSkip:
    @pytest.mark.parametrize("networks", ["separate", "shared"])
    def test_adds_a_linear_map_of_the_input(self, networks):
        plain = MLP((5,), networks=networks).bind(leaves=2, inputs=3, outputs=(4, 1))
        skip = MLP((5,), networks=networks, skip=True).bind(leaves=2, inputs=3, outputs=(4, 1))
        skip.load_state_dict(plain.state_dict(), strict=False)
        x = torch.randn(7, 2, 3)
        linear = torch.cat([torch.einsum("nli,lio->nlo", x, stack.skip) for stack in skip.stacks], -1)
        torch.testing.assert_close(torch.cat(skip(x), -1), torch.cat(plain(x), -1) + linear)
        more = sum(p.numel() for p in skip.parameters()) - sum(p.numel() for p in plain.parameters())
        assert more == 2 * 3 * 5

    def test_refuses_other_values(self):
        with pytest.raises(ValueError, match="skip is 1; True or False is needed"):
            MLP(skip=1)


def gated_by_hand(stack, x):
    """One leaf after the other, as the VampPrior paper writes it: (W h + b) * sigmoid(V h + c), then a linear layer."""
    outputs = []
    for leaf in range(x.size(-2)):
        h = x[..., leaf, :]
        for weight, bias in zip(stack.weights[:-1], stack.biases[:-1], strict=True):
            width = weight.size(-1) // 2
            w, v = weight[leaf, :, :width], weight[leaf, :, width:]
            b, c = bias[leaf, 0, :width], bias[leaf, 0, width:]
            h = (h @ w + b) * torch.sigmoid(h @ v + c)
        outputs.append(h @ stack.weights[-1][leaf] + stack.biases[-1][leaf, 0])
    return torch.stack(outputs, -2)


class TestGated:
    @pytest.mark.parametrize("hidden", [(5,), (5, 6), (3, 4, 2)])
    @pytest.mark.parametrize("networks", ["separate", "shared"])
    def test_equals_the_formula(self, hidden, networks):
        mlp = bound(LEAVES, INPUTS, hidden, (2, 3), activation="gated", networks=networks)
        with torch.no_grad():
            for parameter in mlp.parameters():
                parameter.normal_()
        x = torch.randn(2, 7, LEAVES, INPUTS)
        expected = torch.cat([gated_by_hand(stack, x) for stack in mlp.stacks], -1)
        torch.testing.assert_close(torch.cat(mlp(x), -1), expected)

    def test_hidden_layers_have_twice_the_parameters_and_the_last_has_not(self):
        mlp = bound(LEAVES, INPUTS, (5, 6), (2, 3), activation="gated", networks="shared")
        shapes = [tuple(weight.shape) for weight in mlp.stacks[0].weights]
        assert shapes == [(LEAVES, INPUTS, 10), (LEAVES, 5, 12), (LEAVES, 6, 5)]
        count = 2 * (INPUTS * 5 + 5) + 2 * (5 * 6 + 6) + 6 * 5 + 5
        assert sum(p.numel() for p in mlp.parameters()) == LEAVES * count

    def test_without_hidden_layers_nothing_is_gated(self):
        mlp = bound(LEAVES, INPUTS, (), (2,), activation="gated")
        x = torch.randn(7, LEAVES, INPUTS)
        stack = mlp.stacks[0]
        expected = torch.einsum("nli,lio->nlo", x, stack.weights[0]) + stack.biases[0].squeeze(1)
        torch.testing.assert_close(mlp(x)[0], expected)

    def test_with_a_linear_map_of_the_input(self):
        mlp = bound(LEAVES, INPUTS, (5,), (2,), activation="gated", skip=True)
        x = torch.randn(7, LEAVES, INPUTS)
        linear = torch.einsum("nli,lio->nlo", x, mlp.stacks[0].skip)
        torch.testing.assert_close(mlp(x)[0], gated_by_hand(mlp.stacks[0], x) + linear)

    @pytest.mark.parametrize("init", ["truncated", "he", "glorot"])
    def test_values_and_gates_start_as_layers_of_their_own(self, init):
        """Fans are those of each half, not of both together."""
        stack = bound(8, 50, (200,), (100,), activation="gated", init=init, output_gain=0.5).stacks[0]
        variance = 2 / (50 + 200) if init == "glorot" else 2 / 50
        for half in stack.weights[0].split(200, -1):
            assert half.var().item() == pytest.approx(variance, rel=0.03)
        assert not torch.equal(*stack.weights[0].split(200, -1))

    def test_is_trained_and_saved(self, tmp_path):
        leaf = VAE(Normal(), 2, (3,), activation="gated", networks="shared")
        guide = NormalGuide((3,), activation="gated", scale="logvar")
        spvae = SPVAE(poon_domingos((2, 2), delta=1), leaf=leaf, guide=guide)
        loss = CircuitELBO(2)(spvae.model, spvae.guide)(torch.randn(3, 1, 2, 2))
        assert all(grad.abs().sum() > 0 for grad in gradients(spvae, loss).values())
        spvae.save(tmp_path)
        loaded = SPVAE.load(tmp_path)
        assert loaded.leaf.decoder.activation == loaded.leaf_guide.encoder.activation == "gated"


class TestInit:
    """Weights of layers of 50 inputs and 200 units, and of 100 outputs scaled by the gain."""

    gain = 0.5

    def stack(self, init):
        return bound(8, 50, (200,), (100,), init=init, output_gain=self.gain).stacks[0]

    def test_he_is_the_vampprior_papers_code(self):
        stack = self.stack("he")
        for weight, bias, fan_in, factor in zip(stack.weights, stack.biases, (50, 200), (1.0, self.gain), strict=True):
            std, limit = factor * math.sqrt(2 / fan_in), factor / math.sqrt(fan_in)
            assert weight.std().item() == pytest.approx(std, rel=0.02)
            assert weight.abs().max() > 3.3 * std, "normal, not truncated"
            kurtosis = (weight**4).mean() / weight.var() ** 2
            assert kurtosis.item() == pytest.approx(3, rel=0.1)
            assert 0.97 * limit < bias.abs().max() <= limit
            assert bias.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.06)

    def test_glorot_is_uniform_over_both_fans(self):
        stack = self.stack("glorot")
        for weight, fans, factor in zip(stack.weights, (250, 300), (1.0, self.gain), strict=True):
            limit = factor * math.sqrt(6 / fans)
            assert 0.999 * limit < weight.abs().max() <= limit
            assert weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.02)
        assert not any(bias.any() for bias in stack.biases)

    def test_default_is_truncated_and_the_choice_is_an_option(self):
        assert MLP().options()["init"] == "truncated" and MLP(init="he").options()["init"] == "he"
        again = MLP(**MLP((3,), "gated", "shared", 1.0, True, "glorot").options())
        assert (again.activation, again.init, again.skip) == ("gated", "glorot", True)

    def test_skip_starts_by_the_same_rule(self):
        stack = bound(8, 50, (7,), (100,), init="glorot", output_gain=1.0, skip=True).stacks[0]
        limit = math.sqrt(6 / 150)
        assert 0.999 * limit < stack.skip.abs().max() <= limit
