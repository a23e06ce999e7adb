# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Names of parts: reading, making, describing, and making anew from a description."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from pyro_spvae import registry
from pyro_spvae.blocks import Block
from pyro_spvae.conditionals import Gaussian, Pixels
from pyro_spvae.distributions.smoothing import (
    OverlappingExponentials,
    OverlappingLogistics,
    PowerFunctions,
    Smoothing,
    SpikeAndExponential,
)
from pyro_spvae.guides import DiscreteGuide, HierarchicalGuide, LeafGuide, MixedGuide, NormalGuide
from pyro_spvae.infer import NVIL, REBAR, VIMCO, Concrete, Estimator, MuProp
from pyro_spvae.likelihoods import Bernoulli, Binomial, Likelihood, Normal
from pyro_spvae.models import HVAE, VAE, FactorizedLeaf, LeafModel, MixedLeaf
from pyro_spvae.nn import MLP, GatedConv, Joint, Network
from pyro_spvae.part import Part
from pyro_spvae.priors import BitChain, Prior, StandardNormal, VampPrior
from pyro_spvae.queries import Root
from pyro_spvae.registry import build, describe, make, names, parse, written
from tests.models import own_parts

KINDS = {
    "root": (Root, ("spvae", "spn")),
    "leaf": (
        LeafModel,
        ("vae", "hvae", "discrete-vae", "dvaepp", "dlgmm", "dldpmm", "sbvae", "factorized", "gaussian", "mixed"),
    ),
    "guide": (LeafGuide, ("normal", "hierarchical", "mixture", "sticks", "discrete", "dvaepp", "mixed", "none")),
    "prior": (
        Prior,
        ("standard-normal", "mixture-of-gaussians", "sticks", "stick-breaking", "vamp", "independent-bits", "bit-chain")
        + ("boltzmann-machine",),
    ),
    "likelihood": (
        Likelihood,
        ("bernoulli", "beta", "beta-binomial", "binomial", "categorical", "columns", "discretized-logistic")
        + (
            "discretized-logistic-mixture",
            "gamma",
            "log-normal",
            "low-rank-categorical",
            "negative-binomial",
            "normal",
            "poisson",
            "student-t",
        ),
    ),
    "network": (Network, ("mlp", "joint", "conv", "gated-conv", "pixelcnn", "multi-scale", "se-resnet")),
    "block": (Block, ("gaussian", "components", "normal-components", "kumaraswamy", "pixels", "normal-pixels", "bits")),
    "estimator": (
        Estimator,
        ("vimco", "reinforce", "nvil", "muprop", "rebar", "straight-through", "concrete"),
    ),
    "smoothing": (Smoothing, ("exponential", "logistic", "power", "spike-and-exponential", "none")),
}
OWN = "tests.models.own_parts"
KNOWN = "known are normal, hierarchical, mixture, sticks, discrete, dvaepp, mixed, none, or package.module:Class"


@pytest.mark.parametrize("kind", KINDS)
def test_names_lead_to_parts_of_their_kind(kind):
    base, known = KINDS[kind]
    assert names(kind) == known
    for name in known:
        cls = registry.find(kind, name)
        assert issubclass(cls, base) and registry.name_of(kind, cls) == name


@pytest.mark.parametrize(
    ("part", "text"),
    [
        (VIMCO(), "vimco"),
        (NVIL((4, 3)), "nvil(hidden_dims=(4, 3))"),
        (NVIL([7]), "nvil(hidden_dims=[7])"),
        (NVIL(), "nvil"),
        (MuProp(), "muprop"),
        (REBAR(0.3, learn=False), "rebar(temperature=0.3, learn=False)"),
        (Concrete(form="mass"), "concrete(form='mass')"),
        (SpikeAndExponential((5, 12)), "spike-and-exponential(beta=(5, 12))"),
        (BitChain(3, ()), "bit-chain(groups=3, hidden_dims=())"),
        (DiscreteGuide(2, encoder=MLP((3,))), "discrete(groups=2)"),  # parts among the options are left out
    ],
)
def test_is_written_as_it_is_read(part, text):
    kind = registry.kind_of(part)
    assert written(part) == text
    again = make(kind, text)
    assert type(again) is type(part) and written(again) == text


