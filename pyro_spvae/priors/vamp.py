# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The variational mixture of posteriors (VampPrior) of Tomczak and Welling, AISTATS 2018."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from pyro_spvae import checks
from pyro_spvae.blocks import in_mode
from pyro_spvae.distributions import LeafNormal, LeafNormalMixture
from pyro_spvae.priors.mixture_of_gaussians import vector
from pyro_spvae.priors.prior import Prior

_INITS = ("normal", "data")
_WEIGHTS = ("uniform", "learned")
_OUTSIDE = 0.1  # part of the data's values outside of the range that is warned of; single ones far off do not matter


class VampPrior(Prior):
    r"""
    The guide's own posteriors at K pseudo-inputs, as a mixture (Tomczak and Welling 2018, eq. (9)),

    .. math:: p(z) = \frac1K \sum_{k=1}^K q(z \mid u_k).

    Pseudo-inputs are learned with everything else, by way of the prior's density, and so is the encoder. They are
    features, what the guide's networks see of data, held within ``range`` by a hardtanh as in the paper's code. Each
    leaf of a circuit has pseudo-inputs of its own. A step encodes them once, whatever the number of particles.

    :param int components: number of pseudo-inputs of each leaf, K; 500 by default, or as many as there are ``data``.
    :param Tensor data: data ``[rows, *event_shape]`` as the model takes them; ``components`` of them, drawn at random,
        are the pseudo-inputs ("VampPrior data" in the paper), frozen unless ``frozen=False``.
    :param str init: ``"normal"``: pseudo-inputs start as normals of ``mean`` and ``std``; ``"data"``: as training data
        drawn at random, which ``fit`` and ``train`` show, or :meth:`pyro_spvae.models.SPVAE.start`.
    :param bool frozen: keep pseudo-inputs as they start. By default where ``data`` is given. Those that are learned
        from data start with normal noise of ``std`` on them.
    :param float mean: 0.05 is the paper's for MNIST and OMNIGLOT, 0.5 for Caltech and Frey Faces, 0.4 elsewhere.
    :param float std: standard deviation of that start; in the paper 0.01, 0.02 and 0.05 for these.
    :param Sequence[float] range: least and largest value of a learned pseudo-input. It should hold most of the data, as
        the guide's networks see them: ``(-3, 3)`` for standardised ones. Training warns if it does not, and
        pseudo-inputs of ``init="data"`` are refused outside of it.
    :param str weights: ``"uniform"`` as in the paper, or ``"learned"``.
    :raises ValueError: for options out of range or fewer data than components.

    Example::

        >>> x = (torch.rand(100, 1, 8, 8) < 0.5).float()
        >>> learned = SPVAE(whole((8, 8)), units=1, prior=VampPrior(50), likelihood=Bernoulli())
        >>> learned.sample(4).shape
        torch.Size([4, 1, 8, 8])
        >>> of_data = SPVAE(whole((8, 8)), units=1, prior=VampPrior(data=x[:20]), likelihood=Bernoulli())
        >>> of_data.leaf.prior().log_prob(torch.zeros(1, 8)).shape  # a mixture of 20
        torch.Size([1])
    """

    pseudo_inputs: Tensor
    mask: Tensor | None

    def __init__(
        self,
        components: int | None = None,
        *,
        data: Tensor | None = None,
        init: str | None = None,
        frozen: bool | None = None,
        mean: float = 0.05,
        std: float = 0.01,
        range: Sequence[float] = (0.0, 1.0),
        weights: str = "uniform",
    ) -> None:
        super().__init__()
        if data is not None and (not isinstance(data, Tensor) or data.dim() < 2 or not len(data)):
            raise ValueError(f"data is {_described(data)}; a tensor [rows, ..] of at least one datum is needed")
        if data is not None and not bool(torch.isfinite(data).all()):
            raise ValueError(f"data hold {checks.NotFinite().look(~data.isfinite())}; finite values are needed")
        if components is None:
            components = 500 if data is None else len(data)
        self.components = checks.positive_integer("components", components)
        if data is not None:
            _check_enough(self.components, len(data))
        self.init = ("normal" if data is None else "data") if init is None else init
        self.frozen = data is not None if frozen is None else frozen
        _check(self.init, self.frozen, mean, std, range, weights)
        if data is not None and self.init != "data":
            raise ValueError(
                f"init is {self.init!r}, but data are given, from which pseudo-inputs start; leave init out"
            )
        if self.frozen and self.init != "data":
            raise ValueError(
                "frozen is True, but init is 'normal'; frozen pseudo-inputs are data: give data, or init='data'"
            )
        self.mean, self.std, self.weights = float(mean), float(std), weights
        self.range = (float(range[0]), float(range[1]))
        self._given = data
        self._encode: Callable[[Tensor], TorchDistribution] | None = None
        self._waits = self.init == "data"
        self._looked = False
        self.register_buffer("mask", None, persistent=False)
        self.register_load_state_dict_post_hook(_loaded)

    def options(self) -> dict[str, Any]:
        """As of any part; data are none of them, since the pseudo-inputs that were drawn from them are saved."""
        found = super().options()
        given = {"components": self.components, "data": None, "init": self.init, "frozen": self.frozen}
        return found | {name: value for name, value in given.items() if name in found}

    def build(self, leaves: int, event_shape: tuple[int, ...], pixels: int) -> None:  # type: ignore[override]
        """
        Makes pseudo-inputs ``[leaf, component, pixel]``, and weights ``[leaf, component]`` if those are learned. Those
        that wait for data are NaN, so that their state says so.
        """
        vector("VampPrior", event_shape)
        # drawn in any case: what is made after them starts alike, however they do
        values = self.mean + self.std * torch.randn(leaves, self.components, pixels)
        if self._waits:
            values.fill_(torch.nan)
        if self.frozen:
            self.register_buffer("pseudo_inputs", values)
        else:
            self.pseudo_inputs = nn.Parameter(values)
        if self.weights == "learned":
            self.logits = nn.Parameter(torch.zeros(leaves, self.components))

    @property
    def wanted_rows(self) -> int:  # type: ignore[override]
        """As many training rows as there are components, until pseudo-inputs that start from data have."""
        return self.components if self._waits else 0

    def connect(
        self,
        posterior: Callable[[Tensor], TorchDistribution],
        features: Callable[[Tensor], Tensor],
        mask: Tensor | None,
    ) -> None:
        """
        Takes the guide's encoder, which stays the guide's: it is not registered a second time.

        :raises ValueError: if the guide has no encoder that gives a :class:`~pyro_spvae.distributions.LeafNormal` of
            the prior's latent size, or ``data`` have not the model's shape.
        """
        # what does not fit is said at once, and no encoder learns statistics from it
        quiet = pyro.validation_enabled(False)  # no values are looked at: on the meta device there are none
        with torch.no_grad(), quiet, in_mode(getattr(posterior, "__self__", None), training=False):
            self._check_posterior(posterior(torch.zeros_like(self.pseudo_inputs[:, :1]).movedim(0, -2)))
        self._encode = posterior
        self.mask = mask  # moves to the module's device
        if self._given is not None:
            self.start(features(self._given.to(self.pseudo_inputs)))
            self._given = None
            self._arguments |= {"data": None} if "data" in self._arguments else {}

    @torch.no_grad()
    def start(self, features: Tensor, mask: Tensor | None = None) -> None:
        """
        Makes data drawn at random (by torch's generator) the pseudo-inputs, with noise if they are learned. What is
        missing from a datum starts at 0, or at the end of the range of learned ones that is nearest.

        :param Tensor mask: features that are seen, ``bool [rows, leaf, feature]``, or ``None`` if all are.
        :raises ValueError: if there are fewer than components, or learned pseudo-inputs would start outside ``range``.
        """
        if not self._waits:
            return
        _check_enough(self.components, len(features))
        rows = torch.randperm(len(features), device="cpu")[: self.components].to(features.device)
        values = features[rows].movedim(0, -2).to(self.pseudo_inputs)
        if not self.frozen:
            self._check_range(values, None if mask is None else mask[rows].movedim(0, -2))
            values = values.clamp(*self.range)
        self.pseudo_inputs.copy_(values if self.frozen else values + self.std * torch.randn_like(values))
        self._waits = False

    def _check_range(self, values: Tensor, mask: Tensor | None) -> None:
        """The hardtanh has no gradient outside of the range: what starts there would stay there."""
        counts = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
        seen = values[counts if self.mask is None else counts & self.mask.unsqueeze(-2)]
        if not seen.numel():
            return
        low, high = float(seen.nan_to_num(self.range[0]).min()), float(seen.nan_to_num(self.range[0]).max())
        if low < self.range[0] or high > self.range[1]:
            raise ValueError(
                f"range is {self.range!r}, but the data from which pseudo-inputs start go from {low:.4g} to "
                f"{high:.4g}; a range that holds them is needed, or frozen=True"
            )

    @torch.no_grad()
    def look_at(self, features: Tensor, mask: Tensor | None) -> None:
        """
        Warns, once, if much of the data is outside of the ``range`` that learned pseudo-inputs are held in: the encoder
        sees other things there than at any of them.
        """
        if self.frozen or self._looked:
            return
        self._looked = True
        seen = features if mask is None else features[mask]
        low, high = self.range
        part = float(((seen < low) | (seen > high)).double().mean()) if seen.numel() else 0.0
        if part > _OUTSIDE:
            least, largest = float(seen.min()), float(seen.max())
            warnings.warn(
                f"range of the VampPrior is {self.range!r}, but {100 * part:.0f} % of the training data's values, "
                f"which go from {least:.4g} to {largest:.4g}, lie outside, where no pseudo-input can be; give a "
                "range=(.., ..) that holds them, or scale the data",
                UserWarning,
                stacklevel=2,
            )

    @property
    def inputs(self) -> Tensor:
        """The pseudo-inputs as the encoder sees them, ``[component, leaf, pixel]``."""
        self.sizes  # noqa: B018, says so if there are none
        if self._waits:
            raise ValueError(
                "the pseudo-inputs of this VampPrior start from data, which it has not seen; call "
                "spvae.start(x) before training (fit and train do)"
            )
        values = self.pseudo_inputs if self.frozen else nn.functional.hardtanh(self.pseudo_inputs, *self.range)
        if self.mask is not None:
            values = torch.where(self.mask.unsqueeze(-2), values, 0.0)
        return values.movedim(0, -2)

    def forward(self) -> LeafNormalMixture:
        """
        The mixture.

        :raises ValueError: if the prior is used without a guide that has an encoder, or pseudo-inputs have not started.
        """
        mixture: LeafNormalMixture = self.kept(self._mixture)
        return mixture

    def _mixture(self) -> LeafNormalMixture:
        inputs = self.inputs
        if self._encode is None:
            raise ValueError(
                "this VampPrior has no encoder; pass it to a model with a guide that has one, or call connect(...)"
            )
        posterior = self._check_posterior(self._encode(inputs))
        shape = (self.components, self.sizes["leaves"], *self.sizes["event_shape"])
        log_weight = self.logits.log_softmax(-1).t() if self.weights == "learned" else None
        mixture = LeafNormalMixture(posterior.loc.expand(shape), posterior.scale.expand(shape), log_weight)
        mixture._dtype = posterior._dtype  # draws are what the guide's are
        return mixture

    def _check_posterior(self, posterior: TorchDistribution) -> LeafNormal:
        if not isinstance(posterior, LeafNormal):
            raise ValueError(
                f"a VampPrior needs a guide whose posterior is a LeafNormal, but it is a {type(posterior).__name__}"
            )
        (size,) = self.sizes["event_shape"]
        if posterior.event_shape != (size,):
            raise ValueError(
                f"the guide's posterior has latent size {posterior.event_shape[0]}, but the prior's is {size}; one "
                "size is needed"
            )
        return posterior


