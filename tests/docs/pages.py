"""Reading the pages in docs/, and doing what they show.

Blocks marked ``shell`` and ``python`` are run. Blocks marked ``bash`` are real commands that would take hours, a GPU or
a download: their verbs, options and files are checked. ``json``, ``text`` and the like are looked at only.
"""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import monai.bundle
from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser
from monai.utils import set_determinism

from adapters import cli
from adapters.__main__ import main
from tests.benchmarks import __main__ as benchmarks
from tests.benchmarks import where_time_goes

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
LANGUAGES = {"shell", "bash", "python", "json", "text"}
FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
ASSIGNMENT = re.compile(r"(\w+)=(?!=)")
BENCHMARKS = {"tests.benchmarks": benchmarks.options, "tests.benchmarks.where_time_goes": where_time_goes.options}
MONAI_OPTIONS = {*inspect.signature(monai.bundle.run).parameters} - {"args", "override"}


@dataclass(frozen=True)
class Block:
    language: str
    text: str


def read(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(page: str, *languages: str) -> list[Block]:
    """The fenced blocks of a page in their order; of these languages only, if there are any given."""
    found = [Block(kind.strip(), textwrap.dedent(text)) for _, kind, text in FENCE.findall(read(page))]
    return [block for block in found if not languages or block.language in languages]


def statements(text: str) -> Iterator[str]:
    """The commands of a shell block: continued lines and here-documents as one, without comments."""
    lines = iter(text.splitlines())
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        whole = line
        while whole.endswith("\\"):
            whole = whole[:-1] + next(lines)
        if end := re.search(r"<<'(\w+)'", whole):
            body = [next(lines)]
            while body[-1] != end[1]:
                body.append(next(lines))
            whole = "\n".join([whole, *body])
        yield whole.strip()


def bash(command: str, variables: Mapping[str, str]) -> str:
    done = subprocess.run(["bash", "-euc", command], env=dict(variables), text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


@dataclass
class Shell:
    """What a user has typed so far. Bash itself splits and expands; our programs then run in this process.

    Attributes:
        given: variables that the page cannot know, such as where the data are.
        small: ids for every `monai.bundle` run whose configuration has them, so that it takes seconds.
        run: False: commands are checked and not run.
    """

    given: Mapping[str, str] = field(default_factory=dict)
    small: Mapping[str, Any] = field(default_factory=dict)
    run: bool = True
    variables: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/bin:/bin"})

    def type(self, text: str) -> None:
        for statement in statements(text):
            if name := ASSIGNMENT.match(statement):
                value = bash(f'{statement}\nprintf %s "${name[1]}"', self.variables)
                self.variables[name[1]] = self.given.get(name[1], value)
            elif re.match(r"(python|torchrun) ", statement):
                words = bash(f"printf '%s\\0' {statement}", self.variables).split("\0")[:-1]
                self._ours(words)
            elif self.run:
                bash(statement, self.variables)

    def _ours(self, words: list[str]) -> None:
        module, *rest = words[words.index("-m") + 1 :]
        if module == "adapters":
            self._verb(rest)
        elif module == "monai.bundle":
            self._bundle(rest, with_run=self.run and words[0] == "python")
        elif module in BENCHMARKS:
            BENCHMARKS[module]().parse_args(rest)
        else:
            assert module == "venv", words

    def _verb(self, words: list[str]) -> None:
        if words:
            parameters = inspect.signature(cli.VERBS[words[0]]).parameters
            given = {re.sub(r"=.*", "", word[2:]).replace("-", "_") for word in words if word.startswith("--")}
            assert given <= {*parameters, "help", "debug"}, words
        if self.run:
            main(words)

    def _bundle(self, words: list[str], *, with_run: bool) -> None:
        command, *words = words
        if command != "run":
            assert hasattr(monai.bundle, command), command
            return
        run_id = words.pop(0) if not words[0].startswith("--") else "run"
        names, values = words[::2], words[1::2]
        assert len(names) == len(values), words
        assert all(name.startswith("--") for name in names), words
        options = {name[2:]: DefaultParseValue(value) for name, value in zip(names, values, strict=True)}
        files = options["config_file"]
        files = [files] if isinstance(files, str) else files
        parser = ConfigParser()
        parser.read_config(files)
        assert run_id in parser.config, f"{files} have no {run_id}"
        for name in options.keys() - MONAI_OPTIONS:
            # an option may add to a part that is there, but not make a new one
            assert name in parser.config or ("#" in name and parser[name.rpartition("#")[0]]), name
        if with_run:
            small = {key: value for key, value in self.small.items() if key in parser.config and key not in options}
            try:
                monai.bundle.run(run_id=run_id, logging_file=False, **{**options, **small})  # type: ignore[arg-type]
            finally:
                set_determinism(None)


def do(page: str, shell: Shell) -> dict[str, Any]:
    """Run all that a page shows, from its first line to its last; the names that its Python made."""
    names: dict[str, Any] = {}
    checked = Shell(run=False, variables=shell.variables)
    for block in blocks(page):
        if block.language == "shell":
            shell.type(block.text)
        elif block.language == "bash":
            checked.type(block.text)
        elif block.language == "python":
            exec(compile(block.text, page, "exec"), names)
        elif block.language == "json":
            json.loads(block.text)
    return names
