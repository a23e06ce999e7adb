# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The papers' experiments: their numbers, the configurations that retrain them, and reports of both side by side."""
