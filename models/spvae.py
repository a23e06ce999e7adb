# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The sum-product VAE (Tan and Peharz, ICML 2019): a mixture over induced trees whose leaves are VAEs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.nn import pyro_method
from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.blocks import parts
from pyro_spvae.blocks.latent import check_sites
from pyro_spvae.circuits import Circuit, RegionGraph
from pyro_spvae.circuits.leaf_view import LeafView
from pyro_spvae.distributions import InducedTree
from pyro_spvae.infer import sample_tree
from pyro_spvae.infer.param_store import check_param_store
from pyro_spvae.infer.pseudo_prior import PseudoPriorMessenger
from pyro_spvae.leaves import LeafGuide, LeafModel
from pyro_spvae.likelihoods import Likelihood, Normal
from pyro_spvae.locking import alone
from pyro_spvae.models.vae import VAE
from pyro_spvae.priors import Prior
from pyro_spvae.queries import LeafBatch, Queries
from pyro_spvae.queries.programs import guide_laws, model_laws


class SPVAE(Queries):
    r"""
    A sum-product network over leaf VAEs, as one Pyro model and guide.

    The density is eq. (6) of the paper,

    .. math:: p(x) = \sum_T p(T) \prod_{l \in T} \int p(x_l \mid z_l)\, p(z_l)\, dz_l.

    The generative story, for every datum: draw an induced tree; for every leaf draw a latent code and a patch; the
    patches of the leaves on the tree make up the datum. Sites: ``"tree"`` (``bool[leaf]``), the leaf program's latent
    sites (``"z"``), ``"x"`` (patches) and, when generating, the deterministic ``"image"``; plates ``data`` (dim -2) and
    ``leaf`` (dim -1). The same pair serves every handler and :class:`~pyro_spvae.infer.CircuitELBO`, which sums the
    tree out; of several leaves Pyro's ``TraceEnum_ELBO`` with one particle is the same bound, and its others have wrong
    gradients of the sum weights. Of a single leaf ``Trace_ELBO``, ``TraceEnum_ELBO`` and ``RenyiELBO`` are right,
    ``TraceMeanField_ELBO`` and ``TraceGraph_ELBO`` take ``collapse_tree(spvae.model)``, and so do the first two if the
    guide draws or enumerates anything discrete, for which ``RenyiELBO`` is not. Their ``Jit`` forms are the same
    bounds, for batches of any size. An autoguide takes ``poutine.block(spvae.model, hide=["tree"])``.

    With B data, L leaves and patches of P pixels, a trace holds ``tree`` as ``bool [B, 1, L]``, ``z`` as
    ``[B, L, latent]``, ``x`` as ``[B, L, P]`` (of all leaves, on the tree or not) and ``image`` as
    ``[B, 1, *event_shape]``; the 1 is the leaf plate's dimension. ``Predictive`` puts its number of samples in front.
    Parameters of both programs belong to this one module, so a trace of either may list the other's. A model is kept by
    :meth:`save` and :meth:`load`, or by its ``state_dict``; Pyro's parameter store (``pyro.get_param_store().load``)
    restores nothing, and a program refuses to run while it holds tensors that were loaded into it, or, in training,
    those of another model: call ``pyro.clear_param_store()``.

    :param regions: a :class:`~pyro_spvae.circuits.RegionGraph`, or a :class:`~pyro_spvae.circuits.Circuit` over one.
    :param int units: sum nodes of every inner region, 2 by default.
    :param int leaves: leaf programs of every leaf region; ``units`` by default.
    :param LeafModel leaf: the generative program of a leaf. By default a :class:`~pyro_spvae.models.VAE` made of
        ``likelihood``, ``latent_dim``, ``hidden_dims`` and ``prior``.
    :param LeafGuide guide: the inference program of a leaf; by default a
        :class:`~pyro_spvae.guides.NormalGuide` with ``hidden_dims``, or what the leaf's class names.
    :param int latent_dim: latent size of the default leaf, 8.
    :param Sequence[int] hidden_dims: hidden layers of the default leaf and guide, (32, 32).
    :param Likelihood likelihood: of the default leaf; ``Normal()`` by default.
    :param Prior prior: of the default leaf; standard normal by default.
    :param channels: size of a channel axis in front of the region graph's shape, or ``None`` for none. By default 1 for
        two-dimensional graphs (images ``[1, height, width]``) and ``None`` for others (``[D]``).
    :ivar int num_leaves: number of leaf programs.
    :ivar int num_features: how many features the guide's networks see of a leaf, one for each pixel if the likelihood
        does not say otherwise.
    :ivar torch.Size event_shape: shape of one datum.
    :raises ValueError: for arguments that do not go together, such as a guide whose latent sites have other names,
        event shapes or supports than the leaf declares.

    Example::

        >>> import pyro
        >>> from pyro.infer import SVI
        >>> spvae = SPVAE(poon_domingos((8, 8), delta=4), units=2, latent_dim=2, likelihood=Bernoulli())
        >>> x = (torch.rand(20, 1, 8, 8) < 0.5).float()
        >>> svi = SVI(spvae.model, spvae.guide, pyro.optim.Adam({"lr": 1e-3}), CircuitELBO(num_particles=5))
        >>> losses = [svi.step(x) for _ in range(10)]  # of the batch, nats
        >>> spvae.log_likelihood(x, num_samples=50).shape
        torch.Size([20])
        >>> observed = torch.ones(1, 8, 8, dtype=torch.bool)
        >>> observed[..., 4:] = False
        >>> imputed = spvae.impute(x, observed, num_samples=3)
        >>> imputed.shape, bool((imputed[..., :4] == x[..., :4]).all())
        (torch.Size([3, 20, 1, 8, 8]), True)
    """

    def __init__(
        self,
        regions: RegionGraph | Circuit,
        units: int | None = None,
        leaves: int | None = None,
        *,
        leaf: LeafModel | None = None,
        guide: LeafGuide | None = None,
        latent_dim: int | None = None,
        hidden_dims: Sequence[int] | None = None,
        likelihood: Likelihood | None = None,
        prior: Prior | None = None,
        channels: int | str | None = "auto",
    ) -> None:
        super().__init__()
        # Pyro makes this state only for modules built under module_local_params, and fails on the others under it
        self._pyro_context.__dict__.setdefault("param_state", {"params": {}, "constraints": {}})
        if isinstance(regions, Circuit):
            if units is not None or leaves is not None:
                raise ValueError("units and leaves belong to the circuit that was given as regions; leave them out")
            circuit = regions
        elif isinstance(regions, RegionGraph):
            circuit = Circuit(regions, 2 if units is None else units, leaves)
        else:
            raise TypeError(f"regions is a {type(regions).__name__}; a RegionGraph or a Circuit is needed")
        options = {"latent_dim": latent_dim, "hidden_dims": hidden_dims, "likelihood": likelihood, "prior": prior}
        parts = (("leaf", leaf, LeafModel), ("guide", guide, LeafGuide), ("likelihood", likelihood, Likelihood))
        for name, part, kind in (*parts, ("prior", prior, Prior)):
            if part is not None:
                checks.instance(name, part, kind)
        if leaf is None:
            leaf = VAE(
                likelihood=Normal() if likelihood is None else likelihood,
                latent_dim=8 if latent_dim is None else latent_dim,
                hidden_dims=(32, 32) if hidden_dims is None else hidden_dims,
                prior=prior,
            )
        else:
            given = [name for name, value in options.items() if value is not None]
            if given:
                raise ValueError(f"leaf is given, so leave out the options of the default leaf ({', '.join(given)})")
        if channels == "auto":
            channels = 1 if len(circuit.regions.shape) == 2 else None
        if channels is not None and (isinstance(channels, str) or not checks.is_positive(channels)):
            raise ValueError(f"channels is {channels!r}; a positive integer or None is needed")
        channels = None if channels is None else int(channels)

        self.circuit = circuit
        # kept as numbers: inside a program, reading a child module states each of its parameters
        self.num_leaves: int = circuit.num_leaves
        self.view = LeafView(circuit.regions, circuit.leaves, channels)
        self.event_shape: torch.Size = self.view.event_shape
        pixels = self.view.pixels
        self.num_features: int = leaf.count_features(pixels, self.view.scopes)
        sizes: dict[str, Any] = {
            "leaves": circuit.num_leaves,
            "pixels": pixels,
            "patch": self.view.patch,
            "channels": channels or 1,
            "scopes": self.view.scopes,
            "features": self.num_features,
        }
        self.leaf = leaf.bind(**sizes)
        if guide is None:
            guide = leaf.new_guide(**({} if hidden_dims is None else {"hidden_dims": hidden_dims}))
        if self.num_features != pixels:  # which are what guides call pixels
            sizes |= {"pixels": self.num_features, "patch": None}
        self.leaf_guide = guide.bind(**sizes, latents=leaf.latents)
        leaf.meet(guide, self.view.patches, self.view.mask)
        self._check_programs()

    def _check_programs(self) -> None:
        """Both programs state what the leaf declares; a prior that waits for data is asked after its start."""
        name = type(self.leaf).__name__
        with (
            alone(),
            pyro.settings.context(module_local_params=True),
        ):  # what the parameter store holds does not matter yet
            check_sites(self.latents, guide_laws(self), f"the guide {type(self.leaf_guide).__name__}", name)
            if not any(part.waits for part in parts(self)):
                check_sites(self.latents, model_laws(self), f"the leaf {name}", name)
        self._pyro_context.used = False  # so that the model may still become a part of a larger one

    @pyro_method
    def model(
        self,
        x: Tensor | LeafBatch | None = None,
        observed: Tensor | None = None,
        *,
        num: int = 1,
        size: int | None = None,
    ) -> Tensor:
        """
        The generative program.

        :param Tensor x: data ``[data, *event_shape]``, or what :meth:`prepare` made of them and of the mask; ``None``
            to generate.
        :param Tensor observed: ``bool``, broadcastable to ``x``, True = seen. Other entries of ``x`` are not looked
            at, and a leaf that sees none contributes a factor of exactly 1.
        :param int num: how many to generate when ``x`` is ``None``.
        :param int size: size of the whole data set when ``x`` is a batch of it; scales the log-density of the batch.
        :returns: ``x``, or the generated data ``[.., num, *event_shape]``.
        """
        check_param_store(self)
        batch = None if x is None else self.prepare(x, observed)
        rows = num if batch is None else batch.rows
        prior_tree = InducedTree(self.circuit)
        with self._data_plate(rows, size):
            tree = sample_tree("tree", prior_tree)  # [.., B, 1, L], or None when summed out
            selected = None if tree is None else tree.squeeze(-2)
            with self._leaf_plate(), self._on_tree(selected, batch):
                if batch is None:
                    patches = self.leaf()  # [.., B, L, P]
                else:
                    self.leaf(batch.patches, batch.mask)
            if batch is not None:
                return batch.x
            everywhere = torch.ones(patches.shape[:-1], dtype=torch.bool, device=patches.device)
            image = self.view.assemble(everywhere if selected is None else selected, patches)
            if selected is not None:
                pyro.deterministic("image", image.unsqueeze(-len(self.event_shape) - 1), len(self.event_shape))
        return image

    @pyro_method
    def guide(
        self, x: Tensor | LeafBatch, observed: Tensor | None = None, *, num: int | None = None, size: int | None = None
    ) -> None:
        """The inference program of the latent sites of all leaves; takes the arguments of :meth:`model`."""
        check_param_store(self)
        batch = self.prepare(x, observed)
        encoding = batch.encoding(self.leaf_guide)
        with self._data_plate(batch.rows, size), self._leaf_plate(), _seen(batch):
            self.leaf_guide(encoding)

    def _data_plate(self, rows: int, size: int | None) -> Any:
        """Plates number their members on the model's device: else on the default one, by whose generator they draw."""
        where: Any = self.view.index.device
        if size is not None and checks.positive_integer("size", size) < rows:
            raise ValueError(f"size is {size}, but {rows} rows are given; as many as all data have are needed")
        subsample = None if size is None else rows
        return pyro.plate("data", rows if size is None else size, subsample_size=subsample, dim=-2, device=where)

    def _leaf_plate(self) -> Any:
        where: Any = self.view.index.device
        return pyro.plate("leaf", self.num_leaves, dim=-1, device=where)

    def fit(
        self,
        x: Any,
        validation: Any = None,
        *,
        observed: Tensor | None = None,
        out: str | os.PathLike[str] | None = None,
        progress: bool = False,
        report: Callable[[str], None] | None = None,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """
        Trains the model, see :func:`pyro_spvae.training.fit.fit`: until the bound on validation rows stops rising.

        :param x: training rows ``[data, *event_shape]``, or a data set.
        :param validation: rows to watch; some of ``x`` are held out if there are none.
        :param Tensor observed: as in :meth:`model`, for ``x``.
        :param out: folder to make for checkpoints and metrics.
        :param bool progress: show a progress bar.
        :param callable report: takes lines of text about what happens.
        :param options: further arguments of that function, such as ``epochs=20, lr=1e-2``.
        :returns: a dict of metrics for each validation.

        Example::

            >>> spvae = SPVAE(poon_domingos((8, 8), delta=4), units=2, latent_dim=2, likelihood=Bernoulli())
            >>> metrics = spvae.fit((torch.rand(50, 1, 8, 8) < 0.5).float(), epochs=3, lr=1e-2)
            >>> [line["epoch"] for line in metrics]
            [1, 2, 3]
        """
        # imported here because training imports models
        from pyro_spvae.training.fit import fit

        return fit(self, x, validation, observed=observed, out=out, progress=progress, report=report, **options)

    @alone()
    def start(self, x: Tensor, observed: Tensor | None = None) -> None:
        """See :meth:`pyro_spvae.queries.Root.start`."""
        waits = any(part.waits for part in parts(self))
        super().start(x, observed)
        if waits:
            self._check_programs()

    @contextmanager
    def _on_tree(self, selected: Tensor | None, batch: LeafBatch | None) -> Iterator[None]:
        """Inside the leaf plate: which leaves of which data count."""
        with ExitStack() as stack:
            if batch is not None:
                stack.enter_context(_seen(batch))
            if selected is not None and batch is None:
                stack.enter_context(_mask(selected))
            elif selected is not None:
                encoding = batch.encoding(self.leaf_guide)  # type: ignore[union-attr]
                stack.enter_context(PseudoPriorMessenger(selected, lambda: self.leaf_guide(encoding)))
            yield


@contextmanager
def _seen(batch: LeafBatch) -> Iterator[None]:
    """A leaf that sees no entry of a datum has log-weight exactly 0."""
    if batch.seen is None:
        yield
    else:
        with _mask(batch.seen):
            yield


def _mask(mask: Any) -> Any:
    """``poutine.mask``, whose types ask for a kind of tensor that comparisons do not return."""
    return poutine.mask(mask=mask)
