# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What the parts of a model share: binding, memory of computations, standard deviations."""

from __future__ import annotations

import math
import re

import pytest
import torch
from pyro.nn import PyroModule

from pyro_spvae.nn import Part, memoize, memoized, positive_scale
from pyro_spvae.nn.scale import check_scale, raw_scale
from pyro_spvae.nn.simplex import away_from_zero


class Recorder(Part):
    """A part that remembers what it was built with, and counts calls of a memoised method."""

    def __init__(self):
        self.built = []
        self.calls = self.alone = 0

    def build(self, leaves, pixels=1):
        if pixels == 13:
            raise ValueError("no such size")
        self.built.append((leaves, pixels))

    @memoized
    def twice(self, x):
        self.calls += 1
        return 2 * x

    @memoized
    def parameters_alone(self):
        self.alone += 1
        return torch.zeros(1)


class TestBind:
    def test_builds_once_with_the_sizes_and_returns_the_part(self):
        part = Recorder()
        assert part.bind(leaves=2, pixels=3) is part
        assert part.built == [(2, 3)]
        assert part.sizes == {"leaves": 2, "pixels": 3}

    def test_twice_is_refused(self):
        part = Recorder().bind(leaves=2)
        with pytest.raises(ValueError, match=r"^this Recorder is bound already \(leaves=2\); construct another one"):
            part.bind(leaves=3)
        assert part.built == [(2, 1)] and part.sizes == {"leaves": 2}

    @pytest.mark.parametrize("value", [0, -1, 1.0, True, "2", None])
    def test_sizes_are_positive_integers(self, value):
        part = Recorder()
        with pytest.raises(ValueError, match=f"^leaves of Recorder is {value!r}; a positive integer is needed$"):
            part.bind(leaves=value)
        assert not part.built

    @pytest.mark.parametrize("value", [(), (1, 0), (1.0,), [1], 1, None, (True,)])
    def test_outputs_are_a_tuple_of_sizes(self, value):
        class Outputs(Part):
            def build(self, outputs):
                self.built = outputs

        assert Outputs().bind(outputs=(1, 2)).built == (1, 2)
        message = f"^outputs of Outputs is {re.escape(repr(value))}; a tuple of positive integers is needed$"
        with pytest.raises(ValueError, match=message):
            Outputs().bind(outputs=value)

    def test_inputs_are_a_size_or_a_tuple_of_sizes(self):
        class Inputs(Part):
            def build(self, inputs):
                self.built = inputs

        for value in (3, (3,), (1, 2)):
            assert Inputs().bind(inputs=value).built == value
        for value in ((), (1, 0), (True,)):
            message = f"^inputs of Inputs is {re.escape(repr(value))}; a tuple of positive integers is needed$"
            with pytest.raises(ValueError, match=message):
                Inputs().bind(inputs=value)
        for value in (0, [1, 2], 1.0, None):
            message = f"^inputs of Inputs is {re.escape(repr(value))}; a positive integer is needed$"
            with pytest.raises(ValueError, match=message):
                Inputs().bind(inputs=value)

    @pytest.mark.parametrize("name", ["patch", "input_shape", "output_shape"])
    def test_shapes_are_three_sizes_or_none(self, name):
        class Shaped(Part):
            def build(self, **sizes):
                self.built = sizes

        for value in ((1, 2, 3), None):
            assert Shaped().bind(**{name: value}).built == {name: value}
        for value in ((), (1, 2), (1, 2, 0), [1, 2, 3], 3, (1.0, 2, 3)):
            message = (
                f"^{name} of Shaped is {re.escape(repr(value))}; channels, height and width as a tuple of positive"
            )
            with pytest.raises(ValueError, match=message):
                Shaped().bind(**{name: value})

    def test_sizes_that_build_does_not_name_are_left_out_but_checked(self):
        part = Recorder().bind(leaves=2, latent_dim=3, patch=(1, 2, 3))
        assert part.sizes == {"leaves": 2} and part.built == [(2, 1)]
        with pytest.raises(ValueError, match="^latent_dim of Recorder is 0; a positive integer is needed$"):
            Recorder().bind(leaves=2, latent_dim=0)
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'leaves'"):
            Recorder().bind(pixels=3)

    def test_any_sizes_go_to_a_build_that_takes_any(self):
        class Passing(Part):
            def build(self, leaves, **more):
                self.built = leaves, more

        part = Passing().bind(leaves=2, pixels=3, patch=None)
        assert part.built == (2, {"pixels": 3, "patch": None})
        assert part.sizes == {"leaves": 2, "pixels": 3, "patch": None}

    def test_sizes_of_an_unbound_part_are_refused(self):
        with pytest.raises(ValueError, match=r"^this Recorder has no sizes yet; pass it to a model, or call bind"):
            _ = Recorder().sizes

    def test_a_failed_binding_may_be_repeated(self):
        part = Recorder()
        with pytest.raises(ValueError, match="no such size"):
            part.bind(leaves=1, pixels=13)
        assert part.bind(leaves=1).sizes == {"leaves": 1}


