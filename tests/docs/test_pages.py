"""The code of the written pages runs as it stands, page by page, and prints what they say."""

import importlib.util
import re
import sys
import tomllib
import types
import warnings
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(
    page
    for page in DOCS.rglob("*.md")
    if not {"_build", "examples", "benchmarks"} & set(page.relative_to(DOCS).parts)
)


INCLUDE = r"^```{include} (\S+)\n:start-after: (.*?)\n:end-before: (.*?)\n```"
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"[-+]?\d[\d.,]*(e[-+]?\d+)?")


def text(page):
    """Return a page with what it includes of others."""

    def included(match):
        whole = (page.parent / match[1]).read_text(encoding="utf-8")
        return whole.partition(match[2])[2].partition(match[3])[0]

    return re.sub(INCLUDE, included, page.read_text(encoding="utf-8"), flags=re.MULTILINE)


def blocks(page):
    """Return the blocks marked ```python, which run; a ```{code-block} python is there to be read."""
    return [code for kind, code in BLOCK.findall(text(page)) if kind == "python"]


def words(printed):
    """Return what was printed, but for numbers, which machines round, and spaces, as pages break lines."""
    return "".join(NUMBER.sub("0", printed).split())


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: str(p.relative_to(DOCS)))
def test_the_code_of_a_page_runs_and_prints_what_the_page_says(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    torch.manual_seed(0)
    # A module that can be imported, since torch's compiler looks the names of a function up in its own.
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # torch.func.jvp of torch 2.13 itself calls something it has deprecated.
        warnings.filterwarnings("ignore", ".*torch.jit.script.*", DeprecationWarning)
        for kind, block in BLOCK.findall(text(page)):
            if kind == "python":
                exec(compile(block, str(page), "exec"), vars(module))
            else:  # What all blocks since the last such one have printed.
                assert words(capsys.readouterr().out) == words(block)


def test_the_first_page_carries_the_ten_lines_of_the_readme():
    ten = blocks(DOCS / "index.md")[0]
    assert "for source, target in batches:" in ten
    assert ten in (DOCS.parent / "README.md").read_text(encoding="utf-8")


def test_the_citation_is_of_this_version():
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = re.escape(project["version"])
    citation = (DOCS.parent / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(rf"^version: {version}$", citation, flags=re.MULTILINE)
    assert re.search(rf"version = \{{{version}\}}", text(DOCS / "citing.md"))


def test_the_picture_of_the_layers_names_every_module():
    spec = importlib.util.spec_from_file_location("draw_layers", DOCS / "draw_layers.py")
    drawing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawing)
    package = DOCS.parent / "interpolants"
    modules = {path.stem for path in package.glob("*.py")} | {
        path.parent.name for path in package.glob("*/__init__.py")
    }
    picture = drawing.picture(drawing.layers())
    assert {name for name in modules - {"__init__"} if f">{name}</text>" not in picture} == set()


def test_every_example_is_short():
    for script in (DOCS / "examples").rglob("plot_*.py"):
        assert len(script.read_text(encoding="utf-8").splitlines()) < 80, script.name
