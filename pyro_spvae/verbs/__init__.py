# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
What a trained run can be asked, one module a verb. Each verb takes the run folder and plain options, asks the run's
:class:`~pyro_spvae.models.SPVAE`, and writes arrays, figures and pictures; the command line only calls them.
"""