def test_unknown_kind():
    for act in (names, lambda kind: parse(kind, "vae"), lambda kind: make(kind, "vae")):
        with pytest.raises(ValueError, match=f"^kind is 'leaves'; known are {', '.join(KINDS)}$"):
            act("leaves")


# fmt: off
NO_LITERAL_OPTIONS = [
    "3", "a=1", "a=1, a=2)", "**{'a': 1})", "*[1])", "1)", "a=b.c)", "a=-b)", "a=__import__('os'))", "a=1)(b=2)",
    "a=1).x", "a=1) + f(", "a={'b': 1})", "a={1})", "a=b'x')", "a=1j)", "a=...)", "a=(1, {2: 3}))",
    "a=" + "(" * 500 + ")" * 501, "a=\0)", "a=1\n)\nx",
]
# fmt: on


class TestParse:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("normal", ("normal", {})),
            (" normal ( ) ", ("normal", {})),
            ("normal(min_scale=0.01, scale='precision')", ("normal", {"min_scale": 0.01, "scale": "precision"})),
            ("normal(scale=precision)", ("normal", {"scale": "precision"})),  # shells take quotes away
            ("a.b_2:C.D(n=-3, none=None, flag=True)", ("a.b_2:C.D", {"n": -3, "none": None, "flag": True})),
            ("normal(encoder=gated_conv(layers=small))", ("normal", {"encoder": "gated_conv(layers=small)"})),
            ("a:C(sizes=(1, [2, 'x)(']),)", ("a:C", {"sizes": (1, [2, "x)("])})),
        ],
    )
    def test_reads(self, text, expected):
        assert parse("guide", text) == expected

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("norml", "guide is 'norml'; did you mean normal?"),
            ("", f"guide is ''; {KNOWN}"),
            ("bernoulli", f"guide is 'bernoulli'; {KNOWN}"),
            ("a.b", f"guide is 'a.b'; {KNOWN}"),
            ("a:b:C", "guide is 'a:b:C'; known are"),
            (":C", "guide is ':C'; known are"),
            ("../a:C", "guide is '../a:C'; known are"),
            (None, "guide is None; the name of a guide is needed"),
            (3, "guide is 3; the name of a guide is needed"),
        ],
    )
    def test_refuses_names(self, text, message):
        with pytest.raises(ValueError) as error:
            parse("guide", text)
        assert str(error.value).startswith(message)

    @pytest.mark.parametrize("options", NO_LITERAL_OPTIONS)
    def test_refuses_what_are_no_literal_options(self, options):
        with pytest.raises(ValueError, match="options in brackets are written name=value"):
            parse("guide", f"normal({options}")

    @given(st.text())
    @example("1is 2)")
    @example("a='\\d')")
    def test_any_text_is_read_or_refused(self, text):
        for start in ("", "normal(", "normal(a="):
            try:
                name, options = parse("guide", start + text)
            except ValueError as error:
                assert "guide is" in str(error)
            else:
                assert name and all(isinstance(key, str) for key in options)


