# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What the parts of a model share: binding, options, the life cycle."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from pyro_spvae import poon_domingos
from pyro_spvae.blocks import held, in_mode, parts
from pyro_spvae.blocks.life_cycle import process_buffers
from pyro_spvae.models import SPVAE
from pyro_spvae.part import Part
from pyro_spvae.priors import StandardNormal


class Recorder(Part):
    """Remembers what it was built with, and counts what happens to it."""

    process_buffers = ("chain",)

    def __init__(self):
        super().__init__()
        self.built, self.seen = [], []
        self.register_buffer("chain", torch.zeros(2))

    def build(self, leaves, pixels=1):
        if pixels == 13:
            raise ValueError("no such size")
        self.built.append((leaves, pixels))

    def advance(self, progress):
        self.seen.append(progress)

    def prepare_evaluation(self):
        self.seen.append("evaluation")

    def release(self):
        self.seen.append("released")


class Any(Part):
    """Takes any sizes."""

    def build(self, **sizes):
        self.built = sizes


SIZES = "a tuple of positive integers is needed"
SHAPE = "channels, height and width as a tuple of positive integers, or None, are needed"
REFUSED = [
    *(("leaves", value, "a positive integer is needed") for value in (0, -1, 1.0, True, "2", None)),
    *(("inputs", value, "a positive integer is needed") for value in (0, 1.0, None)),
    *(("inputs", value, SIZES) for value in ((), (1, 0), (True,), [1, 0])),
    *(("outputs", value, SIZES) for value in ((), (1, 0), (1.0,), [1], 1, None, (True,))),
    *(("event_shape", value, SIZES) for value in ((0,), (1.0,), [1], 1, None)),
    *((name, (1, 2), SHAPE) for name in ("patch", "input_shape", "output_shape")),
    *(("patch", value, SHAPE) for value in ((), (1, 2, 0), [1, 2, 3], 3, (1.0, 2, 3))),
    ("latents", ["z"], "a dict of the leaf's latent sites is needed"),
]


class TestBind:
    def test_builds_once_with_the_sizes_and_returns_the_part(self):
        part = Recorder()
        assert part.bind(leaves=2, pixels=3) is part
        assert part.built == [(2, 3)] and part.sizes == {"leaves": 2, "pixels": 3}
        with pytest.raises(ValueError, match=r"^this Recorder is bound already \(leaves=2, pixels=3\); construct a"):
            part.bind(leaves=3)
        assert part.built == [(2, 3)]

    @pytest.mark.parametrize(("name", "value", "message"), REFUSED)
    def test_sizes_that_are_refused(self, name, value, message):
        part = Any()
        with pytest.raises(ValueError, match=f"^{name} of Any is {re.escape(repr(value))}; {message}$"):
            part.bind(**{name: value})
        assert not hasattr(part, "built")

    def test_sizes_that_are_taken(self):
        for sizes in (
            {"inputs": 3, "outputs": (1, 2), "event_shape": (), "patch": None, "latents": {}},
            {"inputs": (3,), "outputs": (1,), "event_shape": (2, 3), "patch": (1, 2, 3), "input_shape": None},
        ):
            assert Any().bind(**sizes).built == sizes

    def test_sizes_that_build_does_not_name_are_left_out_but_checked(self):
        part = Recorder().bind(leaves=2, event_shape=(3,), patch=(1, 2, 3))
        assert part.sizes == {"leaves": 2} and part.built == [(2, 1)]
        with pytest.raises(ValueError, match="^event_shape of Recorder is "):
            Recorder().bind(leaves=2, event_shape=(0,))
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'leaves'"):
            Recorder().bind(pixels=3)

    def test_build_must_be_defined_and_may_fail(self):
        with pytest.raises(NotImplementedError, match=r"^Part must define build\(self, \.\.\.\) with the sizes"):
            Part().bind(leaves=1)
        part = Recorder()
        with pytest.raises(ValueError, match="no such size"):
            part.bind(leaves=1, pixels=13)
        assert part.bind(leaves=1).sizes == {"leaves": 1}


