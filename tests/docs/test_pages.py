"""The code of the written pages runs as it stands, page by page."""

import importlib.util
import re
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


def text(page):
    """Return a page with what it includes of others."""

    def included(match):
        whole = (page.parent / match[1]).read_text()
        return whole.partition(match[2])[2].partition(match[3])[0]

    return re.sub(INCLUDE, included, page.read_text(), flags=re.MULTILINE)


def blocks(page):
    """Return the blocks marked ```python, which run; a ```{code-block} python is there to be read."""
    return re.findall(r"^```python\n(.*?)^```", text(page), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: str(p.relative_to(DOCS)))
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    torch.manual_seed(0)
    names = {"__name__": "page"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # torch.func.jvp of torch 2.13 itself calls something it has deprecated.
        warnings.filterwarnings("ignore", ".*torch.jit.script.*", DeprecationWarning)
        for block in blocks(page):
            exec(compile(block, str(page), "exec"), names)


def test_the_first_page_carries_the_ten_lines_of_the_readme():
    ten = blocks(DOCS / "index.md")[0]
    assert "for source, target in batches:" in ten
    assert ten in (DOCS.parent / "README.md").read_text()


def test_what_a_page_says_is_printed_is_printed(capsys):
    code, expected = (
        re.search(
            rf"^```{kind}\n(.*?)^```", text(DOCS / "extending" / "contract.md"), re.DOTALL | re.MULTILINE
        )[1]
        for kind in ("python", "text")
    )
    exec(code, {})
    assert capsys.readouterr().out == expected


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
        assert len(script.read_text().splitlines()) < 80, script.name