SUBCLASS = "a subclass of pyro_spvae.priors.prior.Prior"
REFUSED = [
    ("likelihood", "binomial(levels=3)", "likelihood binomial has no option levels; its options are total_count"),
    ("likelihood", "categorical", "likelihood categorical needs the option levels, as in categorical(levels=...)"),
    ("likelihood", "binomial(total_count='a')", "total_count is 'a'; a positive integer is needed"),
    ("guide", "normal(hidden_dims=5)", "hidden_dims is 5; a sequence of positive integers is needed"),
    ("guide", "normal(encoder='mpl')", "network is 'mpl'; did you mean mlp"),
    ("guide", "normal(encoder=eval(1))", "guide is 'normal(encoder=eval(1))'; options in brackets are written"),
    ("leaf", "vae(likelihood=3)", "leaf vae cannot be made with these options (likelihood is a int; "),
    ("smoothing", "exponential(beta=0)", "beta is 0; a positive number, or a pair of them that rises, is needed"),
    ("smoothing", "exponentials", "smoothing is 'exponentials'; did you mean exponential? known are exponential, logi"),
    ("smoothing", "pyro_spvae.distributions.smoothing:Smoothing", "smoothing is 'pyro_spvae.distributions.smoothing:S"),
    ("prior", "standard-normal(a=1)", "prior standard-normal has no option a; its options are none"),
    ("prior", f"{OWN}:Failing(size=3)", f"prior {OWN}:Failing cannot be made with these options (object of type"),
    ("prior", "no_such_module:Prior", "prior is 'no_such_module:Prior', which cannot be imported (No module"),
    ("prior", "__main__:Gone", "prior is '__main__:Gone', which cannot be imported (a class of another script; define"),
    ("prior", f"{OWN}:Nothing", f"prior is '{OWN}:Nothing', which cannot be imported (module 'tests.models"),
    ("prior", f"{OWN}:Laplace", f"prior is '{OWN}:Laplace'; {SUBCLASS}"),
    ("prior", f"{OWN}:NOT_A_CLASS", f"prior is '{OWN}:NOT_A_CLASS'; {SUBCLASS}"),
    ("prior", "os:system(command='echo')", f"prior is 'os:system'; {SUBCLASS}"),
    ("prior", "pyro_spvae.priors:Prior", "prior is 'pyro_spvae.priors:Prior'; a subclass of"),
]


class TestMake:
    def test_options_of_the_text_win_over_defaults(self):
        guide = make("guide", "normal(hidden_dims=(5,), scale='precision')", hidden_dims=(7, 7), activation="relu")
        assert type(guide) is NormalGuide and guide.z.scale == "precision"
        assert guide.z.network.hidden_dims == (5,) and guide.z.network.activation == "relu"

    def test_defaults_that_a_class_does_not_take_are_dropped(self):
        assert type(make("likelihood", "bernoulli", total_count=7, mean="sigmoid")) is Bernoulli
        assert make("likelihood", "binomial", total_count=7, mean="sigmoid").total_count == 7
        assert type(make("prior", "standard-normal", name="x", args=1)) is StandardNormal
        # a class without constructor has the one of torch's or Pyro's modules, whose arguments are none of its own
        assert type(make("guide", f"{OWN}:LinearGuide", name="x", args=1)) is own_parts.LinearGuide

    def test_a_class_of_ones_own(self):
        prior = make("prior", f"{OWN}:Mixture(components=4)", components=1, spread=0.3, latent_dim=2)
        assert isinstance(prior, own_parts.Mixture) and (prior.components, prior.spread) == (4, 0.3)
        assert isinstance(make("prior", f"{OWN}:Outer.Inner"), own_parts.Outer.Inner)

    @pytest.mark.parametrize(("kind", "text", "message"), REFUSED)
    def test_refuses(self, kind, text, message):
        with pytest.raises(ValueError) as error:
            make(kind, text)
        assert str(error.value).startswith(message) and "\n" not in str(error.value)

    @pytest.mark.parametrize("code", ["1 / 0", "import sys; sys.exit(3)", "def f(:", "raise ValueError('a\\nb')"])
    def test_a_module_that_fails(self, tmp_path, monkeypatch, code):
        (tmp_path / "failing_module_of_a_user.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        message = r"^prior is 'failing_module_of_a_user:P', which cannot be imported \("
        with pytest.raises(ValueError, match=message) as error:
            make("prior", "failing_module_of_a_user:P")
        assert "\n" not in str(error.value)


PARTS = {
    "all of a VAE": (
        "leaf",
        lambda: VAE(Binomial(7), 3, (4, 5), own_parts.Mixture(2, 0.5), activation="relu", networks="shared"),
    ),
    "normal guide": ("guide", lambda: NormalGuide((3,), scale="precision", min_scale=0.1)),
    "nested": ("prior", lambda: own_parts.Mixture(2, base=own_parts.Mixture(3, base=StandardNormal()))),
    "list of parts": ("leaf", lambda: MixedLeaf([VAE(Normal()), FactorizedLeaf(own_parts.Laplace(0.2))], (1, 2))),
    "list of guides": ("guide", lambda: MixedGuide([NormalGuide((3,)), LeafGuide()], (1, 2))),
    "lists and dicts": (
        "prior",
        lambda: own_parts.Sum([own_parts.Mixture(2)], {"a": StandardNormal(), "b": own_parts.Mixture({"c": [3, {}]})}),
    ),
    "blocks": ("block", lambda: Pixels(Bernoulli(), MLP((3,)))),
    "hvae": ("leaf", lambda: HVAE(Bernoulli(), 3, 4, (5,), VampPrior(3), "tanh", "exp", 0.1, False)),
    "networks of an hvae": ("leaf", lambda: HVAE(Bernoulli(), 3, conditional=MLP((4,)), decoder=Joint((2,)))),
    "hierarchical guide": ("guide", lambda: HierarchicalGuide((5,), "tanh", "exp", 0.1, "bottom-up")),
    "own block": ("block", lambda: own_parts.Shifted(0.5, Gaussian(MLP((3,))))),
    "posterior": ("block", lambda: Gaussian(own_parts.Affine(0.2), "exp", 0.1)),
    "smoothing": ("smoothing", lambda: OverlappingExponentials((5.0, 12.0))),
    "part with a smoothing": ("prior", lambda: own_parts.Smooth(SpikeAndExponential(4.0))),
    "mlp": ("network", lambda: MLP([2, 3], "tanh", "shared", 1)),
    "inner class": ("prior", own_parts.Outer.Inner),
}


def _nested(inner):
    return st.lists(inner) | st.dictionaries(st.sampled_from(["kind", "class", "options", "a"]), inner)


plain = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), _nested)


