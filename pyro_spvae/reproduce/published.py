# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
Numbers of the papers, as data.

Sum-product VAE: P. L. Tan and R. Peharz, "Hierarchical Decompositional Mixtures of Variational Autoencoders", ICML
2019, Tables 1 and 2; what the paper does not print (five-sample bounds, latent and hidden sizes, steps) is from the
notebooks of the authors' code. Figure 2 is printed as a plot only; its values were read off, to about 15 nats for
continuous pixels and 100 for discrete ones.

VampPrior: J. M. Tomczak and M. Welling, "VAE with a VampPrior", AISTATS 2018, Tables 1 to 5.

DLGMM: E. Nalisnick, L. Hertel and P. Smyth, "Approximate Inference for Deep Latent Gaussian Mixtures", Workshop on
Bayesian Deep Learning, NIPS 2016, Figure 3.

DVAE++: A. Vahdat, W. G. Macready, Z. Bian, A. Khoshaman and E. Andriyash, "DVAE++: Discrete Variational Autoencoders
with Overlapping Transformations", ICML 2018, Tables 1 to 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

BinarySet = Literal["static_mnist", "mnist", "omniglot_burda"]
SpvaeData = Literal["mnist", "svhn", "cifar10"]
Pixels = Literal["continuous", "discrete"]
SpvaeModel = Literal["spvae", "vae", "conv-spvae", "conv-vae"]
VampData = Literal["mnist", "static_mnist", "omniglot_burda", "caltech101_silhouettes", "frey_faces", "histopathology"]
VampModel = Literal["vae", "hvae", "convhvae", "spvae"]
VampPriorName = Literal["standard", "mog", "vamp", "vamp-data"]
MixtureModel = Literal["gauss-vae", "sb-vae", "dlgmm", "dldpmm"]
MixtureBound = Literal["mixture", "enumerated", "eq1"]
MixturePrior = Literal["zero", "spread"]
MixtureTable = Literal["kNN", "likelihood"]
DiscreteNet = Literal["linear", "nonlinear", "1-linear", "2-linear", "1-nonlinear", "2-nonlinear"]
GlobalData = Literal["static_mnist", "mnist", "omniglot_burda", "caltech101_silhouettes", "cifar10"]
GlobalModel = Literal["normal-normal", "rolfe-normal", "rbm-normal", "rbm-bernoulli", "bernoulli-bernoulli"]
DiscreteMethod = Literal["nvil", "muprop", "rebar", "concrete", "joint", "marginal", "rbm", "rbm-rolfe"]


@dataclass(frozen=True)
class Cell:
    """
    One entry of Table 1.

    :ivar float log_likelihood: test log-likelihood with 5000 samples, nats an image.
    :ivar float bound: the same with 5 samples; ``None`` where no finished run is known.
    :ivar int latent_dim: latent size of a leaf.
    :ivar int hidden: units of a hidden layer; of convolutional models, of the dense layer.
    :ivar int parameters: thousands, Table 2.
    :ivar int steps: batches until the best validation.
    :ivar str note: what the authors' notebooks show against the printed number.
    """

    log_likelihood: float
    bound: float | None
    latent_dim: int
    hidden: int
    parameters: int
    steps: int | None = None
    note: str = ""


