"""What a bundle asks of the `ConfigWorkflow` that runs it: where it lies, and whether its options are meant."""

from __future__ import annotations

import atexit
import difflib
import inspect
import itertools
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from adapters.error_text import sentence

if TYPE_CHECKING:
    from monai.bundle import ConfigWorkflow

__all__ = ["bundle_root", "check_options", "check_values", "end_with_the_sentence", "leave_group", "literal"]

_EVALUATED = ("$", "@", "%")  # what MONAI's expressions, references and macros begin with
_WRITTEN = re.compile(r"output_dir|ckpt_dir|cache_dir")
_PATH = re.compile(r"\w+_dir|bundle_root|datalist|requests|checkpoint|sam_checkpoint|pretrained")


def bundle_root() -> str:
    """The folder of the bundle whose configuration is being read: the value of its id ``bundle_root``.

    ``monai.bundle.run`` and ``load`` make a `ConfigWorkflow`, which does not hand its file's path to the expressions in
    it. So the workflow is looked for among the callers. As for MONAI, the bundle is the folder above ``configs``, or
    the file's own folder where that has another name.

    Returns:
        The absolute path.

    Raises:
        ValueError: No workflow is among the callers, as when a `ConfigParser` alone reads the file: it keeps the
            content and forgets the path.
    """
    workflow = _calling_workflow()
    if workflow is None:
        raise ValueError(
            "bundle_root is not known here, because a ConfigParser does not keep the path of the file that it read: "
            "set it before anything is parsed, parser['bundle_root'] = '/path/to/the/bundle'"
        )
    folder = Path(workflow.config_root_path).absolute()
    return str(folder.parent if folder.name == "configs" else folder)


def check_options() -> None:
    """Makes sure that the running workflow was given no id which its configuration files do not have.

    MONAI adds such an option to the configuration, where nothing reads it. Without a workflow among the callers there
    is nothing to check. Arguments that are added to a component are left to the component.

    Raises:
        ValueError: An option is no id; the message names it, the nearest one, and those there are.
    """
    from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

    workflow = _calling_workflow()
    if workflow is None:
        return
    files = _config_files()
    ids = _ids(files or sorted(Path(workflow.config_root_path).glob("*.json")), whole=bool(files))
    # experiment tracking adds ids
    tracking: Any = DEFAULT_EXP_MGMT_SETTINGS
    optional = {key for settings in tracking.values() for key in settings["configs"]}
    for name in _unknown(workflow.parser.get(), {**dict.fromkeys(optional), "bundle_root": None, **ids}):
        raise no_such_id(name, ids, ", ".join(Path(file).name for file in files) or "this bundle")


def check_values() -> None:
    """Makes sure that the configuration which is being read has the texts and paths that it was given.

    MONAI turns every ``#`` of a value into ``::``, and fire, which reads the command line of ``monai.bundle``, takes it
    for the start of a comment, and ``2024_01`` for a number. So ``--output_dir 'study#3'`` would be another folder, and
    so would ``--output_dir=~/masks``, which shells do not expand.

    Raises:
        ValueError: A value was changed so, or a path is no text; the message names it.
    """
    if _monai_bundle_runs():
        _check_command_line(sys.argv[1:])
    parser = next(_callers("ConfigParser"), None)
    for name, value in _values(parser.get() if parser is not None else {}):
        if isinstance(value, str) and "::" in value and "://" not in value and not value.startswith(_EVALUATED):
            raise ValueError(
                f"{name} of the configuration is {value.replace('::', '#')!r}, and MONAI turns every '#' of a value "
                "into '::': choose a text without '#', or a link of another name"
            )
        if _PATH.fullmatch(name) and isinstance(value, (bool, int, float, tuple, set)):
            raise ValueError(
                f"{name} of the configuration is {value!r}, expected a path: on a command line begin it with ./ or /"
            )
        if _WRITTEN.fullmatch(name) and isinstance(value, str) and value.split("/")[0] == "~":
            raise ValueError(
                f"{name} of the configuration is {value!r}, and MONAI would make a folder of the name '~': write "
                f"{str(Path(value).expanduser())!r}"
            )


def literal(text: str) -> str:
    """A configuration's expression for a text, in which MONAI finds nothing to evaluate or to replace."""
    expression = repr(text)
    for mark in "#@%":
        expression = expression.replace(mark, f"\\x{ord(mark):02x}")
    return f"${expression}"


