"""The README and the pages of `docs` tell the truth: every block of code runs, and every name in them exists."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest

import milepost
import milepost.checkpoint
from milepost import CheckpointStore
from milepost.cli import commands
from milepost.cli.exit_code import EXIT_CODES
from support.documentation import PAGES, README, TOP, blocks, name, sections, text
from support.recipes import KILLED, RECIPES
from support.warm import warm_commands, warm_pictures, warm_programs

if TYPE_CHECKING:
    from collections.abc import Iterator

API = text(TOP / "docs/reference/api.md")
PROMISES = text(TOP / "docs/guarantees.md")
LANGUAGES = {"python", "console", "sh", "shell", "json", "text", "ini", "sql"}
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


def _parts() -> Any:
    """docs/pages.py, which fills in what the site has from elsewhere."""
    spec = importlib.util.spec_from_file_location("docs_pages", TOP / "docs/pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The blocks


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name)
def test_every_block_runs_as_it_stands(page: Path, tmp_path: Path) -> None:
    """One after the other in one directory, every warning an error; an answer that is shown is the answer."""
    elsewhere = {block for heading in KILLED for block in sections(RECIPES)[heading]}
    for block in blocks(page):
        if block in elsewhere:
            continue
        if block.language == "python":
            run = _run_python(block.text, tmp_path)
            assert (run.returncode, run.stderr) == (0, ""), block.text
        elif block.language == "console":
            _run_console(block.text, tmp_path)


def test_every_recipe_that_is_not_run_here_is_killed_and_resumed() -> None:
    """In `tests/recipes`, which gives it what it needs."""
    tests = "".join(file.read_text(encoding="utf-8") for file in (TOP / "tests/recipes").glob("test_*.py"))
    assert [heading for heading in KILLED if f'"{heading}"' not in tests] == []


def _run_python(program: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own. One that imports milepost is forked from one that has done so: this alone is spared."""
    if re.search(r"^(?:from|import) milepost\b", program, re.MULTILINE):
        return warm_programs().run("-c", program, cwd=directory, env=_environment())
    return _run([sys.executable, "-W", "error", "-c", program], directory)


def _run_console(console: str, directory: Path) -> None:
    sessions = re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", console, re.MULTILINE)
    assert "".join(f"$ {command}\n{answer}" for command, answer in sessions) == console
    for command, answer in sessions:
        warm = warm_pictures() if re.match("milepost (plot|report) ", command) else warm_commands()
        milepost_ = f'milepost() {{ {warm.in_a_shell("milepost")} "$@"; }}\n'
        run = _run(["sh", "-c", milepost_ + command], directory)
        assert run.returncode == 0, (command, run.stderr)
        if "milepost" in command.split()[:1]:
            assert run.stderr == "", command
        if answer:
            assert run.stdout.split() == answer.split(), command


def _run(command: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=directory, env=_environment(), capture_output=True, text=True, check=False)


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_is_of_a_language_that_is_tested(page: Path) -> None:
    """`text` is a picture made of characters; the others are looked at below."""
    assert [block for block in blocks(page) if block.language not in LANGUAGES] == []
    assert text(page).count("```") == 2 * len(blocks(page))


def test_every_installation_names_extras_that_exist() -> None:
    """A `shell` block installs milepost, and does nothing else."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for page in PAGES:
        for block in blocks(page, "shell"):
            assert re.fullmatch(r'pip install ("?milepost(\[[a-z,]+\])?"?)\n', block.text)
        for extras in re.findall(r'pip install[^`\n]*"(?:milepost|\.)\[([a-z,]+)\]"', text(page)):
            assert set(extras.split(",")) <= set(project["optional-dependencies"]), name(page)


def test_the_line_of_an_export_is_the_one_that_is_exported(tmp_path: Path) -> None:
    """Character for character, from the file that the first program of the page makes."""
    page = TOP / "docs/reference/cli.md"
    _run_python(blocks(page, "python")[0].text, tmp_path)
    exported = warm_commands().run("-m", "milepost", "export", "orders.milepost", cwd=tmp_path)
    assert exported.stdout.startswith(blocks(page, "json")[0].text)


def test_the_program_of_the_readme_that_runs_a_second_time_is_told_that_its_run_has_finished(tmp_path: Path) -> None:
    """As the page says below it."""
    program = blocks(README, "python")[0].text
    assert _run_python(program, tmp_path).returncode == 0
    again = _run_python(program, tmp_path)
    assert again.returncode == 1
    assert again.stderr.splitlines()[-1].startswith("milepost.errors.RunFinishedError: ")
    assert "raises `RunFinishedError`" in text(README)


# The two commands of the README


def test_the_two_commands_do_all_the_set_up() -> None:
    """The first runs the demo, the second the tests; `.ci/run` runs both, word for word."""
    demo, tests = (block.text for block in blocks(README, "sh"))
    assert demo.startswith("python3 -m venv")
    assert demo.endswith("milepost demo\n")
    assert tests.startswith("python3 -m venv")
    assert tests.endswith("pytest -n auto\n")
    assert "README.md" in (TOP / ".ci/run").read_text(encoding="utf-8")


def test_every_command_of_another_page_is_one_of_continuous_integration() -> None:
    """What a contributor is told to run is what is run anyway."""
    known = (TOP / ".ci/run").read_text(encoding="utf-8") + text(README)
    for page in PAGES[1:]:
        for line in (line for block in blocks(page, "sh") for line in block.text.splitlines()):
            assert line in known, line


# Links and names


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    """Pictures, pages, and the headings in them; the site's own anchors are looked at by `mkdocs build --strict`."""
    for target, anchor in LINK.findall(re.sub(r"^```.*?^```$", "", text(page), flags=re.MULTILINE | re.DOTALL)):
        if "://" in target:
            continue
        file = page.parent / target if target else page
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in _anchors(_parts().filled(text(file), file.name)), f"{target}#{anchor}"


