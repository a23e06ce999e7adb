# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
The exact posterior of a digit's codes by Hamiltonian Monte Carlo, beside the guide's: ``python examples/nuts.py``.

NUTS needs gradients, and the choice of a tree has none. ``collapse_tree`` takes the choice out of the model, so that
every leaf sees its patch: the chain is of p(z_l | x_l), the posterior of the code of leaf l if the tree selects it.
"""

import argparse

import pyro
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS

from pyro_spvae import SPVAE, collapse_tree, poon_domingos
from pyro_spvae.data import load_data


def weighted_means(spvae: SPVAE, x: torch.Tensor, num_particles: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Means [L, D] of the guide's draws by their normalised weights p(x_l, z) / q(z), and their effective numbers."""
    guide, model = (pyro.plate("particles", num_particles, dim=-3)(program) for program in (spvae.guide, spvae.model))
    guide_trace = poutine.trace(guide).get_trace(x)
    model_trace = poutine.trace(collapse_tree(poutine.replay(model, trace=guide_trace))).get_trace(x)
    guide_trace.compute_log_prob()
    model_trace.compute_log_prob()
    p, q = model_trace.nodes, guide_trace.nodes
    weight = (p["x"]["log_prob"] + p["z"]["log_prob"] - q["z"]["log_prob"]).softmax(0)[:, 0]  # [K, L]
    return torch.einsum("kl,kld->ld", weight, q["z"]["value"][:, 0]), 1 / weight.square().sum(0)


def main(args: argparse.Namespace) -> None:
    pyro.set_rng_seed(0)
    data = load_data("digits", seed=0).preprocessed("dequantize", 0)
    spvae = SPVAE(poon_domingos((8, 8), delta=4), units=2, latent_dim=2, hidden_dims=(16,))
    spvae.fit(data.train, data.validation, epochs=args.epochs, lr=3e-3, seed=0)
    spvae.eval().requires_grad_(False)  # from here on only the codes move
    x = data.test[:1]

    mcmc = MCMC(NUTS(collapse_tree(spvae.model)), args.num_samples, args.num_samples // 2, disable_progbar=True)
    mcmc.run(x)
    codes, chain = mcmc.get_samples()["z"][:, 0], mcmc.diagnostics()["z"]["n_eff"][0]  # [S, L, D] and [L, D]
    means, particles = weighted_means(spvae, x, args.num_particles)
    on_tree = spvae.embed(x, num_particles=args.num_particles).leaf_posterior[0]  # [L]

    print("leaf  on the tree  NUTS mean        weighted mean    apart, in standard errors  effective particles")
    error = codes.std(0) * (1 / chain + 1 / particles.unsqueeze(-1)).sqrt()  # of their difference, [L, D]
    for leaf, (exact, guess) in enumerate(zip(codes.mean(0), means, strict=True)):
        apart = ((exact - guess) / error[leaf]).abs().max()
        numbers = "  ".join(f"{mean[0]:7.3f} {mean[1]:7.3f}" for mean in (exact, guess))
        print(f"{leaf:4}  {on_tree[leaf]:11.3f}  {numbers}  {apart:25.1f}  {particles[leaf]:19,.0f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--num-samples", type=int, default=300, help="of the chain, behind half as many to warm it up")
    parser.add_argument("--num-particles", type=int, default=20_000, help="draws of the guide")
    main(parser.parse_args())
