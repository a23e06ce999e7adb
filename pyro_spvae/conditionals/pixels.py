# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The pixels of a leaf: a decoder network and a likelihood, as one block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_spvae import checks
from pyro_spvae.blocks.from_data import DataOutputs
from pyro_spvae.circuits.numerics import at_least_single
from pyro_spvae.conditionals.observation import Observation
from pyro_spvae.distributions import LeafAutoregressive
from pyro_spvae.distributions.autoregressive import check_whole
from pyro_spvae.likelihoods.bernoulli import Bernoulli
from pyro_spvae.likelihoods.likelihood import Likelihood
from pyro_spvae.nn.network import Network
from pyro_spvae.part import of_earlier

_NOTHING = 1e-12  # expected count below which there is nothing to learn from
_READ = ContextVar("_READ", default=True)


@contextmanager
def pixels_unread() -> Iterator[None]:
    """Within the block nobody looks at the pixels, and decoders are not run: what they make is zero."""
    token = _READ.set(False)
    try:
        yield
    finally:
        _READ.reset(token)


class Pixels(Observation):
    r"""
    :math:`p(x \mid f(z_1, .., z_n))`: a likelihood whose parameters a decoder makes of the inputs. Without a decoder
    they are free parameters, the same for all data.

    :param Likelihood likelihood: of the pixels given the decoder's outputs.
    :param Network decoder: from the inputs to the likelihood's parameters. If it is ``autoregressive``, each pixel also
        depends on those before it.
    :param bool from_mean: whether the decoder's outputs are added to what the likelihood says of training data
        (:meth:`pyro_spvae.likelihoods.Likelihood.outputs_from`), from when these are known; by default the likelihood's
        own ``from_mean``. Autoregressive decoders start as they are.
    :ivar ParameterList outputs: without a decoder, a tensor ``[leaf, head]`` for each of ``likelihood.heads``, drawn by
        :meth:`pyro_spvae.likelihoods.Likelihood.initial_outputs`.

    Example::

        >>> from pyro_spvae.nn import MLP
        >>> pixels = Pixels(Bernoulli(), MLP((16,))).bind(leaves=3, pixels=4, inputs=2)
        >>> pixels(torch.randn(5, 3, 2)).sample().shape
        torch.Size([5, 3, 4])
        >>> free = Pixels(Bernoulli()).bind(leaves=3, pixels=4)  # the same for all data
        >>> free().log_prob(torch.ones(5, 3, 4)).shape
        torch.Size([5, 3])
    """

    def __init__(self, likelihood: Likelihood, decoder: Network | None = None, from_mean: bool | None = None) -> None:
        super().__init__(likelihood)
        if decoder is not None:
            checks.instance("decoder", decoder, Network)
        self.decoder = decoder
        self.from_mean = likelihood.from_mean if from_mean is None else checks.boolean("from_mean", from_mean)
        says = type(likelihood).outputs_from is not Likelihood.outputs_from
        adds = self.from_mean and says and decoder is not None and not decoder.autoregressive
        self.data = DataOutputs() if adds else None
        self.register_load_state_dict_pre_hook(of_earlier)

    def build(
        self,
        leaves: int,
        pixels: int,
        inputs: int | tuple[int, ...] = (),
        patch: tuple[int, ...] | None = None,
        map_shape: tuple[int, ...] | None = None,
        channels: int | None = None,
        scopes: tuple[tuple[int | None, ...], ...] | None = None,
        features: int | None = None,
    ) -> None:
        """
        Binds likelihood and decoder, or draws the free parameters.

        :param inputs: size of the input, or a tuple of sizes of several.
        :param tuple patch: channels, height and width of the patches, or ``None``.
        :param tuple map_shape: of the one input, if it is a map that lies flattened, or ``None``.
        :param int channels: of the patches, in which pixels are in the order (channel, position); by default those of
            ``patch``, or not known.
        :param tuple scopes: for each leaf the entries of a datum that its pixels are, ``None`` for padding; if known.
        :param int features: how many features of a leaf there are; by default as many as the likelihood has.
        :raises ValueError: for an autoregressive decoder of a likelihood whose outputs are not those of pixel by pixel.
        """
        if self.decoder is not None and self.decoder.autoregressive and not self.likelihood.by_pixel:
            raise ValueError(
                f"decoder is an autoregressive {type(self.decoder).__name__}, which draws pixel by pixel, but the "
                f"likelihood {type(self.likelihood).__name__} has no features and outputs of single pixels; give "
                "another decoder"
            )
        channels = patch[0] if channels is None and patch is not None else channels
        known = {"channels": channels, "scopes": scopes}
        known = {name: value for name, value in known.items() if value is not None}
        self.likelihood.bind(leaves=leaves, pixels=pixels, **known)
        self.keep_features(pixels, scopes, features)
        if self.data is not None:
            self.data.bind(leaves=leaves, pixels=pixels, outputs=self.likelihood.heads)
        if self.decoder is None:
            self.outputs = nn.ParameterList(self.likelihood.initial_outputs(leaves))
        else:
            shapes = {"output_shape": patch, "map_shape": map_shape}
            self.decoder.bind(leaves=leaves, inputs=inputs, outputs=self.likelihood.heads, **shapes)

    def forward(self, *inputs: Tensor, mask: Tensor | None = None) -> TorchDistribution:
        """
        :param Tensor inputs: ``[.., leaf, latent]`` for each input of the decoder.
        :param Tensor mask: ``bool``, broadcastable to ``[.., leaf, pixel]``: pixels that count.
        :returns: batch ``[.., leaf]``, event ``[pixel]``; a :class:`~pyro_spvae.distributions.LeafAutoregressive` for
            an autoregressive decoder.
        """
        if self.decoder is None:
            return self.likelihood(tuple(self.outputs), mask)
        if not _READ.get():
            leaves = inputs[0].size(-2)
            return self.likelihood(tuple(inputs[0].new_zeros(leaves, size) for size in self.likelihood.heads), mask)
        if not self.decoder.autoregressive:
            return self.likelihood(self._outputs(*inputs), mask)
        network, likelihood = self.decoder, self.likelihood
        context = network.context(*inputs)  # [.., L, n, H, W]
        heads = tuple(context.new_zeros(context.size(-4), size) for size in likelihood.heads)

        def conditionals(context: Tensor, value: Tensor) -> TorchDistribution:
            return likelihood(network(context, likelihood.features(value)), mask)

        pixels, support = likelihood.sizes["pixels"], likelihood(heads, mask).support
        assert support is not None
        return LeafAutoregressive(context, pixels, conditionals, self.draws, support, mask)

    def _outputs(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The decoder's outputs, from where they start."""
        assert self.decoder is not None
        outputs = self.decoder(*inputs)
        return outputs if self.data is None else self.data(outputs)

    def start_at(self, patches: Tensor, mask: Tensor | None) -> None:
        """Where outputs start from data: makes of training data what those of the decoder are added to, once."""
        if self.data is None or self.data.is_known:
            return
        patches = at_least_single(patches)
        outputs = self.likelihood.outputs_from(patches, torch.ones_like(patches) if mask is None else mask.to(patches))
        if outputs is not None:
            self.data.keep(outputs)

    def of_earlier(self, state: dict[str, Any], prefix: str) -> None:
        """A state that holds the mean of the data has what Bernoulli outputs, which alone knew it, are made of it."""
        mean = state.pop(f"{prefix}mean.values", None)
        if mean is not None and self.data is not None and isinstance(self.likelihood, Bernoulli):
            row = mean.nan_to_num(0.5).unsqueeze(0)
            (output,) = self.likelihood.outputs_from(row, torch.ones_like(row))
            state |= {f"{prefix}data.{self.data.names[0]}": output, f"{prefix}data.known": ~mean.isnan().any()}

    def check(self, x: Tensor, mask: Tensor) -> None:
        """
        :raises ValueError: if a value of ``x`` with ``mask`` set is outside the support, or the decoder is
            autoregressive and the mask shows a part of a patch.
        """
        self.likelihood.check(x, mask)
        if self.decoder is not None and self.decoder.autoregressive:
            check_whole(mask)

    def check_closed_form(self) -> None:
        """
        :raises ValueError: if the likelihood has no sufficient statistics, without which there is no closed M-step.
        """
        sizes = self.likelihood.sizes
        empty = self.outputs[0].new_zeros(0, sizes["leaves"], sizes["pixels"])
        self.likelihood.statistics_given(empty, empty, tuple(self.outputs))

    def expected(self, patches: Tensor, weight: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """
        What EM has to know of data: of every leaf and pixel how many there are, in parts by the weights, and the sums
        of the likelihood's sufficient statistics; the same of all data where smoothing needs it.

        :param Tensor patches: values ``[data, leaf, pixel]``, in the support also where not seen.
        :param Tensor weight: how much of a datum is of each leaf, ``[data, leaf]``.
        :param Tensor mask: pixels that count, ``bool`` broadcastable to ``patches``; all by default.
        :returns: tensors that may be added up over data.
        """
        likelihood, outputs = self.likelihood, tuple(output.detach() for output in self.outputs)
        weights = weight.unsqueeze(-1).expand(patches.shape)  # [B, L, P]
        weights = weights if mask is None else weights * mask
        sums = [weights.sum(0), likelihood.statistics_given(patches, weights, outputs)]
        uniform = likelihood.uniform_statistics()
        if uniform is None or bool(uniform.isnan().any()):
            weights = torch.ones_like(weights) if mask is None else mask.expand(patches.shape).to(weights.dtype)
            sums += [weights.sum(0), likelihood.statistics_given(patches, weights, outputs)]
        return sums

    @torch.no_grad()
    def maximise(self, sums: Iterator[Tensor], smoothing: float = 0.0, ridge: float = 0.0) -> None:
        """
        The M-step: the most likely free parameters, as if ``smoothing`` further data had come: evenly over all values,
        or where they cannot be distributed like all data at the pixel. Those of pixels without data stay.

        :param sums: those of :meth:`expected`, of which as many are taken.
        :param float smoothing: number of further data, at least 0.
        :param float ridge: is for leaves of correlated pixels.
        """
        count, statistics = next(sums), next(sums)
        prior = self.likelihood.uniform_statistics()
        of_all = None
        if prior is None or bool(prior.isnan().any()):
            of_all, everything = next(sums), next(sums)
            means = everything / of_all.clamp(min=_NOTHING).unsqueeze(-1)
            prior = means if prior is None else torch.where(prior.isnan().to(means.device), means, prior.to(means))
        count = count.unsqueeze(-1) + smoothing  # [L, P, 1]
        learnt = count > _NOTHING
        if of_all is not None:
            learnt = learnt & (of_all.unsqueeze(-1) > 0)
        means = (statistics + smoothing * prior.to(statistics)) / torch.where(learnt, count, 1.0)
        every = self.likelihood.by_output(learnt.squeeze(-1))
        for output, new, own in zip(self.outputs, self.likelihood.outputs_of(means), every, strict=True):
            output.copy_(torch.where(own, new.to(output.dtype), output))

    def draws(self, context: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """
        Draws patches in the steps of the decoder, all channels of a pixel in one of them.

        :param Tensor context: ``[row, leaf, n, height, width]``; few rows are drawn at a time, which bounds memory.
        :returns: an iterator over slices of rows, indices of the drawn entries of a patch ``[k]``, and their values
            ``[row, leaf, k]``.
        """
        assert self.decoder is not None
        size = self.decoder.rows_at_once(context)
        for start in range(0, len(context), size):
            rows = slice(start, min(start + size, len(context)))
            steps = self.decoder.steps(context[rows])
            entries = _Entries(self.likelihood, rows.stop - rows.start, context)
            for place in steps:
                values, features = entries.draw(steps.outputs(), place)
                steps.put(features)
                yield rows, place, values


class _Entries:
    """
    Draws values of some pixels of ``rows`` patches.

    Of a likelihood that is the same at all pixels one of these pixels alone is made. Any other may depend on the place,
    and is asked for whole patches of which the pixels are used.
    """

    def __init__(self, likelihood: Likelihood, rows: int, context: Tensor) -> None:
        self.likelihood = likelihood
        self.leaves = context.size(1)
        self.alike = vars(type(likelihood)).get("same_at_all_pixels", False)
        self.alone: dict[int, Likelihood] = {}  # by the number of entries
        self.values = context.new_zeros(rows, self.leaves, likelihood.sizes["pixels"])

    def draw(self, outputs: tuple[Tensor, ...], place: Tensor) -> tuple[Tensor, Tensor]:
        """Values and their features at the entries ``place [k]``, both ``[row, leaf, k]``."""
        if self.alike:
            alone = self._of(len(place))
            values = alone(outputs).sample()
            return values, alone.features(values)
        heads = []
        for output, size in zip(outputs, self.likelihood.heads, strict=True):
            whole = output.new_zeros(*output.shape[:2], self.values.size(-1), size // self.values.size(-1))
            whole[:, :, place] = output.unflatten(-1, (len(place), -1))
            heads.append(whole.flatten(-2))
        values = self.likelihood(tuple(heads)).sample()[..., place]
        self.values[..., place] = values
        return values, self.likelihood.features(self.values)[..., place]

    def _of(self, entries: int) -> Likelihood:
        """The likelihood of so many entries."""
        if entries not in self.alone:
            alone = type(self.likelihood)(**self.likelihood.options())
            self.alone[entries] = alone.bind(**self.likelihood.sizes | {"leaves": self.leaves, "pixels": entries})
        return self.alone[entries]
