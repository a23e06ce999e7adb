# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Parts of a model that learn their sizes from the model that holds them."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn
from typing_extensions import Self

_SHAPES = ("patch", "input_shape", "output_shape")


class Part:
    """
    A part is constructed with its own options; :meth:`bind` gives it the sizes and only then are its parameters made.

    :class:`~pyro_spvae.models.SPVAE` binds the parts it is given, so that all parameters exist before the first step.
    Used alone a part takes the same sizes by hand, for example ``StandardNormal().bind(leaves=1, latent_dim=2)``.
    Subclasses implement :meth:`build` with the sizes they need as keyword arguments; sizes that it does not name are
    not passed on to it.

    A part that is to be saved keeps each argument of its constructor as an attribute of the same name, see
    :meth:`options`.
    """

    #: arguments of the constructor that only describe another one, which holds what they said (``hidden_dims`` of a
    #: network); they are not kept
    shorthands: tuple[str, ...] = ()

    _sizes: dict[str, Any] | None = None

    def bind(self, **sizes: int | tuple[int, ...] | None) -> Self:
        """
        Fixes the sizes and makes the parameters.

        :param sizes: at least the sizes that the part's ``build`` needs: ``leaves``, ``latent_dim``, ``pixels``,
            ``inputs``, a size or, for networks of several inputs, a tuple of sizes; ``outputs``, a tuple of sizes; and
            ``patch``, ``input_shape``, ``output_shape``, which
            are the channels, height and width of every leaf region, or ``None`` where leaf regions are not equal
            rectangles.
        :returns: the part itself.
        :raises ValueError: if the part is bound already, or a size is not a positive integer.
        """
        name = type(self).__name__
        if self._sizes is not None:
            bound = ", ".join(f"{key}={value}" for key, value in self._sizes.items())
            raise ValueError(f"this {name} is bound already ({bound}); construct another one for another model")
        for key, value in sizes.items():
            if key == "outputs" or (key == "inputs" and isinstance(value, tuple)):
                if not isinstance(value, tuple) or not value or not all(map(is_positive, value)):
                    raise ValueError(f"{key} of {name} is {value!r}; a tuple of positive integers is needed")
            elif key in _SHAPES:
                if value is not None and not _is_shape(value):
                    raise ValueError(
                        f"{key} of {name} is {value!r}; channels, height and width as a tuple of positive integers, or "
                        "None, are needed"
                    )
            elif not is_positive(value):
                raise ValueError(f"{key} of {name} is {value!r}; a positive integer is needed")
        parameters = inspect.signature(self.build).parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            sizes = {key: value for key, value in sizes.items() if key in parameters}
        self.build(**sizes)
        self._sizes = sizes
        return self

    @property
    def sizes(self) -> dict[str, Any]:
        """The sizes given to :meth:`bind`, of those that the part has use for."""
        if self._sizes is None:
            raise ValueError(f"this {type(self).__name__} has no sizes yet; pass it to a model, or call bind(...)")
        return self._sizes

    def build(self, *args: Any, **sizes: Any) -> None:
        """Makes the parameters for the given sizes."""
        raise NotImplementedError(f"{type(self).__name__} must define build(self, ...) with the sizes it needs")

    def options(self) -> dict[str, Any]:
        """
        The arguments that the part was constructed with: the attributes of their names (scikit-learn's convention).

        :raises ValueError: if an argument has no attribute, or the constructor takes any number of arguments.
        """
        found = {}
        for parameter in constructor_parameters(type(self)):
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise ValueError(
                    f"{type(self).__name__} cannot be saved: its constructor takes {parameter}, where arguments with "
                    "names are needed"
                )
            if parameter.name in self.shorthands:
                continue
            if not hasattr(self, parameter.name):
                raise ValueError(
                    f"{type(self).__name__} cannot be saved: its constructor takes {parameter.name!r}, but the object "
                    f"has no attribute of this name; keep the argument as self.{parameter.name}"
                )
            value = getattr(self, parameter.name)
            found[parameter.name] = list(value) if isinstance(value, nn.ModuleList) else value
        return found


def constructor_parameters(cls: type) -> list[inspect.Parameter]:
    """What the constructor of a class of parts takes; nothing if it has none of its own."""
    owner = next(base for base in cls.__mro__ if "__init__" in vars(base))
    if owner.__module__.partition(".")[0] in ("builtins", "pyro", "torch"):
        return []
    return list(inspect.signature(vars(owner)["__init__"]).parameters.values())[1:]


def check_part(name: str, part: Any, kind: type) -> None:
    """
    :raises TypeError: if the argument ``name`` is no instance of ``kind``.
    """
    if not isinstance(part, kind):
        given = f"the class {part.__name__}" if isinstance(part, type) else f"a {type(part).__name__}"
        raise TypeError(f"{name} is {given}; an instance of {kind.__name__} is needed")


def _is_shape(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and all(map(is_positive, value))


def is_positive(value: object) -> bool:
    """Whether a value is a positive integer."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
