# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Expectation maximisation by batches: running means of expected statistics."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyro_spvae.infer.em import ExpectedStatistics


class RunningStatistics:
    r"""
    Statistics of all data as the last batches say that they are (Cappé and Moulines 2009, "On-line
    expectation-maximization algorithm for latent data models"): those of a datum are

    .. math:: s_t = (1 - \gamma_t)\, s_{t-1} + \gamma_t\, \hat s_t

    with :math:`\hat s_t` the mean over batch t under the parameters of before, and the parameters are those of the
    M-step from :math:`s_t`. In the beginning :math:`\gamma_t` is at least :math:`1 / t`, so that the first batches
    weigh alike; before so many have come that this is no more than the step size, or all data have been seen,
    :attr:`ready` is False, and parameters stay as they are.

    :param int rows: number of all data, which smoothing is in proportion to.
    :ivar int steps: batches so far.
    :ivar list sums: the statistics, in proportion to all data.

    Example::

        >>> from pyro_spvae.infer import RunningStatistics
        >>> spn = SPN(poon_domingos((2, 2), delta=1), units=2, likelihood=Bernoulli())
        >>> running = RunningStatistics(rows=40)
        >>> for batch in spn.sample(40).split(20):
        ...     expected = spn.expected_statistics()
        ...     spn.expect(expected, batch)
        ...     running.take(expected, step_size=0.5)
        ...     if running.ready:
        ...         spn.maximise(running.into(expected))
        >>> running.steps, running.ready
        (2, True)
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.steps = 0
        self.seen = 0
        self.sums: list[Tensor] = []
        self.ready = False

    def take(self, batch: ExpectedStatistics, step_size: float) -> None:
        r"""
        Moves towards what is expected of a batch.

        :param ExpectedStatistics batch: the sums over its data, under the present parameters.
        :param float step_size: :math:`\gamma_t`, above 0 and at most 1.
        """
        self.steps += 1
        self.seen += batch.rows
        gamma = max(step_size, 1 / self.steps)
        share = self.rows / batch.rows
        new = [share * total for total in batch.sums]
        if self.sums:
            new = [(1 - gamma) * old.to(own.device) + gamma * own for old, own in zip(self.sums, new, strict=True)]
        self.sums = new
        self.ready = self.ready or step_size * self.steps >= 1 or self.seen >= self.rows

    def into(self, batch: ExpectedStatistics) -> ExpectedStatistics:
        """The batch's own statistics with these sums in their place, for an M-step."""
        batch.sums = list(self.sums)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {"steps": self.steps, "seen": self.seen, "ready": self.ready, "sums": list(self.sums)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where :meth:`state_dict` was taken."""
        self.steps, self.seen, self.ready = state["steps"], state["seen"], state["ready"]
        self.sums = list(state["sums"])
