# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Parts of a model: made of their own options, and sized by the model that holds them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from typing_extensions import Self

from pyro_spvae.checks import is_positive, plain

_PLAIN = (bool, int, float, str, tuple)
# channels, height and width, or None where there are none
_SHAPES = ("patch", "input_shape", "output_shape", "map_shape")


class Part(nn.Module):
    """
    A module that is constructed with its own options; :meth:`bind` gives it its sizes, and only then are its
    parameters made.

    :class:`~pyro_spvae.models.SPVAE` binds the parts it is given, so that all parameters exist before the first step.
    Used alone a part takes the same sizes by hand, as in ``StandardNormal().bind(leaves=1, event_shape=(2,))``.
    Subclasses implement :meth:`build` with the sizes they need as keyword arguments; sizes that it does not name are
    not passed on to it.

    A part has a life cycle, of which each step does nothing by default: :meth:`connect` once all are bound,
    :meth:`start` once with training data, :meth:`look_at` with some of them before the first step, :meth:`advance`
    before each step of training, :meth:`before_validation` before each validation, :meth:`prepare_evaluation` once
    before figures are reported, which may rest on what :meth:`stated` says. The root walks over all parts inside it,
    so that no part hands calls on to its own.
    """

    _sizes: dict[str, Any] | None = None
    _arguments: dict[str, Any]
    _made: dict[str, Any]  # attributes of the arguments' names, as the constructor left them

    #: how many training rows :meth:`start` wants to see before the part is used; 0 once it has
    wanted_rows: int = 0

    #: scopes in which parameters do not change, so that what follows from them alone may be kept
    held_by: int = 0

    #: names of buffers that differ between processes, such as persistent chains; checkpoints keep those of each process
    process_buffers: tuple[str, ...] = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        part = super().__new__(cls)
        try:
            given = inspect.Signature(constructor_parameters(cls)).bind(*args, **kwargs)
        except TypeError:  # the constructor will say it, or the part is being copied
            return part
        given.apply_defaults()
        part.__dict__["_arguments"] = plain(dict(given.arguments))
        return part

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = _noted(cls.__init__)  # type: ignore[method-assign]

    def bind(self, **sizes: Any) -> Self:
        """
        Fixes the sizes and makes the parameters.

        :param sizes: at least the sizes that the part's ``build`` needs: ``leaves``, ``pixels``, ``inputs``, a size or,
            for networks of several inputs, a tuple of sizes; ``outputs``, a tuple of sizes; ``event_shape``, a tuple;
            ``latents``, what the leaf declares; ``channels``, of every leaf region, in whose patches pixels are in the
            order (channel, position); ``scopes``, for each leaf the tuple of the entries of a datum that its pixels
            are, ``None`` for padding; ``features``, how many the guide's networks see of a leaf; ``patch``,
            ``input_shape``, ``output_shape``, which are the channels, height and width of every leaf region, or
            ``None`` where leaf regions are not equal rectangles; and ``map_shape``, that of an input which is a map,
            flattened, or ``None`` for a vector.
        :returns: the part itself.
        :raises ValueError: if the part is bound already, or a size is not a positive integer.
        """
        name = type(self).__name__
        if self._sizes is not None:
            bound = ", ".join(f"{key}={value}" for key, value in self._sizes.items() if key != "scopes")
            raise ValueError(f"this {name} is bound already ({bound}); construct another one for another model")
        sizes = plain(sizes)
        for key, value in sizes.items():
            _check_size(name, key, value)
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

    def connect(
        self, posterior: Callable[[Tensor], Any], features: Callable[[Tensor], Tensor], mask: Tensor | None
    ) -> None:
        """
        Shows the part its surroundings, once all parts are bound; by default looks at nothing.

        :param callable posterior: the guide's distribution of the latent variable that has the leaf's prior, given
            features ``[.., leaf, feature]``; see :meth:`pyro_spvae.leaves.LeafGuide.posterior`.
        :param callable features: from data ``[rows, ..]`` to the features of their patches, ``[rows, leaf, feature]``.
        :param Tensor mask: features that are no padding, ``bool [leaf, feature]``, or ``None`` if none are.
        """

    def start(self, features: Tensor) -> None:
        """
        Starts from training data, once; by default looks at nothing. One that has a second argument ``mask`` also gets
        that of the features that are seen and no padding, ``bool`` of the same shape, or ``None`` if all are.

        :param Tensor features: those of at least :attr:`wanted_rows` training rows, what the guide's networks see,
            ``[rows, leaf, feature]``; 0 where not seen.
        """

    def start_at(self, patches: Tensor, mask: Tensor | None) -> None:
        """
        The same with the training rows themselves and what is missing from them; called behind :meth:`start`.

        :param Tensor patches: values ``[rows, leaf, pixel]``; 0 where not seen.
        :param Tensor mask: pixels that are seen and no padding, ``bool`` of the same shape, or ``None`` if all are.
        """

    @property
    def waits(self) -> bool:
        """Whether it has no distribution before :meth:`start`; by default as long as it wants rows."""
        return self.wanted_rows > 0

    def look_at(self, features: Tensor, mask: Tensor | None) -> None:
        """
        Sees training data before the first step, to warn of options that do not fit them; by default looks at nothing.
        Nothing that is computed may depend on it.

        :param Tensor features: of some training rows, what the guide's networks see, ``[rows, leaf, feature]``.
        :param Tensor mask: features that are seen and no padding, ``bool`` of the same shape, or ``None`` if all are.
        """

    def advance(self, progress: float) -> None:
        """
        Moves what training moves besides gradients, such as an inverse temperature or a chain; by default nothing.

        :param float progress: part of the steps that are done, from 0 to 1.
        """

    def before_validation(self) -> None:
        """
        Computes what a validation needs and no step does, at little cost, such as an estimate of a normaliser; in
        evaluation mode, with noise that is the same in every validation and process. By default nothing.
        """

    def prepare_evaluation(self) -> None:
        """Computes what reported figures need and no step does, such as a normaliser; by default nothing."""

    def stated(self) -> dict[str, float]:
        """
        Numbers that reported figures rest on and that are estimates or worth knowing, by name, such as a normaliser
        and its standard error; by default none.
        """
        return {}

    def release(self) -> None:
        """
        Forgets what was kept while :attr:`held_by` scopes of :func:`pyro_spvae.blocks.held` lasted, in which parameters
        do not change; by default there is nothing.
        """

    def of_earlier(self, state: dict[str, Any], prefix: str) -> None:
        """
        Completes, in place, a state that an earlier version of the package wrote, whose parts of this kind held other
        tensors; by default nothing is missing. Classes that do so also register :func:`of_earlier` as a hook of
        ``load_state_dict``.

        :param dict state: of all, or a part, of the model.
        :param str prefix: of the part's names in it.
        """

    def options(self) -> dict[str, Any]:
        """
        The arguments that the part was constructed with; an attribute of an argument's name that was set to something
        else since then stands in its place.

        :raises ValueError: if the constructor takes any number of arguments.
        """
        for parameter in constructor_parameters(type(self)):
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise ValueError(
                    f"{type(self).__name__} cannot be saved: its constructor takes {parameter}, where arguments with "
                    "names are needed"
                )
        found = dict(self.__dict__.get("_arguments", {}))
        made = self.__dict__.get("_made", {})
        return found | {name: now for name, now in self._attributes().items() if not _same(now, made.get(name))}

    def _attributes(self) -> dict[str, Any]:
        """Attributes of the arguments' names."""
        held = self.__dict__ | self._modules
        return {name: held[name] for name in self.__dict__.get("_arguments", {}) if name in held}


