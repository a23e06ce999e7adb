# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Networks of several inputs: a layer of its own for each, then one network on all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_spvae import checks
from pyro_spvae.nn.mlp import INITS, MLP, Stack, apply, check_layers, check_output_gain
from pyro_spvae.nn.network import Network


class Joint(Network):
    r"""
    A network of several inputs per leaf, :math:`f(x_1, .., x_n) = t([\phi_1(x_1), .., \phi_n(x_n)])`: each input has a
    hidden layer :math:`\phi_i` of its own, and a trunk :math:`t` sees them side by side.

    The form of :math:`q(z_1 \mid x, z_2)` and :math:`p(x \mid z_1, z_2)` in the VampPrior paper's code; with one input
    it is an :class:`~pyro_spvae.nn.MLP`. It is bound with a tuple of sizes as ``inputs``. Without hidden layers the
    outputs are a sum of linear maps of the inputs.

    Inputs may lack batch dimensions of others, such as that of particles: they meet after the first layer only, so what
    is known of data alone is computed once.

    :param Sequence[int] hidden_dims: units of the first layer of each input, then of the trunk's hidden layers.
    :param str activation: as of :class:`~pyro_spvae.nn.MLP`.
    :param float output_gain: as of :class:`~pyro_spvae.nn.MLP`.
    :param str init: as of :class:`~pyro_spvae.nn.MLP`; ``normalise`` likewise.
    :param Network first: a network of one output in the place of the first input's layer, such as
        ``GatedConv("small", heads=False)``. If it has a :attr:`~pyro_spvae.nn.Network.width` of its own, the other
        inputs' layers are as wide.
    :raises ValueError: for options out of range.

    Example::

        >>> from pyro_spvae.nn import Joint
        >>> decoder = Joint((16, 16)).bind(leaves=3, inputs=(4, 2), outputs=(10,))
        >>> decoder(torch.randn(5, 3, 4), torch.randn(7, 5, 3, 2))[0].shape
        torch.Size([7, 5, 3, 10])
    """

    several_inputs = True

    def __init__(
        self,
        hidden_dims: Sequence[int] = (32, 32),
        activation: str = "softplus",
        output_gain: float = 0.1,
        init: str = "truncated",
        first: Network | None = None,
        normalise: bool = False,
    ) -> None:
        super().__init__()
        if first is not None:
            checks.instance("first", first, Network)
        self.normalise = check_layers(hidden_dims, activation, normalise)
        check_output_gain(output_gain)
        if first is not None and not hidden_dims:
            raise ValueError("hidden_dims is empty, but first is given; the size of the first layers is needed")
        options: dict[str, Any] = {"init": init, "normalise": normalise}
        self.trunk = MLP(tuple(hidden_dims)[1:], activation, "shared", output_gain, **options) if hidden_dims else None
        self.hidden_dims = tuple(hidden_dims)
        self.activation = activation
        self.output_gain = float(output_gain)
        self.init = checks.one_of("init", init, INITS)
        self.first = first

    def build(
        self,
        leaves: int,
        inputs: int | tuple[int, ...],
        outputs: tuple[int, ...],
        input_shape: tuple[int, ...] | None = None,
    ) -> None:
        """Makes the weights."""
        sizes = (inputs,) if isinstance(inputs, int) else inputs
        branches: list[Network] = []
        if self.trunk is None:
            for size in sizes:
                linear = MLP((), networks="shared", output_gain=self.output_gain, init=self.init)
                branches.append(linear.bind(leaves=leaves, inputs=size, outputs=outputs))
            self.branches = nn.ModuleList(branches)
            return
        width = self.hidden_dims[0]
        if self.first is not None:
            self.first.bind(leaves=leaves, inputs=sizes[0], outputs=(width,), input_shape=input_shape)
            width = self.first.width or width
            branches.append(self.first)
        for size in sizes[len(branches) :]:
            layer = _Layer(width, self.activation, self.init, self.normalise)
            branches.append(layer.bind(leaves=leaves, inputs=size))
        self.branches = nn.ModuleList(branches)
        self.trunk.bind(leaves=leaves, inputs=width * len(sizes), outputs=outputs)

    def embed(self, x: Tensor) -> Any:
        """What the trunk sees of the first input ``[.., leaf, in]``, for :meth:`join`."""
        found = self.branches[0](x)
        return found if self.trunk is None else found[0]

    def join(self, embedded: Any, *others: Tensor) -> tuple[Tensor, ...]:
        """
        The outputs given what :meth:`embed` returned, and the other inputs.

        :param embedded: ``[.., leaf, hidden]``, or without hidden layers the first input's part of each output.
        :param Tensor others: ``[.., leaf, in]`` each; all broadcast.
        """
        if self.trunk is None:
            terms = [embedded, *(branch(other) for branch, other in zip(self.branches[1:], others, strict=True))]
            return tuple(sum(term[1:], term[0]) for term in zip(*terms, strict=True))
        parts = [embedded]
        for branch, other in zip(self.branches[1:], others, strict=True):
            (part,) = branch(other)
            parts.append(part)
        shape = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        # leaf first in memory, as the layers of the trunk work
        parts = [part.expand(*shape, part.size(-1)).movedim(-2, 0) for part in parts]
        return self.trunk(torch.cat(parts, -1).movedim(0, -2))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """
        :param Tensor inputs: ``[.., leaf, in]`` each; batch dimensions broadcast.
        :returns: one tensor ``[.., leaf, out]`` per output.
        """
        first, *others = inputs
        return self.join(self.embed(first), *others)

    def extra_repr(self) -> str:
        return f"hidden_dims={self.hidden_dims}, activation={self.activation}"


class _Layer(Network):
    """One hidden layer: an affine map and the activation."""

    def __init__(self, hidden: int, activation: str, init: str, normalise: bool = False) -> None:
        super().__init__()
        self.hidden, self.activation, self.init, self.normalise = hidden, activation, init, normalise

    def build(self, leaves: int, inputs: int) -> None:  # type: ignore[override]
        """Makes the weights."""
        sizes = (inputs, self.hidden)
        self.stack = Stack(leaves, sizes, self.activation, init=self.init, normalise=self.normalise)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return apply([self.stack], x)
