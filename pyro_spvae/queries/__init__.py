# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a trained model can be asked, and how it is stored."""

from pyro_spvae.queries.batch import LeafBatch
from pyro_spvae.queries.calibrated import Calibration
from pyro_spvae.queries.clustering import clustering_accuracy
from pyro_spvae.queries.embedding import Embedding
from pyro_spvae.queries.queries import Queries
from pyro_spvae.queries.root import Root
from pyro_spvae.queries.storage import Storage

__all__ = ["Calibration", "Embedding", "LeafBatch", "Queries", "Root", "Storage", "clustering_accuracy"]