def of_earlier(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """A hook for ``register_load_state_dict_pre_hook``, see :meth:`Part.of_earlier`."""
    if isinstance(module, Part):
        module.of_earlier(state, prefix)


def _same(value: Any, other: Any) -> bool:
    return value is other or (isinstance(value, _PLAIN) and type(value) is type(other) and bool(value == other))


def _noted(constructor: Callable[..., None]) -> Callable[..., None]:
    """
    A constructor that is given Python's own numbers, and after which a part knows how it was left; that of a subclass
    is the last to end.
    """

    @functools.wraps(constructor)
    def construct(self: Part, *args: Any, **kwargs: Any) -> None:
        constructor(self, *plain(args), **plain(kwargs))
        if "_modules" not in self.__dict__:
            raise AttributeError(f"the constructor of {type(self).__name__} must call super().__init__()")
        self.__dict__["_made"] = self._attributes()

    return construct


def constructor_parameters(cls: type) -> list[inspect.Parameter]:
    """What the constructor of a class of parts takes; nothing if it has none of its own."""
    owner = next(base for base in cls.__mro__ if "__init__" in vars(base))
    if owner.__module__.partition(".")[0] in ("builtins", "pyro", "torch"):
        return []
    return list(inspect.signature(vars(owner)["__init__"]).parameters.values())[1:]


def _check_size(part: str, key: str, value: Any) -> None:
    sizes = isinstance(value, tuple) and bool(value) and all(map(is_positive, value))
    if key == "latents":
        if not isinstance(value, Mapping):
            raise ValueError(f"latents of {part} is {value!r}; a dict of the leaf's latent sites is needed")
    elif key == "scopes":
        if not isinstance(value, tuple) or not all(isinstance(scope, tuple) for scope in value):
            raise ValueError(f"scopes of {part} is {value!r:.80}; a tuple of entries for each leaf is needed")
    elif key in ("outputs", "event_shape") or (key == "inputs" and isinstance(value, Sequence)):
        if not (sizes or (key == "event_shape" and value == ())):
            raise ValueError(f"{key} of {part} is {value!r}; a tuple of positive integers is needed")
    elif key in _SHAPES:
        if value is not None and not (sizes and len(value) == 3):
            raise ValueError(
                f"{key} of {part} is {value!r}; channels, height and width as a tuple of positive integers, or "
                "None, are needed"
            )
    elif not is_positive(value):
        raise ValueError(f"{key} of {part} is {value!r}; a positive integer is needed")
