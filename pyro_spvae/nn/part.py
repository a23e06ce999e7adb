# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Parts of a model that learn their sizes from the model that holds them."""

from __future__ import annotations

from typing import Any

from typing_extensions import Self


class Part:
    """
    A part is constructed with its own options; :meth:`bind` gives it the sizes and only then are its parameters made.

    :class:`~pyro_spvae.models.SPVAE` binds the parts it is given, so that all parameters exist before the first step.
    Used alone a part takes the same sizes by hand, for example ``StandardNormal().bind(leaves=1, latent_dim=2)``.
    Subclasses implement :meth:`build` with the sizes they need as keyword arguments.
    """

    _sizes: dict[str, int] | None = None

    def bind(self, **sizes: int) -> Self:
        """
        Fixes the sizes and makes the parameters.

        :param int sizes: the sizes that the part's ``build`` names (``leaves``, ``latent_dim``, ``pixels``).
        :returns: the part itself.
        :raises ValueError: if the part is bound already, or a size is not a positive integer.
        """
        name = type(self).__name__
        if self._sizes is not None:
            bound = ", ".join(f"{key}={value}" for key, value in self._sizes.items())
            raise ValueError(f"this {name} is bound already ({bound}); construct another one for another model")
        for key, value in sizes.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{key} of {name} is {value!r}; a positive integer is needed")
        self.build(**sizes)
        self._sizes = sizes
        return self

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes given to :meth:`bind`."""
        if self._sizes is None:
            raise ValueError(f"this {type(self).__name__} has no sizes yet; pass it to a model, or call bind(...)")
        return self._sizes

    def build(self, *args: Any, **sizes: Any) -> None:
        """Makes the parameters for the given sizes."""
        raise NotImplementedError(f"{type(self).__name__} must define build(self, ...) with the sizes it needs")
