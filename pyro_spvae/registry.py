# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
Names of parts, shared by the command line, configurations and saved models. Importing this does not import torch.

A part is written as a name or as ``package.module:Class``, with options in brackets: ``normal``,
``normal(min_scale=0.01)``, ``my_priors:Mixture(components=10)``; an option that is a part is written alike, with
``_`` for ``-``: ``hierarchical(second=joint(first=gated_conv(layers=small)))``. Naming a class of
one's own imports its module.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import re
import warnings
from keyword import iskeyword
from typing import Any

from pyro_spvae.checks import plain

# of an object that is of several kinds the first counts
_BASES = {
    "root": "pyro_spvae.queries.root:Root",
    "leaf": "pyro_spvae.leaves.leaf_model:LeafModel",
    "guide": "pyro_spvae.leaves.leaf_guide:LeafGuide",
    "prior": "pyro_spvae.priors.prior:Prior",
    "likelihood": "pyro_spvae.likelihoods.likelihood:Likelihood",
    "network": "pyro_spvae.nn.network:Network",
    "block": "pyro_spvae.blocks.block:Block",
    "estimator": "pyro_spvae.infer.estimators.estimator:Estimator",
    "smoothing": "pyro_spvae.distributions.smoothing:Smoothing",
}

_CLASSES = {
    "root": {
        "spvae": "pyro_spvae.models.spvae:SPVAE",
        "spn": "pyro_spvae.models.spn:SPN",
    },
    "leaf": {
        "vae": "pyro_spvae.models.vae:VAE",
        "hvae": "pyro_spvae.models.hvae:HVAE",
        "discrete-vae": "pyro_spvae.models.discrete_vae:DiscreteVAE",
        "dvaepp": "pyro_spvae.models.dvaepp:DVAEpp",
        "dlgmm": "pyro_spvae.models.dlgmm:DLGMM",
        "dldpmm": "pyro_spvae.models.dldpmm:DLDPMM",
        "sbvae": "pyro_spvae.models.sbvae:SBVAE",
        "factorized": "pyro_spvae.models.factorized:FactorizedLeaf",
        "gaussian": "pyro_spvae.models.gaussian:GaussianLeaf",
        "mixed": "pyro_spvae.models.mixed:MixedLeaf",
    },
    "guide": {
        "normal": "pyro_spvae.guides.normal:NormalGuide",
        "hierarchical": "pyro_spvae.guides.hierarchical:HierarchicalGuide",
        "mixture": "pyro_spvae.guides.mixture:MixtureGuide",
        "sticks": "pyro_spvae.guides.sticks:StickGuide",
        "discrete": "pyro_spvae.guides.discrete:DiscreteGuide",
        "dvaepp": "pyro_spvae.guides.dvaepp:DVAEppGuide",
        "mixed": "pyro_spvae.guides.mixed:MixedGuide",
        "none": "pyro_spvae.leaves.leaf_guide:LeafGuide",
    },
    "prior": {
        "standard-normal": "pyro_spvae.priors:StandardNormal",
        "mixture-of-gaussians": "pyro_spvae.priors:MixtureOfGaussians",
        "sticks": "pyro_spvae.priors:Sticks",
        "stick-breaking": "pyro_spvae.priors:StickBreaking",
        "vamp": "pyro_spvae.priors:VampPrior",
        "independent-bits": "pyro_spvae.priors:IndependentBits",
        "bit-chain": "pyro_spvae.priors:BitChain",
        "boltzmann-machine": "pyro_spvae.priors:BoltzmannMachine",
    },
    "likelihood": {
        "bernoulli": "pyro_spvae.likelihoods:Bernoulli",
        "beta": "pyro_spvae.likelihoods:Beta",
        "beta-binomial": "pyro_spvae.likelihoods:BetaBinomial",
        "binomial": "pyro_spvae.likelihoods:Binomial",
        "categorical": "pyro_spvae.likelihoods:Categorical",
        "columns": "pyro_spvae.likelihoods:Columns",
        "discretized-logistic": "pyro_spvae.likelihoods:DiscretizedLogistic",
        "discretized-logistic-mixture": "pyro_spvae.likelihoods:DiscretizedLogisticMixture",
        "gamma": "pyro_spvae.likelihoods:Gamma",
        "log-normal": "pyro_spvae.likelihoods:LogNormal",
        "low-rank-categorical": "pyro_spvae.likelihoods:LowRankCategorical",
        "negative-binomial": "pyro_spvae.likelihoods:NegativeBinomial",
        "normal": "pyro_spvae.likelihoods:Normal",
        "poisson": "pyro_spvae.likelihoods:Poisson",
        "student-t": "pyro_spvae.likelihoods:StudentT",
    },
    "network": {
        "mlp": "pyro_spvae.nn.mlp:MLP",
        "joint": "pyro_spvae.nn.joint:Joint",
        "conv": "pyro_spvae.nn.conv:Conv",
        "gated-conv": "pyro_spvae.nn.gated_conv:GatedConv",
        "pixelcnn": "pyro_spvae.nn.pixelcnn:PixelCNN",
        "multi-scale": "pyro_spvae.nn.multi_scale:MultiScale",
        "se-resnet": "pyro_spvae.nn.se_resnet:SEResNet",
    },
    "block": {
        "gaussian": "pyro_spvae.conditionals:Gaussian",
        "components": "pyro_spvae.conditionals:Components",
        "normal-components": "pyro_spvae.conditionals:NormalComponents",
        "kumaraswamy": "pyro_spvae.conditionals:Kumaraswamy",
        "pixels": "pyro_spvae.conditionals:Pixels",
        "normal-pixels": "pyro_spvae.conditionals:NormalPixels",
        "bits": "pyro_spvae.conditionals:Bits",
    },
    "estimator": {
        "vimco": "pyro_spvae.infer.estimators:VIMCO",
        "reinforce": "pyro_spvae.infer.estimators:Reinforce",
        "nvil": "pyro_spvae.infer.estimators:NVIL",
        "muprop": "pyro_spvae.infer.estimators:MuProp",
        "rebar": "pyro_spvae.infer.estimators:REBAR",
        "straight-through": "pyro_spvae.infer.estimators:StraightThrough",
        "concrete": "pyro_spvae.infer.estimators:Concrete",
    },
    "smoothing": {
        "exponential": "pyro_spvae.distributions.smoothing:OverlappingExponentials",
        "logistic": "pyro_spvae.distributions.smoothing:OverlappingLogistics",
        "power": "pyro_spvae.distributions.smoothing:PowerFunctions",
        "spike-and-exponential": "pyro_spvae.distributions.smoothing:SpikeAndExponential",
        "none": "pyro_spvae.distributions.smoothing:Unsmoothed",
    },
}

