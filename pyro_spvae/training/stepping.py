# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Steps of training that the host does not wait for, as on a GPU: they are queued, and their bounds looked at later."""

from __future__ import annotations

from torch import Tensor, nn

from pyro_spvae.training.updates import GradientUpdate

#: after so many steps bounds are read from the device, in one go, and checked
CHECK_EVERY = 64


class QueuedSteps:
    """
    Takes steps one operation at a time.

    :param Module objective: the loss.
    :param GradientUpdate update: what a batch does to the parameters.
    """

    def __init__(self, objective: nn.Module, update: GradientUpdate) -> None:
        self.objective, self.update = objective, update

    def __call__(self, x: Tensor, observed: Tensor | None, size: int, last: bool) -> Tensor:
        """
        A step on a batch, the parameters' move included, without waiting for it.

        :param int size: rows of the batch over all processes.
        :param bool last: whether the batch was the last of an epoch.
        :returns: the bound in nats, summed over the rows, 0-dimensional; valid until the next step.
        """
        bound = self.update.look(self.objective, x, observed, size)
        self.update.move(last)
        return bound

    def look_around(self) -> None:
        """Call where somebody else may have put other tensors in the place of the model's or the optimiser's."""


class PendingBounds:
    """
    Bounds of the last steps, on the device, until the host looks at them.

    :param Tensor like: of the bounds' type, where they are.
    """

    def __init__(self, like: Tensor) -> None:
        self.bounds = like.new_zeros(CHECK_EVERY)
        self.number = 0

    @property
    def full(self) -> bool:
        """Whether they have to be taken before the next step."""
        return self.number == len(self.bounds)

    def add(self, bound: Tensor) -> None:
        """Keeps the bound of a step, without waiting for it."""
        self.bounds[self.number].copy_(bound)
        self.number += 1

    def take(self) -> list[float]:
        """Waits for the steps since the last call, and gives their bounds, in order."""
        taken = self.bounds[: self.number].tolist()
        self.number = 0
        return taken