TABLE_1: dict[tuple[SpvaeData, Pixels, SpvaeModel], Cell] = {
    ("mnist", "continuous", "spvae"): Cell(2819.2, 2762.6, 25, 30, 413, 12288),
    ("mnist", "continuous", "vae"): Cell(2598.1, 2470.5, 200, 300, 1545, 14080),
    ("mnist", "continuous", "conv-spvae"): Cell(2702.3, 2652.1, 25, 64, 1259, 20480),
    ("mnist", "continuous", "conv-vae"): Cell(2907.4, 2831.3, 200, 64, 894, 23808),
    ("svhn", "continuous", "spvae"): Cell(1936.4, 1838.6, 25, 32, 511, 25600),
    ("svhn", "continuous", "vae"): Cell(1441.6, 1390.5, 100, 300, 1713, 20352),
    ("svhn", "continuous", "conv-spvae"): Cell(2101.4, 2011.5, 25, 64, 1604, 20224),
    ("svhn", "continuous", "conv-vae"): Cell(1896.1, 1835.6, 150, 128, 1219, 30720),
    ("cifar10", "continuous", "spvae"): Cell(1283.4, 1185.8, 25, 32, 511, 23680),
    ("cifar10", "continuous", "vae"): Cell(895.6, 829.8, 50, 300, 1653, 13952),
    ("cifar10", "continuous", "conv-spvae"): Cell(1397.4, 1320.0, 25, 32, 1028, 25984),
    ("cifar10", "continuous", "conv-vae"): Cell(1190.6, 1122.9, 150, 128, 1219, 21760),
    ("mnist", "discrete", "spvae"): Cell(-1532.3, -1826.2, 25, 30, 310, 18432),
    ("mnist", "discrete", "vae"): Cell(-2351.2, -2629.1, 200, 300, 1158, 16896),
    ("mnist", "discrete", "conv-spvae"): Cell(-926.5, -1063.2, 25, 64, 1257, 26880),
    ("mnist", "discrete", "conv-vae"): Cell(
        -2098.6, -2241.5, 200, 64, 894, 22144, "evaluated on a run of 568k parameters (latent size 100)"
    ),
    ("svhn", "discrete", "spvae"): Cell(
        -3890.7, -4045.3, 50, 32, 461, 10496, "evaluated on a run of 2,080k parameters (hidden 100)"
    ),
    ("svhn", "discrete", "vae"): Cell(
        -4965.5, -4886.1, 100, 600, 3108, 19456, "5000 samples score below 5, so data or code had changed"
    ),
    ("svhn", "discrete", "conv-spvae"): Cell(-3665.6, -3710.6, 25, 64, 1603, 38144),
    ("svhn", "discrete", "conv-vae"): Cell(-4115.0, None, 200, 128, 1436, None, "no finished run is known"),
    ("cifar10", "discrete", "spvae"): Cell(-5543.1, -5697.8, 25, 30, 353, 37248),
    ("cifar10", "discrete", "vae"): Cell(-7199.6, -7230.9, 200, 600, 3288, 19584),
    ("cifar10", "discrete", "conv-spvae"): Cell(-4562.2, -4685.6, 25, 32, 1026, 25856),
    ("cifar10", "discrete", "conv-vae"): Cell(-6751.9, -6840.7, 150, 128, 1219, 14464),
}

FRACTIONS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

# Five-sample test bound, nats an image, at FRACTIONS of the training images (from the front where some are lacking).
FIGURE_2: dict[tuple[SpvaeData, Pixels, SpvaeModel], tuple[float | None, ...]] = {
    ("mnist", "continuous", "vae"): (
        930, 1354, 1457, 1869, 2006, 2098, 2319, 2431, 2488, 2497, 2497, 2488, 2478, 2459,
    ),
    ("mnist", "continuous", "spvae"): (2160, 2354, 2423, 2589, 2666, 2703, 2759, 2762, 2759, 2778, 2769, 2750),
    ("svhn", "continuous", "vae"): (
        575, 762, 883, 1044, 1177, 1232, 1340, 1394, 1400, 1406, 1382, 1376, 1394, 1364,
    ),
    ("svhn", "continuous", "spvae"): (1375, 1563, 1631, 1708, 1739),
    ("cifar10", "continuous", "vae"): (355, 439, 493, 572, 616, 655, 740, 778, 802, 819, 827, 823, 831, 827),
    ("cifar10", "continuous", "spvae"): (780, 913, 966, 1049, 1096, 1118, 1171),
    ("mnist", "discrete", "vae"): (
        -11000, -7200, -5700, -4600, -4050, -3480, -2960, -2680, -2580, -2770, -2680, -2720, -2720, -2630,
    ),
    ("mnist", "discrete", "spvae"): (-4600, -3350, -2750, -2350, -2130, -2040, -1935, -1845, -1800),
    ("svhn", "discrete", "vae"): (
        -7700, -6500, -6050, -5600, -5400, -5350, -4990, -4860, -4930, -5225, -5040, -4860, -5020, -5020,
    ),
    ("svhn", "discrete", "spvae"): (-4530, -4310, -4210, -4130, -4090),
    ("cifar10", "discrete", "vae"): (
        -15150, -13000, -11750, -10350, -9700, -9050, -7820, -7580, -7000, -7290, -7000, -7530, -7150, -7150,
    ),
    ("cifar10", "discrete", "spvae"): (-7850, -6600, -6270, -5900, -5630),
}  # fmt: skip

# The latent and hidden sizes that Figure 2 was drawn with, where they are not those of Table 1.
FIGURE_2_SIZES: dict[tuple[SpvaeData, Pixels, SpvaeModel], tuple[int, int]] = {
    ("mnist", "continuous", "spvae"): (25, 32),
    ("mnist", "discrete", "spvae"): (25, 32),
    ("svhn", "continuous", "spvae"): (50, 32),
    ("svhn", "discrete", "spvae"): (25, 32),
    ("cifar10", "continuous", "spvae"): (25, 32),
    ("cifar10", "discrete", "spvae"): (25, 32),
}


def figure_2(data: SpvaeData, pixels: Pixels, model: SpvaeModel) -> dict[float, float]:
    """The published curve of Figure 2: fraction of the training images to five-sample test bound."""
    values = FIGURE_2.get((data, pixels, model), ())
    return {fraction: value for fraction, value in zip(FRACTIONS, values, strict=False) if value is not None}


