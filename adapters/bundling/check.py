"""What the Model Zoo verifies of a bundle, by MONAI's own means, and what nobody verifies but should be.

MONAI's: `verify_metadata`, `verify_net_in_out`, `convert_to_torchscript`, `ConfigWorkflow.check_properties`, and its
parser of references and locator of classes. Torch's: the strict loading of weights.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import monai_sam_adapters
from adapters.bundling.folders import find_bundle
from adapters.bundling.package import bundle_files, large_files
from adapters.bundling.readme import card_problems
from adapters.error_text import innermost, one_line
from adapters.files import cache_folder, file_hash, read_json

__all__ = ["CHECKS", "Finding", "check_bundle"]

LIBRARY = "monai-sam-adapters"
LARGEST = 25 * 2**20
"""Bytes above which the zoo wants a file in ``large_files.yml``."""

State = Literal["OK", "problem", "skipped"]

_NEEDED = (
    "configs/metadata.json",
    "configs/inference.json",
    "configs/train.json",
    "configs/logging.conf",
    "docs/README.md",
)
_NO_CONFIGURATIONS = {"metadata", "datalist"}
_HASHES = ("md5", "sha1", "sha256", "sha512")  # those that MONAI's download takes
_WEIGHTS = {"model": "inference", "model_auto": "inference_auto"}


@dataclass(frozen=True)
class Finding:
    """What came of one check; the message says what is right, or wrong and what to do, or why nothing was checked."""

    check: str
    state: State
    message: str

    def __str__(self) -> str:
        return f"{self.state:<8} {self.check}: {self.message}"


class _SkippedError(Exception):
    """The check cannot be made; the message says why."""


@dataclass
class _Bundle:
    """A bundle that is being checked, with its files as they were read first."""

    folder: Path
    schema: Path | None = None
    device: str = "meta"
    verbs: Mapping[str, Callable[..., Any]] | None = None

    def path(self, stem: str) -> Path:
        return self.folder / "configs" / f"{stem}.json"

    @cached_property
    def read(self) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """The JSON files of ``configs`` by stem, and what is wrong with those that cannot be read."""
        contents, problems = {}, []
        for path in sorted((self.folder / "configs").glob("*.json")):
            try:
                contents[path.stem] = _json(path)
            except (OSError, ValueError, UserWarning) as error:
                problems.append(f"configs/{path.name} cannot be read: {error}; correct it")
        return contents, problems

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        contents, problems = self.read
        if problems:
            raise _SkippedError(f"{problems[0].partition(' cannot')[0]} cannot be read")
        return contents

    @property
    def metadata(self) -> dict[str, Any]:
        if "metadata" not in self.files:
            raise _SkippedError("configs/metadata.json is not there")
        return self.files["metadata"]

    @property
    def configs(self) -> dict[str, dict[str, Any]]:
        """The configurations by stem."""
        return {stem: config for stem, config in self.files.items() if stem not in _NO_CONFIGURATIONS}

    @property
    def whole(self) -> dict[str, dict[str, Any]]:
        """Those that stand alone; the others are read after one of them."""
        return {stem: config for stem, config in self.configs.items() if "bundle_root" in config}

    def evaluable(self, stem: str) -> Path:
        """The path of a configuration whose expressions can be evaluated."""
        if stem not in self.configs:
            raise _SkippedError(f"configs/{stem}.json is not there")
        for version in _library_versions(self.configs[stem]):
            try:
                monai_sam_adapters.require(version)
            except (ImportError, ValueError):
                raise _SkippedError(f"the installed {LIBRARY} does not fit, see packages") from None
        for problems in _reference_problems(self, stem).values():
            if problems:
                raise _SkippedError(f"an id of configs/{stem}.json is not there, see ids")
        return self.path(stem)

    def network(self, stem: str, device: str = "meta") -> Any:
        """``network_def`` of a configuration; on the device ``meta`` it has no numbers in it."""
        import torch
        from monai.bundle import ConfigParser

        parser = ConfigParser()
        parser.read_config(str(self.evaluable(stem)))
        if "network_def" not in parser.config:  # type: ignore[operator]
            raise _SkippedError(f"configs/{stem}.json has no network_def")
        try:
            with torch.device(device):
                return parser.get_parsed_content("network_def").eval()
        except Exception as error:
            raise _SkippedError(f"network_def of configs/{stem}.json cannot be made, see network") from error


Check = Callable[[_Bundle], Iterator[str]]
CHECKS: dict[str, tuple[str, Check]] = {}
"""The checks by name, in their order: what is right when a check finds nothing, and what yields the problems."""


def _check(name: str, right: str) -> Callable[[Check], Check]:
    def register(function: Check) -> Check:
        CHECKS[name] = (right, function)
        return function

    return register


def check_bundle(
    bundle: str | os.PathLike,
    *,
    bundles: str | os.PathLike | None = None,
    schema: str | os.PathLike | None = None,
    device: str = "meta",
    verbs: Mapping[str, Callable[..., Any]] | None = None,
) -> list[Finding]:
    """Checks a bundle; nothing is written into it.

    The bundle's configurations are evaluated, which runs what is in them as code.

    Args:
        bundle: name of a folder in `bundles`, or the path of a bundle anywhere.
        bundles: a folder of bundles, as `find_bundle`.
        schema: the file of the metadata's schema. None: the address that the metadata name, kept in a cache.
        device: where the network is run once: "cpu" or "cuda:0" compute, "meta" follows shapes and types alone.
        verbs: the functions by which the commands of `python -m adapters` in the bundle's README are checked; None:
            they are not.

    Returns:
        For each check one finding, or one for each problem.

    Raises:
        FileNotFoundError: there is no such bundle, or no such schema.
        ValueError: there is no such device.
    """
    import torch

    folder = find_bundle(bundle, bundles)
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # torch says either of a device that it was not built for
        raise ValueError(
            f"device is {device!r}, expected meta, cpu or one that torch has ({one_line(error)})"
        ) from None
    path = None if schema is None else Path(schema).expanduser()
    if path is not None and not path.is_file():
        raise FileNotFoundError(
            f"there is no schema {str(path)!r}: leave it out to fetch the one that the metadata name"
        )
    checked = _Bundle(folder, path, device, verbs)
    findings = []
    with _quiet():
        for name, (right, check) in CHECKS.items():
            findings += list(_findings(name, check, checked)) or [Finding(name, "OK", right)]
    return findings


def _findings(name: str, check: Check, bundle: _Bundle) -> Iterator[Finding]:
    try:
        for problem in check(bundle):
            yield Finding(name, "problem", problem)
    except _SkippedError as reason:
        yield Finding(name, "skipped", str(reason))
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        message = f"a file has another form than expected ({one_line(error)}); correct what the other checks find"
        yield Finding(name, "problem", message)


# --- files, names, versions


@_check("files", "the files that the zoo and MONAI Label read are there, and the configurations are JSON")
def _files(bundle: _Bundle) -> Iterator[str]:
    yield from (f"{name} is not there: add it" for name in _NEEDED if not (bundle.folder / name).is_file())
    yield from bundle.read[1]


@_check("name", "the folder's name is one that the zoo and MONAI Label take, and metadata give a name to show")
def _name(bundle: _Bundle) -> Iterator[str]:
    name = bundle.folder.name
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        yield f"the folder is called {name!r}: use letters, digits and underscores, a letter first"
    if "_v" in name:
        yield f"the folder is called {name!r}, and the zoo takes what follows '_v' for the version: choose another name"
    clicks = "RequestToClicksd" in json.dumps(bundle.configs.get("inference", {}))
    if clicks and ("deepgrow" not in name or "deepedit" in name or "detection" in name):
        yield (
            f"the folder is called {name!r}, which MONAI Label does not take for a bundle with clicks: put 'deepgrow' "
            "into the name, and neither 'deepedit' nor 'detection'"
        )
    if not str(bundle.metadata.get("name") or "").strip():
        yield "configs/metadata.json has no name: add the one to show to users"


@_check("metadata", "configs/metadata.json fits the zoo's schema")
def _metadata(bundle: _Bundle) -> Iterator[str]:
    from jsonschema.exceptions import SchemaError, ValidationError, best_match
    from jsonschema.validators import validator_for
    from monai.bundle import verify_metadata

    url = bundle.metadata.get("schema")
    if not isinstance(url, str):
        yield "configs/metadata.json names no schema: add the address of the zoo's as 'schema'"
        return
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}_{url.rpartition('/')[2]}"
    path = bundle.schema or cache_folder() / "schemas" / name
    try:
        verify_metadata(
            meta_file=str(bundle.path("metadata")), filepath=path
        )  # fetches the schema where it is not there
    except SchemaError as error:
        raise _SkippedError(f"the schema is none ({one_line(error.message)}): give another with --schema") from None
    except Exception as error:
        if isinstance(error.__cause__, ValidationError):  # the first fault; the user is told all
            schema = json.loads(path.read_text(encoding="utf-8"))
            for fault in validator_for(schema)(schema).iter_errors(bundle.metadata):
                cause = best_match([fault])
                place = "#".join(map(str, cause.absolute_path)) or "the whole"
                yield f"configs/metadata.json does not fit the schema, {place}: {one_line(cause.message)}; correct it"
            return
        if bundle.schema:
            raise _SkippedError(f"{path} is no schema ({one_line(error)}): give another with --schema") from None
        path.unlink(missing_ok=True)
        raise _SkippedError(f"{url} cannot be fetched ({one_line(error)}): give a copy of it with --schema") from None


@_check("version", "the version is the newest of the changelog, and all versions are some")
def _version(bundle: _Bundle) -> Iterator[str]:
    from packaging.version import InvalidVersion, Version

    metadata = bundle.metadata
    version, changelog = metadata.get("version"), metadata.get("changelog")
    if not isinstance(changelog, dict) or version not in changelog:
        yield f"version {version!r} of configs/metadata.json is not in its changelog: say there what changed"
        changelog = {}
    try:
        newest = max(changelog, key=Version, default=version)
        if newest != version:
            yield f"version {version!r} of configs/metadata.json is older than {newest!r} in its changelog: raise it"
    except InvalidVersion as error:
        yield f"a version of the changelog in configs/metadata.json is none ({error}): use one such as 0.1.0"
    for name in ("version", "monai_version", "pytorch_version", "numpy_version"):
        try:
            Version(str(metadata.get(name)))
        except InvalidVersion:
            yield f"{name} of configs/metadata.json is {metadata.get(name)!r}: use a version such as 1.6.1"


@_check(
    "packages",
    "what the bundle needs is named and installed, and its configurations ask for the same version of the library",
)
def _packages(bundle: _Bundle) -> Iterator[str]:
    needed = bundle.metadata.get("required_packages_version")
    needed = needed if isinstance(needed, dict) else {}
    asked = {stem: set(_library_versions(config)) for stem, config in bundle.configs.items()}
    for package in needed:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield (
                f"required_packages_version of configs/metadata.json names {package!r}, which is not installed: "
                f"pip install {package}, or correct the name"
            )
    ours = needed.get(LIBRARY)
    for stem, versions in asked.items():
        if stem in bundle.whole and "adapters." in json.dumps(bundle.whole[stem]) and not versions:
            yield (
                f"configs/{stem}.json has no id library that requires {LIBRARY}, so a user without it is not told what "
                "to install: take it from another bundle"
            )
        if versions - {ours}:
            yield (
                f"configs/{stem}.json requires {LIBRARY} {', '.join(sorted(versions))}, and "
                f"required_packages_version of configs/metadata.json has {ours}: write the same version"
            )
    for version in set().union(*asked.values()):
        try:
            monai_sam_adapters.require(version)
        except (ImportError, ValueError) as error:
            yield one_line(str(error))


@_check("licence", "LICENSE is there")
def _licence(bundle: _Bundle) -> Iterator[str]:
    if not _text(bundle.folder / "LICENSE"):
        yield "LICENSE is not there or empty: add the licence of the bundle's code and weights"


@_check("data licence", "docs/data_license.txt says whose the data are")
def _data_licence(bundle: _Bundle) -> Iterator[str]:
    text = _text(bundle.folder / "docs" / "data_license.txt")
    unknown = json.loads((Path(__file__).parent / "tasks" / "own.json").read_text(encoding="utf-8"))["licence_text"]
    if not text:
        yield "docs/data_license.txt is not there or empty: say where the data come from, and their licence"
    elif unknown in text:
        yield "docs/data_license.txt is as new_bundle wrote it: say where the data come from, and their licence"


@_check("large files", "files of more than 25 MB are listed in large_files.yml, with address and checksum")
def _large_files(bundle: _Bundle) -> Iterator[str]:
    try:
        listed, names = large_files(bundle.folder), bundle_files(bundle.folder)
    except ValueError as error:
        yield str(error)
        return
    for name in names:
        size = (bundle.folder / name).stat().st_size
        if size > LARGEST:
            yield (
                f"{name} has {size / 1e6:.0f} MB, and the zoo takes no more than 25: offer it somewhere, and list "
                "path, url, hash_val and hash_type in large_files.yml"
            )
    for entry in listed:
        missing = [key for key in ("path", "url", "hash_val", "hash_type") if not entry.get(key)]
        if missing:
            yield f"large_files.yml: {entry.get('path', entry)} has no {', '.join(missing)}: add it"
            continue
        path = (bundle.folder / entry["path"]).resolve()
        if not path.is_relative_to(bundle.folder):
            yield f"large_files.yml: {entry['path']} lies outside the bundle: give a path inside it"
        elif entry["hash_type"] not in _HASHES:
            yield f"large_files.yml: hash_type of {entry['path']} is {entry['hash_type']!r}: use {', '.join(_HASHES)}"
        elif path.is_file() and file_hash(path, entry["hash_type"]) != entry["hash_val"]:
            yield f"large_files.yml: {entry['path']} has another {entry['hash_type']}: fetch it anew, or correct it"


# --- configurations


@_check("bundle_root", "the bundle works from any folder")
def _bundle_root(bundle: _Bundle) -> Iterator[str]:
    for stem, config in bundle.whole.items():
        root = config["bundle_root"]
        if not isinstance(root, str) or not (root.startswith("$") or os.path.isabs(root)):  # noqa: PTH117
            yield (
                f"bundle_root of configs/{stem}.json is {root!r}, which depends on the folder that a process starts "
                "in: write '$@library.bundle_root()'"
            )


@_check("ids", "every id that a configuration refers to is there")
def _ids(bundle: _Bundle) -> Iterator[str]:
    reported = set()
    for stem in bundle.configs:
        for together, problems in _reference_problems(bundle, stem).items():
            for problem in problems:
                if problem not in reported:
                    reported.add(problem)
                    yield f"{together}: {problem}"


@_check("targets", "every class and function that a configuration names is there")
def _targets(bundle: _Bundle) -> Iterator[str]:
    from pydoc import ErrorDuringImport, locate

    from monai.bundle.config_item import ComponentLocator

    known = ComponentLocator()

    def importable(name: str) -> bool:
        try:
            return bool(locate(name) if "." in name else known.get_component_module_name(name))
        except ErrorDuringImport:
            return False

    for stem, config in bundle.configs.items():
        names = set()
        for value in _walk(config):
            if isinstance(value, dict) and isinstance(value.get("_target_"), str):
                names.add(value["_target_"])
            elif isinstance(value, str) and value.startswith("$") and not value.startswith("$import"):
                names.update(re.findall(r"\badapters(?:\.\w+)+", value))
        for name in sorted(names):
            if not name.startswith("$") and not importable(name):
                yield f"configs/{stem}.json names {name}, which cannot be imported: correct the name"


@_check("labels", "metadata, requests and data lists call the label the same")
def _labels(bundle: _Bundle) -> Iterator[str]:
    try:
        pred = bundle.metadata["network_data_format"]["outputs"]["pred"]
        channels = {int(channel): str(name) for channel, name in pred["channel_def"].items()}
        count = pred["num_channels"]
    except (AttributeError, KeyError, TypeError, ValueError):
        yield "configs/metadata.json has no channel_def of the output pred: name its channels, '0': 'background', ..."
        return
    if count != len(channels) or sorted(channels) != list(range(len(channels))):
        yield (
            f"channel_def of the output pred in configs/metadata.json has the channels {sorted(channels)}, and "
            f"num_channels is {count}: name each of them"
        )
    names = [name for _, name in sorted(channels.items()) if name != "background"]
    for stem, config in bundle.configs.items():
        for value in _walk(config):
            given = value.get("label_names") if isinstance(value, dict) else None
            if isinstance(given, str) and given.startswith("@"):
                given = config.get(given[1:], given)
            listed = [given] if isinstance(given, str) else list(given or ())
            if given is not None and listed != names:
                yield (
                    f"label_names in configs/{stem}.json is {listed}, and channel_def in configs/metadata.json has "
                    f"{names}: use the same names"
                )
    values = bundle.configs.get("train", {}).get("label_values")
    for path in (*bundle.folder.glob("configs/datalist.json"), *sorted(bundle.folder.glob("datalists/*.json"))):
        try:
            labels = _json(path).get("labels")
        except (OSError, ValueError, UserWarning) as error:
            yield f"{path.relative_to(bundle.folder)} cannot be read: {error}; correct it"
            continue
        if isinstance(labels, dict):
            chosen = [str(value) for value in values] if isinstance(values, list) else [k for k in labels if k != "0"]
            called = [labels.get(value) for value in chosen]
            if called != names:
                yield (
                    f"labels of {path.relative_to(bundle.folder)} calls {', '.join(chosen)} {called}, and channel_def "
                    f"in configs/metadata.json has {names}: use the same names"
                )


@_check(
    "properties",
    "the configurations have the properties that MONAI requires for training and inference, and can be set up",
)
def _properties(bundle: _Bundle) -> Iterator[str]:
    from monai.bundle import ConfigWorkflow
    from monai.utils import BundleProperty, BundlePropertyConfig, set_determinism

    # no data, no weights, and results that nobody wants
    changes: dict[str, Any] = {"device": "cpu", "sam_checkpoint": None, "num_workers": 0}
    changes |= {f"{part}dataset#data": [{}] if part else [] for part in ("train#", "validate#", "")}
    for part in ("train", "validate"):
        changes |= {f"{part}#dataset#cache": "none", f"{part}#dataset#cache_rate": 0.0}
    for stem in bundle.whole:
        kind = next((kind for kind in ("train", "infer") if stem.startswith(kind)), None)
        if kind is None:
            continue
        path = bundle.evaluable(stem)
        workflow = ConfigWorkflow(config_file=str(path), workflow_type=kind, logging_file=False)
        properties = workflow.properties.values()
        required = [value[BundlePropertyConfig.ID] for value in properties if value.get(BundleProperty.REQUIRED)]
        if absent := [place.replace("::", "#") for place in required if place not in workflow.parser]:
            yield f"configs/{stem}.json lacks the ids {', '.join(absent)}, which MONAI requires: define them"
            continue
        with tempfile.TemporaryDirectory() as folder:
            changes |= dict.fromkeys(("dataset_dir", "ckpt_dir", "output_dir"), folder)
            workflow.parser.update({name: value for name, value in changes.items() if name in workflow.parser})
            try:
                workflow.initialize()
                wrong = workflow.check_properties()
            except Exception as error:
                yield f"configs/{stem}.json cannot be set up: {one_line(innermost(error))}; correct it"
                continue
            finally:
                set_determinism(None)
        if wrong:
            unknown = ", ".join(wrong)
            yield (
                f"configs/{stem}.json refers to {unknown} by ids that MONAI does not know: name them as MONAI's "
                "properties"
            )


# --- the network and its weights


@_check("network", "network_def takes one tensor and gives what metadata say")
def _network(bundle: _Bundle) -> Iterator[str]:
    from monai.bundle import verify_net_in_out

    config = bundle.evaluable("inference")
    formats = bundle.metadata.get("network_data_format", {})
    for part, tensor in (("inputs", "image"), ("outputs", "pred")):
        if tensor not in formats.get(part, {}):
            yield f"network_data_format of configs/metadata.json has no {part}#{tensor}: describe it"
            return
    try:
        verify_net_in_out(
            net_id="network_def", config_file=str(config), meta_file=str(bundle.path("metadata")), device=bundle.device
        )
    except Exception as error:
        yield (
            "network_def of configs/inference.json, called with one image tensor: "
            f"{one_line(innermost(error))}; make it agree with network_data_format in configs/metadata.json"
        )


@_check(
    "torchscript", "TorchScript takes network_def, or metadata give a reason (torchscript_exception) and it does not"
)
def _torchscript(bundle: _Bundle) -> Iterator[str]:
    from monai.networks import convert_to_torchscript

    if bundle.device == "meta":
        raise _SkippedError("the network is run to be recorded, and has no numbers: say --device cpu")
    metadata = bundle.metadata
    reason = str(metadata.get("torchscript_exception") or "").strip()
    network = bundle.network("inference", bundle.device)
    try:
        convert_to_torchscript(network)
    except Exception as error:
        if not reason:
            yield (
                f"TorchScript does not take network_def of configs/inference.json ({one_line(innermost(error))}): "
                "change the network, or give the reason as torchscript_exception in configs/metadata.json"
            )
    else:
        if "torchscript_exception" in metadata:
            yield (
                "TorchScript takes network_def of configs/inference.json, and configs/metadata.json has a "
                "torchscript_exception: take it out"
            )


@_check("weights", "the keys and shapes of the weights in models/ are those of the network")
def _weights(bundle: _Bundle) -> Iterator[str]:
    import torch

    from adapters.checkpoints.files import read_checkpoint
    from adapters.networks.description import check_finite

    files = {bundle.folder / "models" / f"{stem}.pt": config for stem, config in _WEIGHTS.items()}
    files = {path: config for path, config in files.items() if path.is_file()}
    if not files:
        raise _SkippedError(
            "models/model.pt is not there: start from SAM's (`python -m adapters init`), or train, convert or download "
            "weights"
        )
    for path, config in files.items():
        network = bundle.network(config)
        try:
            state = read_checkpoint(path)
        except ValueError as error:
            yield f"models/{path.name} cannot be read ({one_line(str(error))}): save a plain state dict with torch.save"
            continue
        if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
            yield f"models/{path.name} is no plain state dict: write the network's state_dict() with torch.save"
            continue
        try:
            check_finite(state)
            network.load_state_dict(state)
        except (RuntimeError, ValueError) as error:  # torch names the tensors
            faults = one_line(str(error).partition(":")[2] if isinstance(error, RuntimeError) else str(error))
            yield (
                f"models/{path.name} does not fit network_def of configs/{config}.json ({faults}); make the weights "
                "anew, or set variant and sizes of the network to theirs"
            )


@_check("README", "the commands in docs/README.md can be typed: verbs, options, files, ids and links are there")
def _readme(bundle: _Bundle) -> Iterator[str]:
    path = bundle.folder / "docs" / "README.md"
    if not path.is_file():
        raise _SkippedError("docs/README.md is not there")
    bundle.files  # noqa: B018  (skips where a configuration cannot be read)
    yield from card_problems(path.read_text(encoding="utf-8"), bundle.folder, bundle.verbs)


# --- parts of the checks


def _reference_problems(bundle: _Bundle, stem: str) -> dict[str, list[str]]:
    """For a configuration, with each that it is read after: the files together, and what is not there."""
    if stem in bundle.whole:
        return {f"configs/{stem}.json": _missing_ids(bundle, [stem])}
    kind = "inference" if stem.startswith("inference") else "train"
    problems_of = {}
    for base in (whole for whole in bundle.whole if whole.startswith(kind)):
        chains = [[base, stem]]
        if kind == "train" and stem != "evaluate" and "evaluate" in bundle.configs:
            chains.append([base, "evaluate", stem])
        problems, chain = min(((_missing_ids(bundle, chain), chain) for chain in chains), key=lambda pair: len(pair[0]))
        problems_of[" and ".join(f"configs/{name}.json" for name in chain)] = problems
    return problems_of


def _missing_ids(bundle: _Bundle, stems: Sequence[str]) -> list[str]:
    from monai.bundle import ConfigParser, ReferenceResolver

    parser = ConfigParser()
    try:
        parser.read_config([str(bundle.path(stem)) for stem in stems])
        parser.read_meta(bundle.metadata)
        parser.parse()
    except (KeyError, IndexError, ValueError) as error:
        return [f"an id that is changed or repeated is not there ({one_line(error)}): define it, or correct it"]
    items = parser.ref_resolver.items
    texts = {place: item.get_config() for place, item in items.items() if isinstance(item.get_config(), str)}
    return [
        f"{place} refers to @{name}, which is not there: define it, or correct it".replace("::", "#")
        for place, text in texts.items()
        for name in ReferenceResolver.match_refs_pattern(text)
        if name not in items
    ]


def _library_versions(config: Mapping[str, Any]) -> list[str]:
    """The versions of the library that a configuration requires."""
    return re.findall(r"\.require\('([^']*)'\)", str(config.get("library", "")))


def _json(path: Path) -> dict[str, Any]:
    from monai.utils.misc import check_key_duplicates

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a key that is there twice
        content = read_json(path, pairs=check_key_duplicates)
    if not isinstance(content, dict):
        raise ValueError(f"it holds {type(content).__name__}, expected an object")
    return content


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def _walk(value: Any) -> Iterator[Any]:
    """All values inside a configuration, itself first."""
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _walk(inner)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without MONAI's log lines and other people's warnings, which would drown the findings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