class Base(Part):
    def __init__(self, a, b=2, *, c="x"):
        self.a, self.b, self.c = a, b, c


class Inheriting(Base):
    pass


class Shortened(Base):
    shorthands = ("b",)

    def __init__(self, a, b=None, d=None):
        self.a, self.d = a, d or b


class PyroPart(Part, PyroModule):
    pass


class TorchPart(Part, torch.nn.Module):
    pass


class TestOptions:
    def test_are_the_attributes_of_the_arguments(self):
        assert Base(1).options() == {"a": 1, "b": 2, "c": "x"}
        assert Inheriting(1, c=None).options() == {"a": 1, "b": 2, "c": None}

    def test_a_class_without_constructor_has_none(self):
        for part in (Part(), PyroPart(), TorchPart()):
            assert part.options() == {}

    def test_shorthands_are_left_out(self):
        assert Shortened(1, b=3).options() == Shortened(1, d=3).options() == {"a": 1, "d": 3}

    def test_an_argument_that_is_not_kept_is_named(self):
        class Forgetful(Part):
            def __init__(self, size):
                self.length = size

        message = "^Forgetful cannot be saved: its constructor takes 'size', but .*; keep the argument as self.size$"
        with pytest.raises(ValueError, match=message):
            Forgetful(3).options()

    def test_any_number_of_arguments_is_refused(self):
        class Open(Part):
            def __init__(self, **kwargs):
                pass

        class Positional(Part):
            def __init__(self, a, /):
                self.a = a

        for part, name in ((Open(), r"\*\*kwargs"), (Positional(1), "a")):
            with pytest.raises(
                ValueError, match=f"cannot be saved: its constructor takes {name}, where arguments with"
            ):
                part.options()


