# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Values of latent variables as texts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

ACCEPTED = "SITE=NUMBER, such as c=2, or SITE=NUMBER,NUMBER,.. for a vector, or for one number a leaf"

_LONG = 60  # characters of a file name


def parse_given(texts: Sequence[str] | str | None, like: Tensor) -> dict[str, Any]:
    """
    Values of latent sites, as :meth:`pyro_spvae.models.SPVAE.sample` takes them.

    :param texts: such as ``["c=2", "z=0.5,-1"]``: a number, or a vector.
    :param Tensor like: of the model's type.
    :raises ValueError: if a text is something else, or a site is named twice.
    """
    found: dict[str, Any] = {}
    for text in _list(texts):
        site, sign, value = str(text).partition("=")
        site = site.strip()
        try:
            numbers = [_number(part) for part in value.split(",")]
        except ValueError:
            numbers = []
        if not sign or not site or not numbers:
            raise ValueError(f"given is {text!r}; accepted are {ACCEPTED}")
        if site in found:
            raise ValueError(f"given has two values of the site {site!r}; one is needed")
        found[site] = numbers[0] if len(numbers) == 1 else like.new_tensor(numbers)
    return found


def given_name(texts: Sequence[str] | str | None) -> str | None:
    """The same as part of a file name; ``None`` if nothing is given."""
    text = "-".join(re.sub(r"[^\w.+-]+", "-", "".join(str(one).split())) for one in _list(texts))
    if len(text) > _LONG:
        digest = hashlib.sha256("|".join(map(str, _list(texts))).encode()).hexdigest()
        text = f"{text[:_LONG]}-{digest[:8]}"
    return f"given-{text}" if text else None


def _list(texts: Sequence[str] | str | None) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts or ())


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)