# The poster: three models of binary MNIST images; its curves are printed without numbers.
POSTER: dict[str, Any] = {
    "spn": {"deltas": (4, 1), "leaves": 1568, "sums": 9702, "products": 51744},
    "spvae": {"deltas": (4,), "leaves": 98, "sums": 1470, "products": 12544},
    "vae": {"latent_dim": 196, "hidden": 1568},
}

# Test log-likelihood, nats an image; of Frey Faces and Histopathology bits a pixel, which are better when lower.
# Tables 1 to 3; mnist is binarised anew for every batch.
VAMP: dict[tuple[VampData, VampModel, VampPriorName], float] = {
    ("static_mnist", "vae", "standard"): -88.56,
    ("static_mnist", "vae", "vamp"): -85.57,
    ("static_mnist", "hvae", "standard"): -86.05,
    ("static_mnist", "hvae", "mog"): -85.07,
    ("static_mnist", "hvae", "vamp-data"): -85.71,
    ("static_mnist", "hvae", "vamp"): -83.19,
    ("static_mnist", "convhvae", "standard"): -80.58,
    ("static_mnist", "convhvae", "vamp"): -79.78,
    ("mnist", "vae", "standard"): -84.50,
    ("mnist", "vae", "vamp"): -82.38,
    ("mnist", "hvae", "standard"): -82.42,
    ("mnist", "hvae", "vamp-data"): -81.71,
    ("mnist", "hvae", "vamp"): -81.24,
    ("mnist", "convhvae", "standard"): -79.70,
    ("mnist", "convhvae", "vamp"): -78.45,
    ("omniglot_burda", "vae", "standard"): -108.50,
    ("omniglot_burda", "vae", "vamp"): -104.75,
    ("omniglot_burda", "hvae", "standard"): -103.52,
    ("omniglot_burda", "hvae", "vamp"): -101.18,
    ("omniglot_burda", "convhvae", "standard"): -90.11,
    ("omniglot_burda", "convhvae", "vamp"): -89.76,
    ("caltech101_silhouettes", "vae", "standard"): -123.43,
    ("caltech101_silhouettes", "vae", "vamp"): -114.55,
    ("caltech101_silhouettes", "hvae", "standard"): -112.08,
    ("caltech101_silhouettes", "hvae", "vamp"): -108.28,
    ("caltech101_silhouettes", "convhvae", "standard"): -85.51,
    ("caltech101_silhouettes", "convhvae", "vamp"): -86.22,
    ("frey_faces", "vae", "standard"): 4.63,
    ("frey_faces", "vae", "vamp"): 4.57,
    ("frey_faces", "hvae", "standard"): 4.61,
    ("frey_faces", "hvae", "vamp"): 4.51,
    ("frey_faces", "convhvae", "standard"): 4.43,
    ("frey_faces", "convhvae", "vamp"): 4.38,
    ("histopathology", "vae", "standard"): 6.07,
    ("histopathology", "vae", "vamp"): 6.04,
    ("histopathology", "hvae", "standard"): 5.82,
    ("histopathology", "hvae", "vamp"): 5.75,
    ("histopathology", "convhvae", "standard"): 4.84,
    ("histopathology", "convhvae", "vamp"): 4.82,
}

# Tables 2 to 5: what the paper quotes of others, nats.
VAMP_OTHERS: dict[VampData, dict[str, float]] = {
    "static_mnist": {
        "VAE (L=1) + NF": -85.10,
        "VAE (L=2)": -87.86,
        "IWAE (L=2)": -85.32,
        "VLAE": -79.03,
        "VAE + IAF": -79.88,
    },
    "mnist": {
        "VAE (L=2) + VGP": -81.32,
        "CaGeM-0 (L=2)": -81.60,
        "LVAE (L=5)": -81.74,
        "VLAE": -78.53,
        "VAE + IAF": -79.10,
        "PixelVAE": -78.96,
    },
    "omniglot_burda": {"VR-max (L=2)": -103.72, "IWAE (L=2)": -103.38, "LVAE (L=5)": -102.11, "VLAE": -89.83},
    "caltech101_silhouettes": {"IWAE (L=1)": -117.21, "VR-max (L=1)": -117.10, "VLAE": -78.53},
}

# Figure 3 (b) of the DLGMM paper: test log-likelihood, nats an image, of binarised images; the authors' code draws 50
# importance samples. Their OMNIGLOT is not that of Burda et al., whose values are about 15 nats higher.
MIXTURES: dict[MixtureModel, float] = {"gauss-vae": -96.80, "sb-vae": -98.01, "dlgmm": -96.50, "dldpmm": -96.91}

