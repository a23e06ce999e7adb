# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The cumulative-logit model of ordered categories."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def ordinal_log_probs(first: Tensor, gaps: Tensor) -> Tensor:
    r"""
    Probabilities of ordered categories :math:`0..V-1` in the proportional-odds model (McCullagh 1980), which cuts a
    logistic variable of location :math:`\eta` at :math:`c_1 < .. < c_{V-1}`,

    .. math:: P(x < k) = \operatorname{sigmoid}(c_k - \eta), \qquad P(x = k) = P(x < k + 1) - P(x < k).

    With :math:`a < b` the cut points of a category, less the location, it is
    :math:`\operatorname{sigmoid}(b) \operatorname{sigmoid}(-a) (1 - e^{a - b})`, of which no term cancels.

    :param Tensor first: :math:`c_1 - \eta`, ``[..]``.
    :param Tensor gaps: :math:`c_{k+1} - c_k > 0`, ``[.., V - 2]``.
    :returns: nats, ``[.., V]``; logits of a :class:`~pyro_spvae.distributions.LeafCategorical`.

    Example::

        >>> from pyro_spvae.distributions import ordinal_log_probs
        >>> probs = ordinal_log_probs(torch.tensor(-1.0), torch.tensor([2.0])).exp()  # cut at -1 and 1
        >>> probs.round(decimals=4), round(probs.sum().item(), 4)
        (tensor([0.2689, 0.4621, 0.2689]), 1.0)
    """
    cuts = torch.cat([first.unsqueeze(-1), first.unsqueeze(-1) + gaps.cumsum(-1)], -1)  # [.., V - 1]
    below, above = logsigmoid(cuts), logsigmoid(-cuts)
    inner = below[..., 1:] + above[..., :-1] + torch.log(-torch.expm1(-gaps))
    return torch.cat([below[..., :1], inner, above[..., -1:]], -1)
