# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A loop of one's own over processes, by DistributedDataParallel: ``torchrun --nproc-per-node 2 examples/ddp.py``."""

import argparse
import gc
import os

import pyro
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parameters_to_vector

from pyro_spvae import SPVAE, CircuitELBO, poon_domingos
from pyro_spvae.data import load_data


def main(args: argparse.Namespace, rank: int, world: int) -> None:
    pyro.settings.set(module_local_params=True)  # parameters belong to the module, not to Pyro's global store
    data = load_data("digits", seed=0).preprocessed("dequantize", 0)  # the same rows and noise in every process
    train, test = data.train[:], data.test[:]
    torch.manual_seed(rank)  # each draws noise of its own; DDP starts all at the parameters of the first
    spvae = SPVAE(poon_domingos((8, 8), delta=4), units=4, hidden_dims=(32,))
    # DDP averages gradients of what its forward computes, so it wraps the bound
    loss = DistributedDataParallel(CircuitELBO(num_particles=1)(spvae.model, spvae.guide))
    optimiser = torch.optim.Adam(loss.parameters(), lr=3e-3)
    order = torch.Generator().manual_seed(0)  # all cut an epoch into the same batches
    for epoch in range(1, args.epochs + 1):
        total = torch.zeros(())
        for rows in torch.randperm(len(train), generator=order).split(64):
            optimiser.zero_grad()
            part = loss(train[rows[rank::world]])  # the negative bound, summed over this process's rows
            (part * world / len(rows)).backward()  # DDP's mean over processes makes it the mean over the batch
            optimiser.step()
            total += part.detach()
        dist.all_reduce(total)
        if rank == 0:
            print(f"epoch {epoch:2}  bound {-total / len(train):6.2f} nats")

    score = spvae.log_likelihood(test[rank::world], num_samples=200).sum()  # each process scores its share
    dist.all_reduce(score)
    own = parameters_to_vector(spvae.parameters()).detach()
    first = own.clone()
    dist.broadcast(first, src=0)
    apart = (own - first).abs().max()
    dist.all_reduce(apart, dist.ReduceOp.MAX)
    if rank == 0:
        print(f"test log-likelihood {score / len(test):.2f} nats, world size {world}, parameters apart by {apart:g}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=15)
    # torchrun says by the environment how many there are; "nccl" in the place of "gloo" is for GPUs
    alone = {} if "RANK" in os.environ else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    dist.init_process_group("gloo", **alone)
    main(parser.parse_args(), dist.get_rank(), dist.get_world_size())
    gc.collect()  # DDP's cycles hold the group, whose threads must not outlive Python
    dist.destroy_process_group()
