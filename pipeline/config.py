"""Composing, overriding, building and comparing configs; with run.py the only place that imports Hydra.

A config becomes frozen objects here and nowhere else. Messages say the key: Hydra's own errors are turned into
``compression.quantize_weights.bits must be in [2, 32], but got 1.``
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import itertools
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from typing import cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.experiment import Experiment
from pipeline.export.program import Accumulator
from pipeline.fields import misfit

_INSTALLED, _CHECKOUT = Path(__file__).parent / "conf", Path(__file__).parent.parent / "conf"
CONF = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
EXPERIMENT_KEYS = ("data", "net", "learner", "compression", "plan", "accelerator", "seed", "counting")
"""What decides a trial's result: the fingerprint covers these and nothing else."""
LATER: dict[str, object] = {
    "counting": {"_target_": "pipeline.hardware.counting.Counting", "split": "validation", "samples": None},
    "accumulator": {"_target_": "pipeline.export.program.Accumulator", "bits": 32, "overflow": "saturate"},
}
"""Keys that configs of earlier studies lack, and what was done without them."""
FOLLOWERS = {
    "data.timesteps": ("net.timesteps",),
    "seed": ("compression.quantize_weights.seed", "compression.quantize_neurons.seed"),
}
"""Keys that repeat another in conf, as ``${seed}``: a plain config no longer says so, and a trial changes only one."""
FREE_KEYS = (
    "study.trials",
    "study.finalists",
    "study.compare",
    "workers",
    "storage",
    "tracking",
    "launcher",
    "hydra",
    "out",
    "proof",
)
"""What may change between two runs of one study."""
Plain = dict[str, object]


class ConfigError(ValueError):
    """A config that cannot be run; the message names the key and what is allowed."""


