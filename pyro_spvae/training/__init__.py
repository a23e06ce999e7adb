# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Training runs: configuration, loop, run folder. Imported module by module: help does not wait for torch."""
