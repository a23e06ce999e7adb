# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Networks that carry a leaf axis."""

from pyro_spvae.nn.conv import Conv
from pyro_spvae.nn.gated_conv import GatedConv
from pyro_spvae.nn.joint import Joint
from pyro_spvae.nn.mlp import MLP
from pyro_spvae.nn.multi_scale import MultiScale
from pyro_spvae.nn.network import Network
from pyro_spvae.nn.pixelcnn import PixelCNN
from pyro_spvae.nn.se_resnet import SEResNet

__all__ = [
    "MLP",
    "Conv",
    "GatedConv",
    "Joint",
    "MultiScale",
    "Network",
    "PixelCNN",
    "SEResNet",
]
