# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The version, alone in a file so that reading it imports nothing."""

__version__ = "0.2.0"
