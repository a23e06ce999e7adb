# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A model as plain values, and in files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from typing_extensions import Self

from pyro_spvae.checkpoint import read_checkpoint, write_checkpoint
from pyro_spvae.circuits import Circuit, RegionGraph
from pyro_spvae.data import Values
from pyro_spvae.locking import alone
from pyro_spvae.part import of_earlier
from pyro_spvae.queries.root import Root
from pyro_spvae.registry import build, describe, find, name_of

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.half)
}
_KEYS = ("root", "regions", "units", "leaves", "channels", "leaf", "guide", "dtype")
_OPTIONS = {"tie": "none", "weights": "full"}  # of the circuit, which an architecture names where they are others
_SCRIPTS = ("__main__", "__mp_main__")  # what the module that runs is called, in processes that it starts, too
_FILES = ("model.pt", "best.pt", "last.pt")  # in the order in which a folder is searched


class Storage(Root):
    """The part of :class:`~pyro_spvae.models.SPVAE` that writes and reads models.

    Example::

        >>> spvae = SPVAE(poon_domingos((4, 4), delta=2), units=2, likelihood=Bernoulli())
        >>> spvae.save("model")
        >>> again = SPVAE.load("model")
        >>> all(bool((own == other).all()) for own, other in zip(spvae.parameters(), again.parameters()))
        True
    """

    def architecture(self) -> dict[str, Any]:
        """
        What the model was made from, as plain values: its class, the region graph as its JSON text, the numbers of
        units, leaves and channels, leaf and guide as :func:`pyro_spvae.registry.describe` has them, and the
        floating-point type; the circuit's options ``tie`` and ``weights`` where they are not the defaults; and the
        kind of values that it is a density of, where that is known.

        :raises ValueError: if a part is a user's own and cannot be made anew from a description, or the circuit is.
        """
        if type(self.circuit) is not Circuit:
            raise ValueError(
                f"the circuit is a {type(self.circuit).__name__}, which cannot be described; use a Circuit"
            )
        regions = self.circuit.regions
        dtypes = {parameter.dtype for parameter in self.parameters()} or {torch.get_default_dtype()}
        if len(dtypes) > 1:
            raise ValueError(f"the parameters have the types {sorted(map(str, dtypes))}; one type is needed")
        event = self.view.event_shape
        return (
            {
                "root": name_of("root", type(self)),
                "regions": regions.to_json(),
                "units": self.circuit.units,
                "leaves": self.circuit.leaves,
                "channels": event[0] if len(event) > len(regions.shape) else None,
                "leaf": describe(self.leaf),
                "guide": describe(self.leaf_guide),
                "dtype": str(dtypes.pop()).removeprefix("torch."),
            }
            | {
                name: getattr(self.circuit, name)
                for name, default in _OPTIONS.items()
                if getattr(self.circuit, name) != default
            }
            | ({} if self.values is None else {"values": self.values.to_dict()})
        )

    @classmethod
    def from_architecture(cls, architecture: dict[str, Any]) -> Self:
        """
        A new model, on the CPU whatever torch's default device is, with parameters drawn anew; of the class that is
        described or of this one, whichever is a subclass of the other.

        A part that is a user's own is imported from its module.

        :param dict architecture: what :meth:`architecture` returned.
        :raises ValueError: if it is no architecture, or names a part that is not there or cannot be made.
        """
        if not isinstance(architecture, dict):
            raise ValueError(f"architecture is a {type(architecture).__name__}; a dict is needed")
        known = (*_KEYS, *_OPTIONS, "values")
        unknown = [key for key in architecture if key not in known]
        missing = [key for key in _KEYS if key not in architecture]
        if unknown or missing:
            what = f"has the unknown key {unknown[0]!r}" if unknown else f"lacks the key {missing[0]!r}"
            raise ValueError(f"architecture {what}; its keys are {', '.join(known)}")
        regions, dtype = architecture["regions"], architecture["dtype"]
        if not isinstance(regions, str):
            raise ValueError(f"regions is a {type(regions).__name__}; the JSON text of a region graph is needed")
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise ValueError(f"dtype is {dtype!r}; known are {', '.join(_DTYPES)}")
        for name in ("units", "leaves"):
            if type(architecture[name]) is not int:
                raise ValueError(f"{name} is {architecture[name]!r}; a positive integer is needed")
        if architecture["channels"] is not None and type(architecture["channels"]) is not int:
            raise ValueError(f"channels is {architecture['channels']!r}; a positive integer or None is needed")
        if not isinstance(architecture["root"], str):
            raise ValueError(f"root is {architecture['root']!r}; the name of a class of models is needed")
        kind: Any = find("root", architecture["root"])
        if issubclass(cls, kind):
            kind = cls  # such as a user's own class with further methods
        elif not issubclass(kind, cls):
            raise ValueError(f"the model is a {kind.__name__}, no {cls.__name__}; load it by {kind.__name__}.load")
        try:
            with torch.device("cpu"), _made_as(_DTYPES[dtype]):
                circuit = Circuit(
                    RegionGraph.from_json(regions),
                    architecture["units"],
                    architecture["leaves"],
                    **{name: architecture.get(name, default) for name, default in _OPTIONS.items()},
                )
                spvae = kind(
                    circuit,
                    leaf=build("leaf", architecture["leaf"]),
                    guide=build("guide", architecture["guide"]),
                    channels=architecture["channels"],
                )
                spvae.values = None if architecture.get("values") is None else Values.from_dict(architecture["values"])
                return cast(Self, spvae.to(_DTYPES[dtype]))
        except ValueError:
            raise  # a sentence already
        except Exception as error:  # sizes that do not fit into memory, values of a type that a part does not expect
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise ValueError(f"architecture describes a model that cannot be made ({reason})") from error

    def save(self, folder: str | os.PathLike[str]) -> None:
        """
        Writes the model to ``model.pt`` in a folder, from which :meth:`load` makes it anew.

        A part that is a user's own is found again by its module. One that is defined in the script that runs is so by
        this script alone, which a ``UserWarning`` says.

        :param folder: made if it is not there.
        :raises ValueError: if it cannot be written, or is that of a run, whose models training keeps; if the model has
            a part that cannot be described.
        """
        if all((Path(folder) / name).is_file() for name in ("config.json", "data.json")):
            raise ValueError(
                f"the folder {folder} is that of a run, whose best model is in its best.pt; save this one in another"
            )
        state = {"architecture": self.architecture(), "model": self.state_dict()}
        path = Path(folder)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"the folder {path} cannot be made: {error.strerror or error}") from error
        write_checkpoint(path / _FILES[0], state)
        warn_of_script(state["architecture"])

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], device: str | torch.device = "cpu", checkpoint: str | None = None
    ) -> Self:
        """
        The model that :meth:`save` or a training run wrote.

        Nothing that a file may hold is run. A part that is a user's own is imported from its module, which must be
        there as it was when the model was saved. Random generators stay as they are.

        :param path: a file, or a folder: then ``model.pt`` in it, else ``best.pt``, else ``last.pt``.
        :param device: where to put the parameters.
        :param str checkpoint: name of the file in the folder, such as ``"last.pt"``.
        :raises ValueError: if there is no such file, it is damaged or holds no model that can be made.
        """
        file = _find(Path(path), checkpoint)
        state = read_checkpoint(file)
        for key in ("architecture", "model"):
            if key not in state:
                raise ValueError(f"the file {file} holds no model: it has no {key!r}")
        with torch.random.fork_rng(devices=[]):  # initial parameters are drawn, for nothing
            try:
                spvae = cls.from_architecture(state["architecture"])
            except ValueError as error:
                raise ValueError(f"the model in {file} cannot be made: {error}") from error
        if isinstance(state["model"], dict):
            for name, module in spvae.named_modules():
                of_earlier(module, state["model"], f"{name}." if name else "")
        _check_fits(spvae.state_dict(), state["model"], file)
        spvae.load_state_dict(state["model"])
        try:
            spvae.to(device)
        except (RuntimeError, AssertionError, TypeError) as error:  # torch: not compiled with, no such device
            reason = str(error).partition("\n")[0]
            raise ValueError(f"device is {str(device)!r}, where the model cannot be put ({reason})") from error
        return spvae


