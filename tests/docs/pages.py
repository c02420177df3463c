"""Reading the pages in docs/, and doing what they show.

Blocks marked ``shell`` and ``python`` are run. Blocks marked ``bash`` are real commands that would take hours, a GPU or
a download: their verbs, options and files are checked. ``json``, ``text`` and the like are looked at only.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import monai.bundle
from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser
from monai.utils import set_determinism

from adapters import cli
from adapters.__main__ import main
from adapters.bundling import shell
from adapters.bundling.shell import Block
from tests.benchmarks import __main__ as benchmarks
from tests.benchmarks import where_time_goes

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
LANGUAGES = {"shell", "bash", "python", "json", "text"}
BENCHMARKS = {"tests.benchmarks": benchmarks.options, "tests.benchmarks.where_time_goes": where_time_goes.options}


def read(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(page: str, *languages: str) -> list[Block]:
    """The fenced blocks of a page in their order; of these languages only, if there are any given."""
    fenced = [block for block in shell.blocks(read(page)) if block.language != shell.INDENTED]
    return [block for block in fenced if not languages or block.language in languages]


def existing(file: str) -> str:
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no {file}")
    return file


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
        for statement in shell.statements(text):
            if name := shell.ASSIGNMENT.match(statement):
                value = bash(f'{statement}\nprintf %s "${name[1]}"', self.variables)
                self.variables[name[1]] = self.given.get(name[1], value)
            elif re.match(r"(python|torchrun) ", statement):
                words = bash(f"printf '%s\\0' {statement}", self.variables).split("\0")[:-1]
                shell.check_command(words, cli.VERBS, existing)
                module, *rest = words[words.index("-m") + 1 :]
                if module in BENCHMARKS:
                    BENCHMARKS[module]().parse_args(rest)
                if self.run:
                    self._start(words)
            elif self.run:
                bash(statement, self.variables)

    def _start(self, words: list[str]) -> None:
        module, *rest = words[words.index("-m") + 1 :]
        if module == "adapters":
            main(rest)
        elif module == "monai.bundle" and words[0] == "python" and rest[0] == "run":
            self._bundle(rest[1:])

    def _bundle(self, words: list[str]) -> None:
        run_id = words.pop(0) if not words[0].startswith("--") else "run"
        options = {name[2:]: DefaultParseValue(value) for name, value in zip(words[::2], words[1::2], strict=True)}
        parser = ConfigParser()
        parser.read_config(options["config_file"])
        small = {key: value for key, value in self.small.items() if key in parser.config and key not in options}
        try:
            monai.bundle.run(run_id=run_id, logging_file=False, **{**options, **small})  # type: ignore[arg-type]
        finally:
            set_determinism(None)


def do(page: str, user: Shell) -> dict[str, Any]:
    """Run all that a page shows, from its first line to its last; the names that its Python made."""
    names: dict[str, Any] = {}
    checked = Shell(run=False, variables=user.variables)
    for block in blocks(page):
        if block.language == "shell":
            user.type(block.text)
        elif block.language == "bash":
            checked.type(block.text)
        elif block.language == "python":
            exec(compile(block.text, page, "exec"), names)
        elif block.language == "json":
            json.loads(block.text)
    return names