def _loaded(module: nn.Module, _keys: Any) -> None:
    """Pseudo-inputs that were loaded have started, unless they were saved while they waited."""
    assert isinstance(module, VampPrior)
    values = getattr(module, "pseudo_inputs", None)
    module._waits = module.init == "data" and values is not None and not values.is_meta and bool(values.isnan().any())


def _check_enough(components: int, rows: int) -> None:
    if rows < components:
        raise ValueError(f"components is {components}, but there are {rows} data; at most as many as data are accepted")


def _described(value: object) -> str:
    return f"of shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _check(init: Any, frozen: Any, mean: Any, std: Any, limits: Any, weights: Any) -> None:
    """Raises a ValueError in one sentence for options out of range."""
    if init not in _INITS:
        raise ValueError(f"init is {init!r}; known are {', '.join(_INITS)}")
    if not isinstance(frozen, bool):
        raise ValueError(f"frozen is {frozen!r}; True or False is needed")
    if weights not in _WEIGHTS:
        raise ValueError(f"weights is {weights!r}; known are {', '.join(_WEIGHTS)}")
    if not checks.is_number(mean):
        raise ValueError(f"mean is {mean!r}; a finite number is needed")
    if not checks.is_number(std) or std < 0:
        raise ValueError(f"std is {std!r}; a number of at least 0 is needed")
    pair = isinstance(limits, (tuple, list)) and len(limits) == 2 and all(map(checks.is_number, limits))
    if not pair or limits[0] >= limits[1]:
        raise ValueError(f"range is {limits!r}; two finite numbers, the smaller one first, are needed")
