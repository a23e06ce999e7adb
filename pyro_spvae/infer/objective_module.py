# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""An objective of a model and a guide as a module, for torch optimisers."""

from __future__ import annotations

from typing import Any

from pyro.infer.elbo import ELBOModule
from torch import Tensor, nn

from pyro_spvae.infer.estimators import Estimator
from pyro_spvae.infer.estimators.estimator import meet
from pyro_spvae.infer.prepared import owner_of


class ObjectiveModule(ELBOModule):
    """
    ``CircuitELBO(...)(model, guide)``: a module whose call is the loss.

    ``model`` and ``guide`` may be modules, methods of modules (``spvae.model``, ``spvae.guide``) or functions; the
    parameters of the modules are the parameters of this one, and those of the estimator, if there is one.

    Example::

        >>> import pyro
        >>> pyro.settings.set(module_local_params=True)
        >>> spvae = SPVAE(poon_domingos((4, 4), delta=2), units=2, likelihood=Bernoulli())
        >>> loss = CircuitELBO(num_particles=5)(spvae.model, spvae.guide)
        >>> type(loss).__name__, len(list(loss.parameters())) == len(list(spvae.parameters()))
        ('ObjectiveModule', True)
        >>> loss(spvae.sample(10)).shape  # nats, summed over the data
        torch.Size([])
    """

    elbo: Any
    estimator: Estimator | None

    def __init__(self, model: Any, guide: Any, elbo: Any, estimator: Estimator | None = None) -> None:
        nn.Module.__init__(self)
        self.elbo = elbo
        # a method is no module: its owner is, and the model's and the guide's owner may be the same
        self.programs = nn.ModuleList()
        for owner in map(owner_of, (model, guide)):
            if owner is not None and all(owner is not known for known in self.programs):
                self.programs.append(owner)
        if estimator is not None:
            meet(estimator, model)
        self.estimator = estimator
        self._pair = (model, guide)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The negative bound in nats, summed over the data."""
        loss: Tensor = self.elbo.differentiable_loss(*self._pair, *args, **kwargs)
        return loss