OPTION = "a Mixture cannot be saved: its option"
NOT_DESCRIBED = [
    (lambda: own_parts.Mixture(torch.ones(2)), f"{OPTION} components is a Tensor"),
    (lambda: own_parts.Mixture({1: 2}), f"{OPTION} components is a dict, no plain"),
    (lambda: own_parts.Mixture({"a": {"b": len}}), rf"{OPTION} components\['a'\]\['b'\] is a builtin_function"),
    (lambda: own_parts.Mixture(len), f"{OPTION} components is a builtin_"),
    (lambda: own_parts.Mixture([1, 2j]), f"{OPTION} components is a complex, no"),
    (lambda: own_parts.Mixture(1, base=Part()), f"{OPTION} base is a Part, no plain"),
    (lambda: Part(), "a Part cannot be saved; it is no part of a model"),
    (lambda: 3, "a int cannot be saved; it is no part of a model"),
]


def prior_of(cls, options):
    return {"kind": "prior", "class": cls, "options": options}


NO_DESCRIPTIONS = [
    *(None, 3, [], {}),
    {"kind": "prior", "class": "standard-normal"},
    {"kind": "guide", "class": "standard-normal", "options": {}},
    prior_of("standard-normal", 3),
    prior_of("standard-normal", {"a": 1}),
    prior_of(3, {}),
    prior_of("nothing", {}),
    prior_of("standard-normal(a=1)", {}),
    prior_of("os:system", {"command": "echo"}),
    prior_of("builtins:eval", {}),
    prior_of(f"{OWN}:Laplace", {}),
    prior_of(f"{OWN}:Mixture", {}),
    prior_of(f"{OWN}:Mixture", {"components": [torch.ones(1)]}),
    prior_of(f"{OWN}:Mixture", {"components": {"a": [{"b": torch.ones(1)}]}}),
    prior_of(f"{OWN}:Mixture", {"components": [prior_of("nothing", {})]}),
]