def _check_command_line(words: Sequence[str]) -> None:
    from fire.parser import DefaultParseValue

    for word, following in itertools.pairwise([*words, ""]):
        name, equals, value = word.partition("=")
        value = value if equals else following
        if not word.startswith("--") or value.startswith(("'", '"')):
            continue
        read = DefaultParseValue(value)
        if (isinstance(read, str) and read != value) or ("#" in value and "#" not in repr(read)):
            raise ValueError(f"{name} is {value!r}, which monai.bundle reads as {read!r}: choose another name")


def _values(content: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """All that is neither list nor object, with its id; metadata left out."""
    if isinstance(content, (Mapping, list)):
        pairs = content.items() if isinstance(content, Mapping) else enumerate(content)
        for key, value in pairs:
            if not str(key).startswith("_meta_"):
                yield from _values(value, f"{place}#{key}" if place else str(key))
    else:
        yield place, content


def no_such_id(name: str, content: Mapping[str, Any], where: str) -> ValueError:
    """The error for an option that is no id of a configuration's content; `where` names its files."""
    near = difflib.get_close_matches(name, list(_names(content)), 1)
    ids = ", ".join(key for key in content if not key.startswith("_") and key not in {"imports", "library"})
    return ValueError(
        f"{name!r} is no id of {where}.{f' Did you mean {near[0]!r}?' if near else ''} Expected one of {ids}."
    )


def end_with_the_sentence() -> None:
    """Where ``python -m monai.bundle`` runs: puts the error itself below its traceback, as the last line on the screen.

    MONAI wraps an error in others and prints hundreds of lines, of which the last does not say what was wrong.
    """
    if _monai_bundle_runs() and sys.excepthook is sys.__excepthook__:
        sys.excepthook = _say


def leave_group() -> None:
    """End a process of a distributed run when all have come so far.

    Where ``python -m monai.bundle`` runs, the process ends here, after what `atexit` knows: while Python tears itself
    down, a thread of gloo that lets go of a tensor aborts the process (torch 2.14), one run in ten on a busy machine.
    """
    import torch.distributed as dist

    dist.barrier()
    dist.destroy_process_group()
    if _monai_bundle_runs():
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(0)


def _monai_bundle_runs() -> bool:
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    return main is not None and main.name.startswith("monai.bundle")


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.__excepthook__(kind, error, trace)
    sys.stderr.write(f"\nerror: {sentence(error)}\n")


def _frames() -> Iterator[FrameType]:
    frame = inspect.currentframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def _callers(kind: str) -> Iterator[Any]:
    """The objects of one of monai.bundle's classes whose methods are running, the innermost first."""
    import monai.bundle

    for frame in _frames():
        caller = frame.f_locals.get("self")
        if isinstance(caller, getattr(monai.bundle, kind)):
            yield caller


def _calling_workflow() -> ConfigWorkflow | None:
    return next((each for each in _callers("ConfigWorkflow") if "config_root_path" in vars(each)), None)


def _config_files() -> list[str]:
    """The files that MONAI's `create_workflow`, and so ``monai.bundle run``, was given; none if it is no caller."""
    from monai.bundle import create_workflow

    for frame in _frames():
        if frame.f_code is create_workflow.__code__:
            files = frame.f_locals.get("config_file")
            return [files] if isinstance(files, str) else list(files or ())
    return []


def _ids(files: Sequence[str | Path], *, whole: bool) -> dict[str, Any]:
    """The content of files that go together or, of those that need not, their ids alone."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    if whole:
        parser.read_config(files)
        return dict(parser.get())
    return {key.partition("#")[0]: None for file in files for key in parser.load_config_file(file)}


def _unknown(given: Mapping[str, Any], known: Mapping[str, Any], place: str = "") -> Iterator[str]:
    for key, value in given.items():
        if key.startswith("_"):
            continue
        if key not in known:
            yield f"{place}{key}"
        elif isinstance(value, Mapping) and isinstance(known.get(key), Mapping) and "_target_" not in value:
            yield from _unknown(value, known[key], f"{place}{key}#")


def _names(ids: Mapping[str, Any], place: str = "") -> Iterator[str]:
    for key, value in ids.items():
        yield f"{place}{key}"
        if isinstance(value, Mapping):
            yield from _names(value, f"{place}{key}#")
