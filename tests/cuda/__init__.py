# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
