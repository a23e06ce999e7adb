# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Conditioning on latent variables: values that are held fixed, and draws of the others given them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.blocks.latent import describe_support
from pyro_spvae.distributions.joined import own_leaves
from pyro_spvae.infer.enumerated import flatten_particles
from pyro_spvae.infer.site import counted
from pyro_spvae.queries.posterior import resampled
from pyro_spvae.queries.programs import prior_sites
from pyro_spvae.queries.quiet import forked
from pyro_spvae.queries.root import Root


@dataclass(frozen=True, eq=False)
class Given:
    """
    Latent variables that are held fixed while data are generated.

    :ivar dict values: by site, of the type that the model draws, ``[num, leaf, *event]``.
    :ivar list before: sites that are not given and that the model states before a given one, on which that may depend.
    """

    values: dict[str, Tensor]
    before: list[str]

    @staticmethod
    def make(root: Root, given: Mapping[str, Any] | None, num: int) -> Given:
        """
        :param dict given: for each site a number, or a tensor that broadcasts to ``[num, leaf, *event]``.
        :param int num: number of data.
        :raises TypeError: if that is no dict, or a value is neither a number nor a tensor of real ones.
        :raises ValueError: if a site is unknown, or a value is outside of its support or does not broadcast.
        """
        given = {} if given is None else given
        checks.instance("given", given, Mapping)
        for name in given:
            checks.latent_site("given holds", name, root.latents)
        if not given:
            return Given({}, [])
        with forked(root._reference().device):  # for the order of sites, their leaves and types alone
            sites = prior_sites(root, 1, 1)
        values = {name: _checked(root, name, value, num, sites[name]) for name, value in given.items()}
        order = [name for name in sites if name in root.latents]
        last = max(map(order.index, values))
        return Given(values, [name for name in order[:last] if name not in values])

    def latents(self, root: Root, start: int, rows: int, num_particles: int) -> dict[str, Tensor]:
        r"""
        Values that fix the model's latent sites up to the last given one: those given, and the others by importance
        resampling of the prior for each datum and leaf,

        .. math:: u_k \sim p(u), \qquad w_k \propto p(\mathrm{given} \mid u_k).

        :param int start: number of the first datum.
        :param int rows: number of data.
        :param int num_particles: draws K for each datum and leaf.
        :returns: ``[data, leaf, *event]`` by site.
        """
        own = {name: value[start : start + rows] for name, value in self.values.items()}
        if not self.before:
            return own
        sites = prior_sites(root, num_particles, rows, own)
        shape = torch.Size((num_particles, rows, root.num_leaves))
        log_weight = torch.zeros(shape, device=root._reference().device)
        for name in own:
            log_weight = log_weight + counted(sites[name], sites[name]["fn"].log_prob(sites[name]["value"]))
        values = {name: (sites[name]["value"], len(root.latents[name].event_shape)) for name in self.before}
        drawn = {name: flatten_particles(value, shape, event_dim) for name, (value, event_dim) in values.items()}
        return own | resampled(log_weight, drawn)


def _checked(root: Root, name: str, value: Any, num: int, site: Any) -> Tensor:
    """A value in the shape ``[num, leaf, *event]`` and type of a site; the leaves that have it are checked."""
    what, latent, like = f"given[{name!r}]", root.latents[name], root._reference()
    if isinstance(value, Tensor) and not value.is_complex():
        found = value.detach()
    elif isinstance(value, bool) or checks.is_real(value):
        whole = isinstance(value, bool) or checks.is_integer(value)
        number, dtype = (int(value), None) if whole else (float(value), like.dtype)
        found = torch.tensor(number, dtype=dtype, device="cpu")
    else:
        given = str(value.dtype) if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise TypeError(f"{what} is {given}; a number, or a tensor of real numbers, is needed")
    shape = (num, root.num_leaves, *latent.event_shape)
    try:
        found = found.to(like.device).expand(shape)
    except RuntimeError:
        wanted = f"[num, leaf, *event], {list(shape)}"
        raise ValueError(f"{what} has shape {list(found.shape)}; it must broadcast to {wanted}") from None
    found = found.long() if found.dtype == torch.bool else found
    own = own_leaves(site["fn"])
    looked = found if own is None else found[:, own]
    inside = latent.support.check(looked)
    inside = inside.reshape(*inside.shape, *[1] * (looked.dim() - inside.dim())) & looked.isfinite()
    if not bool(inside.all()):
        entry = looked[~inside][0].item()
        raise ValueError(f"{what} holds {entry:g}, but values must be from {describe_support(latent.support)}")
    return found.to(site["value"].dtype)