class Base(Part):
    """Keeps none of its arguments as it is given."""

    def __init__(self, a, b=2.0, *, c="x"):
        super().__init__()
        self.length, self.b = a, b**2


class Inheriting(Base):
    pass


class Narrowed(Base):
    def __init__(self, a=1, d=None):
        super().__init__(a, b=3.0)
        self.d = nn.Identity() if d is None else d


class PyroPart(Part, PyroModule):
    pass


class TestOptions:
    def test_are_the_arguments_whatever_became_of_them(self):
        assert Base(1).options() == {"a": 1, "b": 2.0, "c": "x"}
        assert Inheriting(1, 5.0, c=None).options() == {"a": 1, "b": 5.0, "c": None}
        part = Inheriting([1, {"k": Base(2)}])
        assert part.options()["a"] is part.length

    @pytest.mark.parametrize("again", [lambda part: part, copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))])
    def test_what_was_set_since_counts(self, again):
        part = again(Base(1, 5.0))
        assert part.options() == {"a": 1, "b": 5.0, "c": "x"}
        part.b, part.c = 7.0, "y"
        assert part.options() == {"a": 1, "b": 7.0, "c": "y"}
        part = again(Narrowed())
        assert part.options() == {"a": 1, "d": None}
        part.d = nn.Identity()
        assert part.options()["d"] is part.d

    def test_a_class_without_constructor_has_none(self):
        for part in (Part(), PyroPart()):
            assert part.options() == {}

    def test_any_number_of_arguments_is_refused(self):
        class Open(Part):
            def __init__(self, **kwargs):
                super().__init__()

        class Positional(Part):
            def __init__(self, a, /):
                super().__init__()

        for part, name in ((Open(), r"\*\*kwargs"), (Positional(1), "a")):
            with pytest.raises(
                ValueError, match=f"cannot be saved: its constructor takes {name}, where arguments with"
            ):
                part.options()


class Outer(Part):
    def __init__(self):
        super().__init__()
        self.inner = nn.ModuleList([Recorder(), Recorder()])


class OwnPrior(StandardNormal):
    """A prior with parts of its own, and what they are shown."""

    def __init__(self):
        super().__init__()
        self.outer = Outer()


class TestLifeCycle:
    def test_all_parts_inside_are_found_once(self):
        part = Outer()
        part.again = part.inner[0]
        assert list(parts(part)) == [part, *part.inner] and list(parts(nn.ModuleList([part])))[0] is part

    def test_the_root_walks_over_them(self):
        prior = OwnPrior()
        spvae = SPVAE(poon_domingos((2, 2), 1), prior=prior)
        spvae.advance(0.5)
        spvae.prepare_evaluation()
        seen = [[value for value in part.seen if value != "released"] for part in prior.outer.inner]
        assert seen == [[0.5, "evaluation"]] * 2
        names = [f"leaf.prior.outer.inner.{place}.chain" for place in range(2)]
        assert list(process_buffers(spvae)) == names
        assert process_buffers(spvae)[names[1]] is prior.outer.inner[1].chain
        assert list(process_buffers(prior.outer.inner[0])) == ["chain"]

    def test_what_was_kept_is_released_where_the_outermost_scope_ends(self):
        part = Recorder()
        with held(part, None, lambda: 3):
            assert part.held_by == 1
            with pytest.raises(RuntimeError), held(nn.ModuleList([part])):
                assert part.held_by == 2
                raise RuntimeError
            assert part.held_by == 1 and part.seen == []
        assert part.held_by == 0 and part.seen == ["released"]

    def test_in_mode_puts_every_module_back(self):
        module = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()))
        module[1].eval()
        modes = [part.training for part in module.modules()]
        with in_mode(module, training=False):
            assert not any(part.training for part in module.modules())
            with in_mode(module, training=True):
                assert all(part.training for part in module.modules())
            assert not any(part.training for part in module.modules())
        assert [part.training for part in module.modules()] == modes
        with in_mode(None, training=False):
            pass
