# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Networks that carry a leaf axis, and what the parts of a model share."""

from pyro_spvae.nn.conv import Conv
from pyro_spvae.nn.gated_conv import GatedConv
from pyro_spvae.nn.joint import Joint
from pyro_spvae.nn.leaf_view import LeafView
from pyro_spvae.nn.memo import memoize, memoized
from pyro_spvae.nn.mlp import MLP
from pyro_spvae.nn.network import Network
from pyro_spvae.nn.part import Part
from pyro_spvae.nn.pixelcnn import PixelCNN
from pyro_spvae.nn.scale import positive_scale

__all__ = [
    "MLP",
    "Conv",
    "Joint",
    "GatedConv",
    "LeafView",
    "Network",
    "Part",
    "PixelCNN",
    "memoize",
    "memoized",
    "positive_scale",
]
