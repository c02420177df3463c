"""The command line as a user types it: help, one sentence on a mistake, exit codes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from adapters import cli
from adapters.__main__ import main


def echo(text: str, times: int = 1, scale: float = 1.0, *, loud: bool = False) -> str:
    """Repeats a text.

    Args:
        text: What to say.
        times: How often.
        scale: A number.
        loud: In capitals.
    """
    if text == "interrupt":
        raise KeyboardInterrupt
    if text == "missing":
        raise FileNotFoundError("scan.nii.gz is not there:\n check the path")
    if text == "bug":
        raise RuntimeError("ours")
    return f"{(text.upper() if loud else text) * times} {scale}"


@pytest.fixture(autouse=True)
def echo_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.VERBS, "echo", echo)


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["echo", "--text", "a"], "a 1.0\n"),
        (["echo", "--text=a", "--times=3", "--loud"], "AAA 1.0\n"),
        (["echo", "--text", "7e2", "--scale", "7e2"], "7e2 700.0\n"),
        (["echo", "a", "2"], "aa 1.0\n"),
        (["echo", "--text", "a", "--loud=False"], "a 1.0\n"),
    ],
)
def test_options_are_read_as_annotated(arguments: list[str], printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(arguments)
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["fly"], "unknown verb 'fly', expected one of convert, phantom, demo"),
        (["echo"], "needs the option --text"),
        (["echo", "--text"], "--text needs a value"),
        (["echo", "--text", "a", "--time", "3"], "unknown option or value --time"),
        (["echo", "--text", "a", "--times", "x"], "--times is 'x', expected a whole number"),
        (["echo", "--text", "a", "--times", "1.5"], "--times is '1.5', expected a whole number"),
        (["echo", "--text", "a", "--scale", "x"], "--scale is 'x', expected a number"),
        (["echo", "--text", "a", "--loud=maybe"], "--loud is 'maybe', expected True or False"),
        (["echo", "a", "1", "1", "1", "1"], "unknown option or value 1"),
        (["echo", "missing"], "scan.nii.gz is not there: check the path"),
        (["phantom", "--output", "x", "--cases", "0"], "cases is 0"),
        (["convert", "--checkpoint", "nowhere.pth.tar", "--output", "x.pt"], "nowhere.pth.tar"),
    ],
)
def test_a_mistake_gives_one_sentence_and_exit_code_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert sentence in captured.err


@pytest.mark.parametrize("place", [0, 1, 2])
def test_debug_anywhere_shows_the_exception(place: int) -> None:
    arguments = ["echo", "missing"]
    arguments.insert(place, "--debug")
    with pytest.raises(FileNotFoundError, match="check the path"):
        main(arguments)


def test_a_mistake_of_ours_is_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="ours"):
        main(["echo", "bug"])


def test_interrupted(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["echo", "interrupt"])
    assert stop.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_alone_prints_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    printed = capsys.readouterr().out
    for name in ("convert", "phantom", "demo"):
        assert f"\n  {name} " in printed


@pytest.mark.parametrize("name", ["convert", "phantom", "demo"])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_verb_has_help(name: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([name, flag])
    printed = capsys.readouterr().out
    assert printed.startswith(f"NAME\n    python -m adapters {name} - ")


def test_as_a_process() -> None:
    done = subprocess.run([sys.executable, "-m", "adapters", "fly"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: unknown verb 'fly'")
    assert len(done.stderr.splitlines()) == 1