def warn_of_script(architecture: Any, stacklevel: int = 2) -> None:
    """
    Warns, once for all of them, of classes in an architecture that are defined in the script that runs, so that no
    other program can make the model that is saved.

    :param dict architecture: see :meth:`Storage.architecture`.
    :param int stacklevel: as of :func:`warnings.warn`.
    """
    names = list(dict.fromkeys(_of_script(architecture)))
    if names:
        which = f"the classes {', '.join(names)} are" if len(names) > 1 else f"the class {names[0]} is"
        warnings.warn(
            f"{which} defined in the script that runs (__main__), so that no other program can load what is saved; "
            f"move {'them' if len(names) > 1 else 'it'} into a module that both import",
            UserWarning,
            stacklevel=stacklevel + 1,
        )


def _of_script(value: Any) -> Iterator[str]:
    """Classes of the script in a description: that of the root, and those of parts."""
    if isinstance(value, dict):
        for key, entry in value.items():
            if key in ("root", "class") and isinstance(entry, str) and entry.partition(":")[0] in _SCRIPTS:
                yield entry.partition(":")[2]
            else:
                yield from _of_script(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _of_script(entry)


def _find(path: Path, checkpoint: str | None) -> Path:
    if not path.is_dir():
        if checkpoint is not None:
            raise ValueError(f"checkpoint is {checkpoint!r}, but {path} is no folder")
        return path
    if checkpoint is not None:
        return path / (checkpoint if checkpoint.endswith(".pt") else f"{checkpoint}.pt")
    for name in _FILES:
        if (path / name).is_file():
            return path / name
    raise ValueError(f"the folder {path} holds no model: there is no {', '.join(_FILES)} in it")


def _check_fits(own: dict[str, Any], given: Any, file: Path) -> None:
    """Refuses parameters that are not those of the model, naming the first that differs."""
    if not isinstance(given, dict):
        raise ValueError(f"the file {file} holds no model: its parameters are a {type(given).__name__}, not a dict")
    wrong = f"the parameters in {file} are not those of its architecture"
    for name, value in own.items():
        if name not in given:
            if name.endswith("_extra_state"):  # which modules check themselves
                continue
            raise ValueError(f"{wrong}: {name} is missing")
        found = given[name]
        if not isinstance(value, Tensor):
            continue
        if not isinstance(found, Tensor):
            raise ValueError(f"{wrong}: {name} is a {type(found).__name__}, not a tensor")
        if found.shape != value.shape or found.dtype != value.dtype:
            raise ValueError(
                f"{wrong}: {name} has shape {list(found.shape)} and type {found.dtype}, where {list(value.shape)} and "
                f"{value.dtype} are needed"
            )
    for name in given:
        if name not in own:
            raise ValueError(f"{wrong}: there is no {name}")


@contextmanager
def _made_as(dtype: torch.dtype) -> Iterator[None]:
    """Within the block new parameters have this type, or float32 if it is a shorter one, which cannot be drawn."""
    with alone():
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype if dtype == torch.float64 else torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(before)
