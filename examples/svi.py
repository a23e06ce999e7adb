# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
A sum-product VAE trained by a bare ``SVI`` loop: ``python examples/svi.py``. Only the model and its objective are of
this package; early stopping, checkpoints and resuming are what ``spvae.fit`` adds.
"""

import argparse

import pyro
import torch
from pyro.infer import SVI

from pyro_spvae import SPVAE, CircuitELBO, poon_domingos
from pyro_spvae.data import load_data


def main(args: argparse.Namespace) -> None:
    pyro.clear_param_store()  # SVI keeps parameters there, and another model's would be taken for ours
    pyro.set_rng_seed(args.seed)

    # 8 x 8 grey images on [0, 1], noise added within each of their 17 levels, so that a Normal has something to model
    data = load_data("digits", seed=args.seed).preprocessed("dequantize", args.seed)
    train, validation, test = data.train[:], data.validation[:], data.test[:]  # [N, 1, 8, 8]

    # four cells of 4 x 4 pixels, in each of them four small VAEs, and a sum-product network over their combinations
    spvae = SPVAE(poon_domingos((8, 8), delta=4), units=4, latent_dim=8, hidden_dims=(32,))
    print(f"{spvae.num_leaves} VAEs, {sum(parameter.numel() for parameter in spvae.parameters()):,} parameters")

    # CircuitELBO sums over all induced trees. On so few leaves TraceEnum_ELBO would give the same values, far slower.
    optimiser = pyro.optim.ClippedAdam({"lr": args.learning_rate, "clip_norm": 100.0})
    svi = SVI(spvae.model, spvae.guide, optimiser, CircuitELBO(num_particles=1))

    for epoch in range(1, args.epochs + 1):
        bound = 0.0
        for rows in torch.randperm(len(train)).split(args.batch_size):
            bound -= svi.step(train[rows])  # the negative bound, summed over the batch
        if epoch % args.test_frequency == 0 or epoch == args.epochs:
            watched = -svi.evaluate_loss(validation) / len(validation)  # no gradient, same bound
            print(f"epoch {epoch:3}  bound: train {bound / len(train):7.2f}  validation {watched:7.2f} nats")

    # A bound says how training goes; models are compared by the log-likelihood, here by importance sampling.
    values = spvae.log_likelihood(test, num_samples=args.num_samples)  # [N], nats, higher is better
    error = values.std() / len(values) ** 0.5
    print(f"test log-likelihood {values.mean():.2f} +- {error:.2f} nats ({args.num_samples} samples)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--test-frequency", type=int, default=5, help="epochs between looks at the validation rows")
    parser.add_argument("--num-samples", type=int, default=500, help="importance samples of the log-likelihood")
    parser.add_argument("--seed", type=int, default=0)
    main(parser.parse_args())