class TestMemoize:
    def test_outside_a_block_every_call_computes(self):
        part, x = Recorder(), torch.ones(1)
        part.twice(x), part.twice(x)
        assert part.calls == 2

    def test_inside_a_block_the_same_argument_is_computed_once(self):
        part, x = Recorder(), torch.ones(1)
        with memoize():
            assert part.twice(x) is part.twice(x)
            assert part.calls == 1
            part.twice(torch.ones(1))  # equal, but another tensor
            assert part.calls == 2
        part.twice(x)
        assert part.calls == 3

    def test_objects_do_not_share(self):
        x = torch.ones(1)
        with memoize():
            first, second = Recorder(), Recorder()
            first.twice(x), second.twice(x)
        assert (first.calls, second.calls) == (1, 1)

    def test_inner_blocks_share_and_end_with_the_outer_one(self):
        part, x = Recorder(), torch.ones(1)
        with memoize():
            with memoize():
                part.twice(x)
            part.twice(x)
            assert part.calls == 1
        with memoize():
            part.twice(x)
        assert part.calls == 2

    def test_a_fresh_block_forgets_for_its_length(self):
        part, x = Recorder(), torch.ones(1)
        with memoize():
            first = part.twice(x)
            with memoize(fresh=True):
                assert part.twice(x) is not first
            assert part.twice(x) is first
        assert part.calls == 2

    def test_a_block_of_data_forgets_what_has_arguments_and_keeps_what_has_none(self):
        part, x = Recorder(), torch.ones(1)
        with memoize():
            first, second = part.twice(x), part.parameters_alone()
            for _ in range(3):
                with memoize(data=True):
                    assert part.twice(x) is not first
                    assert part.twice(x) is part.twice(x)
                    assert part.parameters_alone() is second
            assert part.twice(x) is first and part.parameters_alone() is second
        assert (part.calls, part.alone) == (4, 1)

    def test_what_a_block_of_data_learns_of_parameters_outlives_it(self):
        part = Recorder()
        with memoize():
            with memoize(data=True), memoize():
                first = part.parameters_alone()
            with memoize(data=True):
                assert part.parameters_alone() is first
            assert part.parameters_alone() is first
        assert part.parameters_alone() is not first

    def test_a_block_of_data_alone_and_a_fresh_one(self):
        part = Recorder()
        with memoize(data=True):
            first = part.parameters_alone()
            with memoize(fresh=True):
                second = part.parameters_alone()
                with memoize(data=True):
                    assert part.parameters_alone() is second
            assert second is not first and part.parameters_alone() is first
        assert part.alone == 2
        with memoize(data=True):
            assert part.parameters_alone() is not first

    def test_ids_of_temporary_arguments_are_not_confused(self):
        part = Recorder()
        with memoize():
            values = [part.twice(torch.full((1,), float(i))).item() for i in range(50)]
        assert values == [2.0 * i for i in range(50)]

    def test_an_error_ends_the_block(self):
        part, x = Recorder(), torch.ones(1)
        with pytest.raises(RuntimeError, match="stop"), memoize():
            part.twice(x)
            raise RuntimeError("stop")
        part.twice(x)
        assert part.calls == 2


class TestPositiveScale:
    def test_default_floor(self):
        assert check_scale("softplus", None) == 1e-3 and check_scale("precision", None) == 0.0
        assert check_scale("exp", None) == check_scale("logvar", None) == 0.0
        assert check_scale("precision", 1) == 1.0

    raw = torch.tensor([-800.0, -30.0, -1.0, 0.0, 0.5, 30.0, 800.0], dtype=torch.float64)

    @pytest.mark.parametrize("floor", [0.0, 1e-3, 0.5])
    def test_softplus(self, floor):
        expected = [floor + (math.log1p(math.exp(s)) if s < 700 else s) for s in self.raw.tolist()]
        torch.testing.assert_close(positive_scale(self.raw, "softplus", floor), torch.tensor(expected))

    @pytest.mark.parametrize("floor", [0.0, 0.1])
    def test_precision(self, floor):
        expected = [max(floor, 1 / math.sqrt(1 + s * s)) for s in self.raw.tolist()]
        torch.testing.assert_close(positive_scale(self.raw, "precision", floor), torch.tensor(expected))

    @pytest.mark.parametrize("floor", [0.0, 0.1])
    def test_exp(self, floor):
        expected = [max(floor, math.exp(s)) if s < 700 else math.inf for s in self.raw.tolist()]
        torch.testing.assert_close(positive_scale(self.raw, "exp", floor), torch.tensor(expected))

    @pytest.mark.parametrize("floor", [0.0, 0.1])
    def test_logvar(self, floor):
        """Half of a log-variance between -6 and 2, as the VampPrior paper's code has it: 0.0498 to 2.718."""
        raw = torch.cat([self.raw, torch.tensor([-6.1, -5.9, 1.9, 2.1])])
        expected = [max(floor, math.exp(min(max(s, -6), 2) / 2)) for s in raw.tolist()]
        found = positive_scale(raw, "logvar", floor)
        torch.testing.assert_close(found, torch.tensor(expected))
        torch.testing.assert_close(found.max(), torch.tensor(math.e))
        assert floor or float(found.min()) == pytest.approx(0.0497871, abs=1e-6)

    def test_logvar_has_no_gradient_outside_its_range(self):
        raw = torch.tensor([-7.0, -5.0, 1.0, 3.0], requires_grad=True)
        positive_scale(raw, "logvar", 0.0).sum().backward()
        expected = torch.tensor([0.0, math.exp(-2.5) / 2, math.exp(0.5) / 2, 0.0])
        torch.testing.assert_close(raw.grad, expected)

    @pytest.mark.parametrize("kind", ["softplus", "precision", "exp", "logvar"])
    def test_gradient(self, kind):
        raw = torch.tensor([-2.0, -0.3, 0.4, 3.0], requires_grad=True)
        assert torch.autograd.gradcheck(lambda s: positive_scale(s, kind, 0.0), raw)

    @pytest.mark.parametrize(
        ("kind", "floor", "message"),
        [
            ("log", 0.0, "scale is 'log'; known are softplus, precision, exp, logvar"),
            ("softplus", -1.0, "min_scale is -1.0; a number of at least 0 is needed"),
            ("softplus", math.inf, "min_scale is inf; a number of at least 0 is needed"),
            ("softplus", math.nan, "min_scale is nan; a number of at least 0 is needed"),
            ("softplus", "1", "min_scale is '1'; a number of at least 0 is needed"),
            ("precision", True, "min_scale is True; a number of at least 0 is needed"),
            (["softplus"], 1.0, r"scale is \['softplus'\]; known are softplus, precision, exp, logvar"),
        ],
    )
    def test_refusals(self, kind, floor, message):
        with pytest.raises(ValueError, match=f"^{message}$"):
            check_scale(kind, floor)