# Figure 3 (a): test error of k-nearest neighbours on draws of the latent variables, in percent.
NEIGHBOURS: dict[MixtureModel, dict[int, float]] = {
    "gauss-vae": {3: 28.4, 5: 20.96, 10: 15.33},
    "sb-vae": {3: 9.34, 5: 8.65, 10: 8.90},
    "dlgmm": {3: 9.14, 5: 8.38, 10: 8.42},
}

# Tables 1 and 2 of the DVAE++ paper, by set, networks and method: test log-likelihood, nats an image, with 100 samples
# in Table 1 and 4,000 in Table 2, means and standard deviations over five runs; nvil to concrete are of Tucker et al.
_FIRST: tuple[DiscreteMethod, ...] = ("nvil", "muprop", "rebar", "concrete", "joint", "marginal")
_SECOND: tuple[DiscreteMethod, ...] = ("rbm", "rbm-rolfe", "joint", "marginal")
_Row = tuple[BinarySet, DiscreteNet, tuple[DiscreteMethod, ...], tuple[float, ...], tuple[float, ...]]
_DISCRETE: tuple[_Row, ...] = (
    (
        "static_mnist",
        "linear",
        _FIRST,
        (-108.35, -108.03, -107.65, -107.00, -107.98, -108.57),
        (0.06, 0.07, 0.08, 0.10, 0.10, 0.10),
    ),
    (
        "static_mnist",
        "nonlinear",
        _FIRST,
        (-100.00, -100.66, -100.69, -99.54, -99.16, -99.10),
        (0.10, 0.08, 0.08, 0.06, 0.12, 0.21),
    ),
    (
        "omniglot_burda",
        "linear",
        _FIRST,
        (-117.59, -117.64, -117.65, -117.65, -117.38, -118.35),
        (0.04, 0.04, 0.04, 0.05, 0.08, 0.06),
    ),
    (
        "omniglot_burda",
        "nonlinear",
        _FIRST,
        (-116.57, -117.51, -118.02, -116.69, -113.83, -113.76),
        (0.08, 0.09, 0.05, 0.08, 0.11, 0.18),
    ),
    ("static_mnist", "1-linear", _SECOND, (-91.21, -91.55, -106.70, -106.80), (0.11, 0.08, 0.08, 0.19)),
    ("static_mnist", "2-linear", _SECOND, (-94.15, -91.06, -98.16, -98.56), (0.45, 0.21, 0.11, 0.10)),
    ("static_mnist", "1-nonlinear", _SECOND, (-85.41, -85.57, -95.04, -95.06), (0.04, 0.03, 0.10, 0.08)),
    ("static_mnist", "2-nonlinear", _SECOND, (-84.27, -84.52, -87.96, -88.23), (0.05, 0.05, 0.13, 0.11)),
    ("omniglot_burda", "1-linear", _SECOND, (-109.66, -109.83, -117.62, -117.78), (0.09, 0.17, 0.09, 0.07)),
    ("omniglot_burda", "2-linear", _SECOND, (-109.01, -110.35, -111.21, -111.49), (0.45, 0.14, 0.12, 0.08)),
    ("omniglot_burda", "1-nonlinear", _SECOND, (-102.62, -103.12, -108.77, -108.82), (0.07, 0.06, 0.24, 0.20)),
    ("omniglot_burda", "2-nonlinear", _SECOND, (-100.55, -105.60, -103.57, -104.05), (0.05, 0.68, 0.15, 0.22)),
)
DISCRETE: dict[tuple[BinarySet, DiscreteNet], dict[DiscreteMethod, tuple[float, float]]] = {
    (data, net): dict(zip(methods, zip(means, deviations, strict=True), strict=True))
    for data, net, methods, means, deviations in _DISCRETE
}

# Table 3 of the DVAE++ paper, by set and by kind of global and local variables: test log-likelihood with 4,000 samples,
# nats an image, means over five runs; of CIFAR10 bits/dim
_GLOBAL: dict[GlobalModel, tuple[float, ...]] = {
    "normal-normal": (-79.40, -78.59, -92.51, -82.24, 3.40),
    "rolfe-normal": (-79.04, -78.65, -92.56, -81.95, 3.39),
    "rbm-normal": (-79.17, -78.49, -92.38, -81.88, 3.38),
    "rbm-bernoulli": (-79.72, -79.55, -93.95, -85.40, 3.59),
    "bernoulli-bernoulli": (-79.90, -79.62, -93.87, -86.57, 3.62),
}
GLOBAL: dict[GlobalData, dict[GlobalModel, float]] = {
    data: {model: values[column] for model, values in _GLOBAL.items()}
    for column, data in enumerate(get_args(GlobalData))
}