def compose(overrides: Sequence[str]) -> DictConfig:
    """The config that ``python -m pipeline.run OVERRIDES`` would run.

    Raises:
        ConfigError: an unknown key, group member or experiment.
    """
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra_compose("config", overrides=list(overrides))
    # A group set to null is a bare ValueError of Hydra.
    except (HydraException, ConfigCompositionException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(explain(error)) from error


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """Every combination of swept overrides (Hydra's ``a=1,2``, ``choice``, ``range``, ``glob``), the last fastest.

    Raises:
        ConfigError: an override that cannot be read, or a sweep without an end (``interval``).
    """
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
            choices = []
            for word, parsed in zip(overrides, parser.parse_overrides(list(overrides)), strict=True):
                if not parsed.is_sweep_override():
                    choices.append([word])
                    continue
                if not parsed.is_discrete_sweep():
                    raise ConfigError(
                        f"{word} has no list of values: give them, as in {parsed.key_or_group}=1,2."
                    )
                key = parsed.get_key_element()
                choices.append([f"{key}={value}" for value in parsed.sweep_string_iterator()])
    except HydraException as error:
        raise ConfigError(explain(error)) from error
    return [list(words) for words in itertools.product(*choices)]


def compose_job(overrides: Sequence[str]) -> DictConfig:
    """`compose`, with the unknown things said in the user's words: experiments listed, the nearest key named."""
    chosen = [o for o in overrides if o.lstrip("+").startswith("experiment=")]
    there = members("experiment", overrides)
    for given in chosen:
        name = given.partition("=")[2]
        if name not in there:
            raise ConfigError(
                f"there is no experiment {name!r}.{hint(name, there)} There are: {', '.join(there)}."
            )
    for key, value in (o.partition("=")[::2] for o in overrides):
        if value in ("", "null") and (there_are := members(key, overrides)):
            raise ConfigError(f"{key} must be one of {', '.join(there_are)}, but got {value or 'nothing'}.")
    if not any(o.startswith(("name=", "+name=")) for o in overrides) and not chosen:
        raise ConfigError(f"choose +experiment=NAME, one of: {', '.join(there)}.")
    try:
        return compose(overrides)
    except ConfigError:
        _name_unknown_keys(overrides)
        raise


def _name_unknown_keys(overrides: Sequence[str]) -> None:
    """Raise with the keys that are there, if some ``key=value`` names one that is not; else return."""
    folders = conf_folders(overrides)
    groups = {str(path.relative_to(top)) for top in folders for path in top.rglob("*") if path.is_dir()}
    pairs = [o.partition("=")[::2] for o in overrides]
    kept = {*groups, "hydra.searchpath"}
    base = compose([f"{key}={value}" for key, value in pairs if key.lstrip("+~") in kept])
    tree = cast(Plain, OmegaConf.to_container(base, resolve=False))
    for key, _ in pairs:
        if key.lstrip("+~") not in groups and not key.startswith(("+", "~", "hydra.")):
            override(tree, {key: None})


def hint(given: str, there: Iterable[str]) -> str:
    """`` Did you mean 'trials'?`` where one of the names that are there is near, else nothing."""
    near = get_close_matches(given, there, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def explain(error: BaseException) -> str:
    """A composition error in one paragraph, without Hydra's stack."""
    seen: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause).strip()
        if text and all(text not in earlier for earlier in seen):
            seen.append(text)
        cause = cause.__cause__
    return "\n".join(seen)


def plain(cfg: DictConfig) -> Plain:
    """Nested dicts and lists, every interpolation resolved."""
    try:
        resolved = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    return cast(Plain, resolved)


def override(config: Mapping[str, object], params: Mapping[str, object]) -> Plain:
    """A copy of a plain config with the dotted `params` put in; a path that is not there is refused.

    What repeats one of them in conf (`FOLLOWERS`), and has the same value here, takes the new one, too.
    """
    changed = deepcopy(dict(config))
    following = {
        follower: value
        for path, value in params.items()
        for follower in FOLLOWERS.get(path, ())
        if follower not in params and _at(config, path) == _at(config, follower) is not None
    }
    for path, value in {**params, **following}.items():
        *parents, leaf = path.split(".")
        node: object = changed
        for depth, key in enumerate(parents):
            node = _child(node, key, ".".join(parents[: depth + 1]), path)
        if not isinstance(node, dict) or leaf not in node:
            raise ConfigError(_no_such_path(path, node, leaf))
        node[leaf] = value
    return changed


def _at(config: Mapping[str, object], path: str) -> object:
    """The value at a dotted path, None where there is none."""
    node: object = config
    for key in path.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def _child(node: object, key: str, here: str, path: str) -> object:
    if isinstance(node, dict) and key in node:
        return node[key]
    raise ConfigError(f"search path {path!r}: " + _no_such_path(here, node, key))


def _no_such_path(path: str, node: object, key: str) -> str:
    if not isinstance(node, dict):
        return f"{path!r} leads into a value that has no keys ({node!r})."
    keys = ", ".join(k for k in node if k != "_target_")
    return f"the config has no key {path!r}.{hint(key, node)} The keys there are: {keys}."


def instantiate(node: object, key: str = "") -> object:
    """Objects for a plain config: every mapping with a ``_target_`` becomes that call, innermost first.

    Only classes and functions below ``pipeline`` or of an installed package named in full are called; unknown and
    missing keys are refused with the allowed ones.
    """
    if isinstance(node, Mapping):
        built = {str(k): instantiate(v, f"{key}.{k}".strip(".")) for k, v in node.items() if k != "_target_"}
        return _call(str(node["_target_"]), built, key) if "_target_" in node else built
    if isinstance(node, list | tuple):
        return tuple(instantiate(item, f"{key}[{i}]") for i, item in enumerate(node))
    return node


def _call(target: str, fields: Mapping[str, object], key: str) -> object:
    module, _, name = target.rpartition(".")
    try:
        factory = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ConfigError(f"{key}._target_ {target!r} cannot be imported: {error}") from error
    except (AttributeError, ValueError) as error:
        raise ConfigError(f"{key}._target_ must name an importable class, but got {target!r}.") from error
    allowed = [p for p in inspect.signature(factory).parameters if p != "self"]
    for given in fields:
        if given not in allowed:
            raise ConfigError(
                f"unknown key {key}.{given}.{hint(given, allowed)} The keys of {key} are: {', '.join(allowed)}."
            )
    refuse_misfits(factory, fields, f"{key}.")
    try:
        return factory(**fields)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{key}.{error}") from error
    except TypeError as error:
        raise ConfigError(f"{key}: {error}") from error


def refuse_misfits(factory: Callable[..., object], fields: Mapping[str, object], prefix: str = "") -> None:
    """Raise ``ConfigError("learner.epochs must be a whole number, but got 'x'.")`` for what `factory` does not take."""
    for name, value in fields.items():
        found = misfit(factory, name, value)
        if found is not None:
            got = textwrap.shorten(repr(found.value), 120)
            raise ConfigError(f"{prefix}{name}{found.key} must be {found.rule}, but got {got}.")


def build_experiment(config: Mapping[str, object]) -> Experiment:
    """The frozen objects of one trial.

    Raises:
        ConfigError: a value out of range, an unknown or a missing key; the message starts with the key.
    """
    refuse_misfits(Experiment, {"seed": config["seed"]})  # before the parts that repeat it
    parts = {key: instantiate(node, key) for key, node in decisive(config).items()}
    refuse_misfits(Experiment, parts)
    try:
        return Experiment(**parts)  # type: ignore[arg-type]
    except ValueError as error:
        raise ConfigError(str(error)) from error


def build_accumulator(config: Mapping[str, object]) -> Accumulator:
    """The register of a job's integer forms; the widest one where a study of an earlier version names none.

    Raises:
        ConfigError: ``accumulator.bits must be in [2, 32], but got 40.``, or an unknown key.
    """
    built = instantiate(config.get("accumulator", LATER["accumulator"]), "accumulator")
    if not isinstance(built, Accumulator):
        raise ConfigError(f"accumulator must have the keys bits and overflow, but got {built!r}.")
    return built


def decisive(config: Mapping[str, object]) -> Plain:
    """The part of a config that decides a trial's result, whole for configs of earlier studies, too."""
    whole = {**LATER, **config}
    return {key: whole[key] for key in EXPERIMENT_KEYS}


def fingerprint(config: Mapping[str, object], keys: Sequence[str] = EXPERIMENT_KEYS) -> str:
    """sha256 of the canonical JSON of `keys`: equal for equal trials, whoever resolved them and when.

    A key of `LATER` counts where it says something new: earlier studies go on with the results that they have.
    """
    chosen = {
        key: config[key] for key in keys if key not in LATER or config.get(key, LATER[key]) != LATER[key]
    }
    text = json.dumps(chosen, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def computed(config: Mapping[str, object]) -> Plain:
    """The config without the steps that its plan leaves out and without words that then say nothing (`Plan.plainest`).

    Trials that are one computation under several names are equal here: masks alone, whatever width the quantizer that
    never comes would have. A config that leaves nothing out, or cannot be built, is returned as it is.
    """
    try:
        built = build_experiment(config)
        plan, acting = built.plan.plainest(built.compression)
    except ValueError:
        return dict(config)
    families = {step.family for step in built.compression.values()} - {"prepare"}
    folds = any(built.compression[name].family == "prepare" for name in acting)
    # Of cumulative fine-tuning half of the epochs once had folding alone: not the training that it is now.
    alone = folds and built.plan.mode == "cumulative" and plan.mode == "joint"
    if not alone and families <= {built.compression[name].family for name in acting}:
        return dict(config)
    steps, words = cast(Plain, config["compression"]), cast(Plain, config["plan"])
    told = {name: getattr(plan, name) for name in ("scheme", "mode", "order", "epochs")}
    return {**config, "compression": {name: steps[name] for name in acting}, "plan": {**words, **told}}


def flatten(node: object, key: str = "") -> dict[str, object]:
    """Dotted paths and leaves; lists are leaves."""
    if isinstance(node, Mapping) and node:
        flat: dict[str, object] = {}
        for name, value in node.items():
            flat.update(flatten(value, f"{key}.{name}" if key else str(name)))
        return flat
    return {key: node}


def difference(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """Lines ``key: old -> new`` for what differs, apart from what may change between two runs of one study."""
    before, after = flatten({**LATER, **old}), flatten({**LATER, **new})

    def free(key: str) -> bool:
        return any(key == name or key.startswith(name + ".") for name in FREE_KEYS)

    missing = "(absent)"
    return [
        f"{key}: {before.get(key, missing)} -> {after.get(key, missing)}"
        for key in sorted(before.keys() | after.keys())
        if not free(key) and before.get(key, missing) != after.get(key, missing)
    ]


def conf_folders(overrides: Sequence[str] = ()) -> list[Path]:
    """The folders that configs come from: the package's own, and those of ``hydra.searchpath=[file://…]`` (or pkg://)."""
    folders = [CONF]
    for given in overrides:
        key, _, value = given.partition("=")
        if key.lstrip("+") == "hydra.searchpath":
            parts = (part.strip(" '\"") for part in value.strip("[]").split(","))
            folders += [found for part in parts if (found := _folder(part)) is not None]
    return folders


def _folder(address: str) -> Path | None:
    """``file://conf`` or ``pkg://mine.conf`` as a folder; None where there is no such package."""
    if not address.startswith("pkg://"):
        return Path(address.removeprefix("file://"))
    try:
        spec = importlib.util.find_spec(address.removeprefix("pkg://"))
    except ImportError:
        return None
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) if places else None


def members(group: str, overrides: Sequence[str] = ()) -> list[str]:
    """The YAML names in a config group, sorted."""
    return sorted({path.stem for top in conf_folders(overrides) for path in (top / group).glob("*.yaml")})


def header(name: str, line: str, overrides: Sequence[str] = ()) -> str:
    """What an experiment's header says on ``# Time`` (or another line); empty where it says nothing."""
    for top in conf_folders(overrides):
        path = top / "experiment" / f"{name}.yaml"
        if path.is_file():
            found = re.search(rf"^# {line} +(.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            return found.group(1).strip() if found else ""
    return ""
