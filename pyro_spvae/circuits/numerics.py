# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Scales, floors and forms that keep exponentials finite, and when a derivative may be written by hand."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

#: floating-point types of which densities are not computed
HALF = (torch.float16, torch.bfloat16)

_LOG2_E = 1 / math.log(2)


def at_least_single(x: Tensor) -> Tensor:
    """Half-precision numbers in single precision, which densities of many pixels need, whatever networks do."""
    return x.float() if x.dtype in HALF else x


def largest(values: Tensor, dim: int) -> Tensor:
    """The largest log-value along an axis, which stays as an axis of size 1, as a scale to subtract."""
    # a value of -inf must not become a scale; two of the bound can still be added
    return values.amax(dim=dim, keepdim=True).clamp_(min=torch.finfo(values.dtype).min / 4)


def exp_(values: Tensor) -> Tensor:
    """
    The exponential, in place.

    Results next to 0, as of whatever is far below the largest of a sum, take torch's own exponential on a processor
    some 30 times as long as others; powers of 2 do not.
    """
    return values.mul_(_LOG2_E).exp2_()


def log_sum_exp(values: Tensor, dim: int = -1) -> Tensor:
    r""":math:`\log \sum_k e^{v_k}` along an axis, as :func:`torch.logsumexp`, but see :func:`exp_`."""
    scale = largest(values.detach(), dim)
    total = torch.exp2((values - scale) * _LOG2_E).sum(dim)
    nothing = total == 0  # where all values are -inf, which then have no gradient
    return (total.masked_fill(nothing, 1.0).log() + scale.squeeze(dim)).masked_fill(nothing, -math.inf)


def floored(log_weight: Tensor) -> Tensor:
    """Log-weights from a floor upwards (-65 nats for float32, -531 for float64).

    The floor leaves room below the largest finite number for a flow divided by such a weight.
    """
    return log_weight.clamp(min=0.75 * math.log(torch.finfo(log_weight.dtype).tiny))


def softplus(x: Tensor) -> Tensor:
    r""":math:`\log(1 + e^x)`; torch's own default is off by 2e-9 above 20."""
    return nn.functional.softplus(x, threshold=40.0)


def by_hand(*tensors: Tensor) -> bool:
    """Whether a function of tensors may have a hand-written derivative (``torch.autograd.Function``).

    Torch's tracer (``torch.jit.trace``, Pyro's ``JitTrace_ELBO``) keeps no such function. Results for subclasses of
    tensors, by which Pyro's ``TraceGraph_ELBO`` follows draws, would lose their graph without a word.
    """
    return not is_recorded() and all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors)


def is_recorded() -> bool:
    """Whether torch's tracer makes a program of what is computed, which must then hold for other values."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined]