class TestRawScale:
    @pytest.mark.parametrize(
        ("kind", "floor"),
        [(kind, floor) for kind in ("softplus", "precision", "exp", "logvar") for floor in (0.0, 0.1)],
    )
    def test_is_the_inverse(self, kind, floor):
        low = 0.051 if kind == "logvar" else 0.001
        scale = floor + torch.linspace(low, 0.85, 50)
        raw = raw_scale(scale, kind, floor)
        torch.testing.assert_close(positive_scale(raw, kind, floor), scale)
        if kind == "softplus":
            torch.testing.assert_close(positive_scale(raw_scale(40 * scale, kind, floor), kind, floor), 40 * scale)

    @pytest.mark.parametrize(
        ("kind", "floor", "scale", "nearest"),
        [
            ("softplus", 0.1, 0.0, 0.1 + 1e-6),
            ("softplus", 0.0, 0.0, 1e-6),
            ("precision", 0.1, 0.0, 0.1),
            ("precision", 0.0, 0.0, 1e-6),
            ("precision", 0.0, 3.0, 1 - 1e-6),
            ("exp", 0.1, 0.0, 0.1),
            ("exp", 0.0, 0.0, 1e-6),
            ("exp", 0.0, 1e6, 1e6),
            ("logvar", 0.1, 0.0, 0.1),
            ("logvar", 0.0, 0.0, math.exp(-3 + 5e-7)),
            ("logvar", 0.0, 3.0, math.exp(1 - 5e-7)),
        ],
    )
    def test_goes_to_the_nearest(self, kind, floor, scale, nearest):
        raw = raw_scale(torch.tensor([scale]), kind, floor)
        assert raw.isfinite().all()
        torch.testing.assert_close(positive_scale(raw, kind, floor), torch.tensor([nearest]), rtol=1e-9, atol=0)


class TestAwayFromZero:
    def test_is_the_most_likely_distribution_above_the_bound(self):
        probabilities = torch.tensor([[0.0, 0.005, 0.295, 0.7], [0.25, 0.25, 0.25, 0.25]])
        found = away_from_zero(probabilities, 0.01)
        torch.testing.assert_close(
            found, torch.tensor([[0.01, 0.01, 0.98 * 0.295 / 0.995, 0.98 * 0.7 / 0.995], [0.25] * 4])
        )
        others = torch.distributions.Dirichlet(torch.ones(4)).sample((2000,)) * 0.96 + 0.01
        best = (probabilities * found.log()).sum(-1)
        assert ((probabilities * others.unsqueeze(1).log()).sum(-1) <= best).all()
