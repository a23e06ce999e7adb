# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""``python -m pyro_spvae``: the command line."""

from pyro_spvae.commands import main

main()