# what an option is called that is a part, where a bare word is its name
_OF_OPTIONS = {
    "prior": "prior",
    "likelihood": "likelihood",
    "smoothing": "smoothing",
    **dict.fromkeys(("network", "encoder", "decoder", "second", "conditional", "first"), "network"),
}

_WITH_KEYWORDS = [name for known in _CLASSES.values() for name in known if any(map(iskeyword, name.split("-")))]
_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def names(kind: str) -> tuple[str, ...]:
    """The names of a kind of part, such as ``leaf``, ``guide``, ``prior``, ``likelihood`` or ``network``."""
    return tuple(_classes(kind))


def parse(kind: str, text: str) -> tuple[str, dict[str, Any]]:
    """
    Reads a part as it is written on the command line.

    :returns: its name, or ``package.module:Class``, and its options.
    :raises ValueError: for an unknown name or options that are not literal keyword arguments.
    """
    if not isinstance(text, str):
        raise ValueError(f"{kind} is {text!r}; the name of a {kind} is needed")
    name, bracket, rest = text.strip().partition("(")
    name = name.strip()
    if name.replace("_", "-") in _classes(kind):  # a hyphen is no part of a word inside of brackets
        name = name.replace("_", "-")
    if name not in _classes(kind) and not _PATH.fullmatch(name):
        near = difflib.get_close_matches(name, names(kind), 1)
        hint = f"did you mean {near[0]}? " if near else ""
        known = f"known are {', '.join(names(kind))}, or package.module:Class"
        raise ValueError(f"{kind} is {name!r}; {hint}{known}")
    if not bracket:
        return name, {}
    wrong = ValueError(f"{kind} is {text!r}; options in brackets are written name=value, as in {name}(size=3)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's remarks on odd literals
            for own in _WITH_KEYWORDS:  # which no expression of Python can hold
                rest = rest.replace(own, own.replace("-", "_"))
            call = ast.parse(f"f({rest}", mode="eval").body
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
                raise wrong
            options = {keyword.arg: _value(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        raise wrong from None
    # None stands for "**", and the parser lets a name be given twice
    if None in options or len(options) < len(call.keywords) or not all(map(_is_plain, options.values())):
        raise wrong
    return name, {str(key): value for key, value in options.items()}


class PartText(str):
    """A part as the option of another one is written: its name, with its options in brackets."""


def _value(node: ast.expr) -> Any:
    """A literal; a bare word is a text, since shells take quotes away; a part, ``joint(first=conv(..))``; or lists."""
    text = _word(node)
    if text is not None:
        return text
    if isinstance(node, (ast.List, ast.Tuple)):
        entries = [_value(entry) for entry in node.elts]
        return entries if isinstance(node, ast.List) else tuple(entries)
    return ast.literal_eval(node)


def _word(node: ast.expr) -> str | None:
    """A word, with hyphens or without, or a part with its options; ``None`` for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
        words = (_word(node.left), _word(node.right))
        return None if None in words else "-".join(map(str, words))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and _kinds_of(node.func.id):
        return PartText(ast.unparse(node))
    return None


def _kinds_of(name: str) -> list[str]:
    """The kinds of part that have a name."""
    return [kind for kind, known in _CLASSES.items() if name.replace("_", "-") in known or _ends(name, known)]


def _ends(name: str, known: dict[str, str]) -> bool:
    return any(other.rpartition("-")[2] == name for other in known)


def _option(key: str, value: Any) -> Any:
    """The value of an option from what was written: a part of it is made."""
    if isinstance(value, (list, tuple)):
        return type(value)(_option(key, entry) for entry in value)
    if not isinstance(value, str):
        return value
    if key in _OF_OPTIONS:
        return make(_OF_OPTIONS[key], str(value))
    if not isinstance(value, PartText):
        return value
    kinds = _kinds_of(value.partition("(")[0])
    if len(kinds) > 1:
        raise ValueError(f"{key} is {str(value)!r}, the name of a {' and of a '.join(kinds)}; make the part in Python")
    return make(kinds[0], str(value))


def make(kind: str, text: str, **defaults: Any) -> Any:
    """
    Makes a part from its text.

    :param str kind: kind of part.
    :param str text: see :func:`parse`.
    :param defaults: options that the text does not give; those that the class does not take are left out.
    :raises ValueError: if there is no such class, it is of another kind, or does not take an option.
    """
    name, options = parse(kind, text)
    cls = find(kind, name)
    taken = _taken(cls)[0]
    options = {key: _option(key, value) for key, value in options.items()}
    usable = {key: value for key, value in defaults.items() if key in taken and key not in options}
    return _call(kind, name, cls, usable | options)


def find(kind: str, name: str) -> type:
    """
    The class of a name.

    :raises ValueError: if there is none, or it is no class of this kind.
    """
    path = _classes(kind).get(name, name)
    if not _PATH.fullmatch(path):
        parse(kind, name)  # says what is known
        raise ValueError(f"{kind} is {name!r}; a name without options is needed")
    try:
        cls: Any = _resolved(path)
    except (Exception, SystemExit) as error:  # a user's module may fail in any way
        script = path.startswith(("__main__:", "__mp_main__:"))
        reason = "a class of another script; define it in a module that both import" if script else _reason(error)
        raise ValueError(f"{kind} is {name!r}, which cannot be imported ({reason})") from None
    base_module, _, base_name = _BASES[kind].partition(":")
    base = _resolved(_BASES[kind])
    if not (isinstance(cls, type) and issubclass(cls, base) and (cls is not base or name in _classes(kind))):
        raise ValueError(f"{kind} is {name!r}; a subclass of {base_module}.{base_name} is needed")
    return cls


def name_of(kind: str, cls: type) -> str:
    """
    The registered name of a class, or ``package.module:Class``.

    :raises ValueError: if that does not lead to the class, which therefore cannot be found again.
    """
    path = f"{cls.__module__}:{cls.__qualname__}"
    registered = {_resolved(known): name for name, known in _classes(kind).items()}
    if cls in registered:
        return registered[cls]
    try:
        again: Any = find(kind, path)
    except ValueError:
        again = None
    if again is not cls:
        raise ValueError(
            f"a {cls.__name__} cannot be saved: {path} does not lead to its class; define it at the top level of a "
            "module"
        )
    return path


def _classes(kind: str) -> dict[str, str]:
    if kind not in _CLASSES:
        raise ValueError(f"kind is {kind!r}; known are {', '.join(_CLASSES)}")
    return _CLASSES[kind]


def _resolved(path: str) -> type:
    module, _, attributes = path.partition(":")
    found: Any = importlib.import_module(module)
    for attribute in attributes.split("."):
        found = getattr(found, attribute)
    return found


def kind_of(part: object) -> str | None:
    """The kind that an object is a part of, or ``None``."""
    for kind, path in _BASES.items():
        if isinstance(part, _resolved(path)):
            return kind
    return None


def describe(part: Any) -> dict[str, Any]:
    """
    A part as plain values: its kind, class and options, a part among the options being described alike.

    Options are the constructor's arguments, see :meth:`pyro_spvae.part.Part.options`: plain values, parts, and lists
    and dicts of them.

    :raises ValueError: if an option is anything else, or the class cannot be found again.
    """
    from pyro_spvae.part import Part

    kind = kind_of(part)
    if kind is None:
        raise ValueError(f"a {type(part).__name__} cannot be saved; it is no part of a model")
    taken: dict[str, Any] = part.options() if callable(part.options) else Part.options(part)  # an argument's name, too
    options = {key: _plain(type(part).__name__, key, value) for key, value in taken.items()}
    return {"kind": kind, "class": name_of(kind, type(part)), "options": options}


def written(part: Any) -> str:
    """
    A part as :func:`parse` reads it: its name, with the options that are not the default's in brackets; those that are
    no plain values are left out.
    """
    from pyro_spvae.part import Part, constructor_parameters

    kind = kind_of(part)
    assert kind is not None
    usual = {parameter.name: parameter.default for parameter in constructor_parameters(type(part))}
    options = {name: value for name, value in Part.options(part).items() if value != usual[name] and _is_plain(value)}
    text = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return name_of(kind, type(part)) + (f"({text})" if text else "")


def build(kind: str, description: Any) -> Any:
    """
    Makes a part anew from :func:`describe`. Only classes that are parts of the kind are called.

    :raises ValueError: if the description is not one, or names no class of this kind.
    """
    if not isinstance(description, dict) or not isinstance(description.get("options"), dict):
        raise ValueError(f"the description of a {kind} is {description!r:.80}; a dict with class and options is needed")
    name = description.get("class")
    if description.get("kind") != kind or not isinstance(name, str):
        raise ValueError(f"a {kind} is needed, but the description is of {description.get('kind')!r}")
    options = {str(key): _built(value) for key, value in description["options"].items()}
    return _call(kind, name, find(kind, name), options)


def _call(kind: str, name: str, cls: type, options: dict[str, Any]) -> Any:
    taken, needed, any_name = _taken(cls)
    unknown = [key for key in options if key not in taken]
    if unknown and not any_name:
        known = ", ".join(taken) or "none"
        raise ValueError(f"{kind} {name} has no option {unknown[0]}; its options are {known}")
    missing = [key for key in needed if key not in options]
    if missing:
        raise ValueError(f"{kind} {name} needs the option {missing[0]}, as in {name}({missing[0]}=...)")
    try:
        return cls(**options)
    except ValueError:
        raise  # a sentence already
    except Exception as error:  # a constructor may fail in any way on values of other types than it expects
        raise ValueError(f"{kind} {name} cannot be made with these options ({_reason(error)})") from error


def _taken(cls: type) -> tuple[list[str], list[str], bool]:
    """Names of the options that a class takes, of those that it needs, and whether it takes any others."""
    from pyro_spvae.part import constructor_parameters

    parameters = constructor_parameters(cls)
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    needed = [p.name for p in named if p.default is p.empty]
    return [p.name for p in named], needed, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _plain(name: str, key: str, value: Any) -> Any:
    if kind_of(value) is not None:
        return describe(value)
    if isinstance(value, (list, tuple)):
        entries = [_plain(name, key, entry) for entry in value]
        return entries if isinstance(value, list) else tuple(entries)
    if isinstance(value, dict) and all(isinstance(entry, str) for entry in value):
        return {str(own): _plain(name, f"{key}[{own!r}]", entry) for own, entry in value.items()}
    value = plain(value)
    if value is None or isinstance(value, bool):
        return value
    for own in (int, float, str):
        if isinstance(value, own):
            return own(value)  # enumerations are subclasses, which a checkpoint cannot hold
    raise ValueError(f"a {name} cannot be saved: its option {key} is a {type(value).__name__}, no plain value")


def _built(value: Any) -> Any:
    """The value of an option from its description."""
    if isinstance(value, dict):
        if value.keys() == {"kind", "class", "options"} and value["kind"] in list(_BASES):  # which may not be hashable
            return build(value["kind"], value)
        return {str(key): _built(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        entries = [_built(entry) for entry in value]
        return entries if isinstance(value, list) else tuple(entries)
    if not _is_plain(value):
        raise ValueError(f"an option is a {type(value).__name__}; a plain value or the description of a part is needed")
    return value


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str, PartText)


def _reason(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