def _anchors(page: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower())).strip("-") for heading in headings}


def test_every_promise_names_tests_that_exist() -> None:
    """In its table and in those of the doses."""
    named = {found.removeprefix("tests/") for found in re.findall(r"[\w/]*test_\w+\.py", PROMISES)}
    assert len(named) > 20
    assert [found for found in named if not (TOP / "tests" / found).exists()] == []


def test_every_command_of_the_page_of_guarantees_chooses_tests() -> None:
    """A word after -k that is in no test's name would choose none, and pass."""
    chosen = [shlex.split(command) for command in re.findall(r"`pytest (tests/[^`]+)`", PROMISES)]
    assert len(chosen) > 30
    for command in chosen:
        words = re.findall(r"\w+", command[command.index("-k") + 1]) if "-k" in command else []
        files = [each for each in command if each.endswith(".py")]
        tests = "\n".join(re.findall(r"def (test_\w+)", "".join((TOP / each).read_text(encoding="utf-8") for each in files)))
        assert [word for word in words if word not in {"and", "or"} and word not in tests] == [], command


def test_every_file_that_a_page_names_is_there() -> None:
    """Names of tests, of vectors and of modules."""
    everything = {path.name for folder in ("src", "tests", "benchmarks", "examples") for path in (TOP / folder).rglob("*")}
    for page in PAGES:
        for found in re.findall(r"`[\w/]*?(\w+\.(?:py|ipynb)|vectors\.json)`", text(page)):
            assert found in everything | {"pages.py"}, f"{name(page)}: {found}"


def test_the_readme_of_a_package_index_has_no_link_that_leads_nowhere() -> None:
    """There is no repository around it, and no picture."""
    hooks = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["metadata"]["hooks"]
    shown = text(README)
    for each in hooks["fancy-pypi-readme"]["substitutions"]:
        shown = re.sub(each["pattern"], each["replacement"], shown)
    assert "](https://rogerbinns.github.io/apsw/)" in shown
    assert [target for target, _ in LINK.findall(shown) if not target.startswith("https://")] == []
    assert "![" not in shown


@pytest.mark.parametrize("word", ["thread", "asyncio", "rewind", "backfill", "permission", "rotate", "fork", "key"])
def test_a_reader_who_searches_for_a_word_finds_a_heading(word: str) -> None:
    """In the guide or in the recipes."""
    headings = re.findall(r"^##+ .*$", text(TOP / "docs/guide.md") + text(TOP / "docs/recipes.md"), re.MULTILINE)
    assert word in " ".join(headings).lower()


# The reference is complete


def test_the_reference_has_every_public_name() -> None:
    """Each has a place of its own, and the names of the contract's functions stand in their module."""
    named = re.findall(r"^::: (\S+)$", API, re.MULTILINE)
    assert len(set(named)) == len(named)
    assert {f"milepost.{public}" for public in milepost.__all__} <= set(named)
    functions = {key for key, _ in _public(milepost.checkpoint) if inspect.isfunction(getattr(milepost.checkpoint, key))}
    contract = {found.removeprefix("milepost.checkpoint.") for found in named if found.startswith("milepost.checkpoint.")}
    assert contract <= functions
    assert len(contract) == 11


def test_the_reference_has_every_public_method_of_the_store() -> None:
    """And no method that there is not."""
    named = set(re.findall(r"^::: milepost\.CheckpointStore\.(\w+)$", API, re.MULTILINE))
    assert named == {key for key, _ in _public(CheckpointStore)}


def _public(owner: object) -> Iterator[tuple[str, object]]:
    return ((key, value) for key, value in vars(owner).items() if not key.startswith("_"))


def test_the_reference_has_every_command_and_option() -> None:
    """As the site shows it: each command is a heading, with its options below."""
    page = _parts().filled(text(TOP / "docs/reference/cli.md"), "reference/cli.md")
    sections = dict(re.findall(r"^#+ `(milepost[^`]*)`\n(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL))
    found = dict(_commands(commands, "milepost"))
    assert set(sections) == set(found)
    for path, command in found.items():
        for parameter in command.params:
            for option in parameter.opts if isinstance(parameter, click.Option) else [parameter.human_readable_name]:
                assert option in sections[path], f"{path} {option}"


def test_the_page_of_the_command_line_tries_every_command() -> None:
    """The demo is left to the README, and `watch` needs a terminal."""
    tried = re.findall(r"^\$ milepost (\w+)", text(TOP / "docs/reference/cli.md"), re.MULTILINE)
    assert {*tried, "demo", "watch"} == set(commands.commands)


def _commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from _commands(inner, f"{path} {inner.name}")


def test_the_exit_codes_are_those_of_the_help() -> None:
    """Number for number, word for word."""
    page = _parts().filled(text(TOP / "docs/reference/cli.md"), "reference/cli.md")
    table = dict(re.findall(r"^\| (\d+) \| (.*) \|$", page, re.MULTILINE))
    assert table == dict(re.findall(r"^ +(\d+)  (.*)$", EXIT_CODES, re.MULTILINE))


def test_every_part_of_a_page_is_filled_in() -> None:
    """No page of the site is empty, and each part is used."""
    parts = _parts()
    used = set()
    for page in PAGES[1:]:
        used |= set(re.findall(r"^<!-- (\w+) -->$", text(page), re.MULTILINE))
        filled = parts.filled(text(page), page.relative_to(TOP / "docs").as_posix())
        assert filled.startswith("# "), name(page)
        assert "<!--" not in filled, name(page)
    assert used == set(parts.PARTS)
