# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a CUDA graph cannot hold is refused on any device; the steps of the models hold nothing of it."""

from __future__ import annotations

import pytest
import torch

from pyro_spvae.evaluating import lean
from pyro_spvae.training.host_reads import NotCapturable, refused_host_reads
from tests.training.graph_cases import ALL, trainer

VALUES = torch.arange(3.0, device="cpu")
META = torch.zeros(3, device="meta")
HOST = torch.tensor([0, 1], device="cpu")


@pytest.mark.parametrize(
    "operation, message",
    {
        "value": (lambda: VALUES.sum().item(), "reads values"),
        "branch": (lambda: bool((VALUES > 1).any()), "reads values"),
        "comparison": (lambda: torch.equal(VALUES, VALUES + 0), "reads values"),
        "places": (lambda: (VALUES > 1).nonzero(), "reads values"),
        "distinct": (lambda: VALUES.unique(), "reads values"),
        "factor": (lambda: torch.linalg.cholesky(torch.eye(2, device="cpu")), "reads values"),
        "mask": (lambda: VALUES[VALUES > 1], "by a mask"),
        "repeats": (lambda: VALUES.repeat_interleave(torch.tensor([1, 2, 0])), "as often as a tensor says"),
        "numbers": (lambda: torch.tensor([1.0, 2.0], device="meta"), "makes a tensor of numbers of the host"),
        "number": (lambda: META.new_tensor(2.0), "makes a tensor of numbers of the host"),
        "list": (lambda: META[[0, 1]], "by a list of numbers"),
        "index": (lambda: META[HOST], "copies a tensor between cpu and meta"),
        "copy": (lambda: VALUES.to("meta"), "copies a tensor between cpu and meta"),
        "copy in place": (lambda: META.copy_(VALUES), "copies a tensor between cpu and meta"),
    }.values(),
)
def test_what_waits_for_a_device_is_refused(operation, message):
    with pytest.raises(NotCapturable, match=f"^the step .*{message}"), refused_host_reads():
        operation()
    operation()  # outside as ever


def test_what_is_queued_passes():
    with refused_host_reads():
        parameter = torch.ones(3, device="meta", requires_grad=True)
        (parameter * torch.tensor(2.0, device="cpu") + parameter[1:2] + META.new_full((), 3.0)).sum().backward()
        torch.where(META > 0, 1.0, META).repeat_interleave(2).index_select(0, torch.zeros(1, device="meta").long())
        torch.randn(3, device="meta").masked_fill(META > 0, 0.0)
    assert parameter.grad is not None and parameter.grad.is_meta


@pytest.mark.parametrize("name", ALL)
def test_steps_of_the_models_look_at_nothing(name):
    """Loss and gradient, on a device that is not the host's and has no values that could be looked at."""
    made = trainer(name)
    x, observed = made.batches(0, 0)
    with lean():
        made.spvae.train()
        made._set_beta()
        made.train_step(x, observed)  # what the first step alone does, it may look at
        made.objective.to("meta")
        x, observed = x.to("meta", torch.float64), None if observed is None else observed.to("meta")
        with refused_host_reads():
            made.update.look(made.objective, x, observed, len(x))
    gradients = [parameter.grad for parameter in made.spvae.parameters()]
    assert any(gradient is not None and gradient.is_meta for gradient in gradients)