class TestDescriptions:
    @pytest.mark.parametrize("name", PARTS)
    def test_round_trip(self, name):
        kind, make_part = PARTS[name]
        part = make_part()
        description = describe(part)
        again = build(kind, description)
        assert type(again) is type(part) and describe(again) == description
        assert set(description) == {"kind", "class", "options"} and description["kind"] == kind
        # JSON turns tuples into lists, which means the same
        from_json = build(kind, json.loads(json.dumps(description)))
        assert json.dumps(describe(from_json)) == json.dumps(description)

    def test_content(self):
        assert describe(Normal(min_scale=0.5)) == {
            "kind": "likelihood",
            "class": "normal",
            "options": {"mean": "identity", "scale": "softplus", "min_scale": 0.5},
        }
        leaf = describe(VAE(Bernoulli(), 3, (4,), own_parts.Mixture(2, spread=2)))
        assert leaf["class"] == "vae" and leaf["options"]["hidden_dims"] == (4,) and leaf["options"]["decoder"] is None
        assert leaf["options"]["prior"] == {
            "kind": "prior",
            "class": f"{OWN}:Mixture",
            "options": {"components": 2, "spread": 2, "base": None, "names": ("a", "b")},
        }

    def test_bound_parts_are_described_alike(self):
        part = own_parts.Mixture(2, base=StandardNormal())
        before = describe(part)
        assert describe(part.bind(leaves=1, event_shape=(2,))) == before

    def test_numbers_of_numpy_become_pythons(self):
        options = describe(own_parts.Mixture(True, spread=np.float64(0.5), names=["a", (1,)]))["options"]
        assert type(options["spread"]) is float and options["components"] is True and options["names"] == ["a", (1,)]

    def test_options_named_options(self):
        class Named(Prior):
            def __init__(self, options="x"):
                super().__init__()
                self.options = options

        assert Part.options(Named("y")) == {"options": "y"}

    @pytest.mark.parametrize(("make_part", "message"), NOT_DESCRIBED)
    def test_what_cannot_be_described(self, make_part, message):
        with pytest.raises(ValueError, match=f"^{message}"):
            describe(make_part())

    def test_a_class_that_cannot_be_found_again(self, monkeypatch):
        class Local(Prior):
            pass

        with pytest.raises(ValueError, match="^a Local cannot be saved: .*<locals>.Local does not lead to its class;"):
            describe(Local())
        part = own_parts.Mixture(2)
        monkeypatch.setattr(own_parts, "Mixture", own_parts.Laplace)
        with pytest.raises(ValueError, match=f"^a Mixture cannot be saved: {OWN}:Mixture does not lead"):
            describe(part)

    @pytest.mark.parametrize("description", NO_DESCRIPTIONS)
    def test_what_is_no_description(self, description):
        with pytest.raises(ValueError) as error:
            build("prior", description)
        assert "\n" not in str(error.value)

    @given(plain, st.sampled_from(["vae", "normal", f"{OWN}:Mixture", f"{OWN}:TwoLayer"]), plain)
    def test_any_description_is_built_or_refused(self, options, name, everything):
        for description in (everything, {"kind": "leaf", "class": name, "options": options}):
            try:
                part = build("leaf", description)
            except ValueError as error:
                assert str(error) and "\n" not in str(error)
            else:
                assert isinstance(part, LeafModel)


def test_networks_in_parts_are_made_of_their_texts():
    guide = make("guide", "hierarchical(second=joint(hidden_dims=(5, 4), first=gated_conv(layers=small, heads=False)))")
    second = guide.second.network
    assert type(second) is Joint and second.hidden_dims == (5, 4)
    assert type(second.first) is GatedConv and second.first.layers == "small"
    leaf = make("leaf", "mixed(parts=[vae(likelihood=bernoulli), factorized(likelihood=binomial(total_count=3))])")
    assert [type(subset.program) for subset in leaf.subsets] == [VAE, FactorizedLeaf]
    assert leaf.subsets[1].program.pixels.likelihood.total_count == 3


@pytest.mark.parametrize(
    ("text", "cls", "beta"),
    [
        ("exponential", OverlappingExponentials, 8.0),
        ("logistic(beta=4)", OverlappingLogistics, 4.0),
        ("power(beta=[2, 3.5])", PowerFunctions, 2.0),
        ("spike_and_exponential(beta=5)", SpikeAndExponential, 5.0),
        ("spike-and-exponential(beta=5)", SpikeAndExponential, 5.0),  # a name with a keyword of Python
        ("spike-and-exponential", SpikeAndExponential, 8.0),
    ],
)
def test_smoothings_in_parts_are_made_of_their_texts(text, cls, beta):
    """A bare word is a name where the option is called smoothing."""
    for found in (make("smoothing", text), make("prior", f"{OWN}:Smooth(smoothing={text})").smoothing):
        assert type(found) is cls and float(found.beta) == beta
