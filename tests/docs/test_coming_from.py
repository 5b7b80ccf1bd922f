"""What the pages say is the same in another library and here gives the same numbers in both."""

import importlib.util
import re
import warnings
from pathlib import Path

import pytest
import torch

PAGES = Path(__file__).parents[2] / "docs" / "coming_from"
PEERS = ["flow_matching", "torchcfm", "diffusers", "azula"]
BLOCK = re.compile(
    r"^```(?:python|\{code-block\} python\n:caption: (?P<caption>[^\n]*))\n(?P<code>.*?)^```",
    flags=re.DOTALL | re.MULTILINE,
)
HEADING = re.compile(r"^#+ (.*)$", flags=re.MULTILINE)


def blocks(peer):
    """Return the heading, the caption (None for ours) and the code of each block of a page."""
    text = (PAGES / f"{peer}.md").read_text(encoding="utf-8")
    return [
        (HEADING.findall(text[: block.start()])[-1], block["caption"], block["code"])
        for block in BLOCK.finditer(text)
    ]


def assigned(name, code):
    return re.search(rf"^ *(\w+(, | = ))*{name} = ", code, flags=re.MULTILINE) is not None


def run(peer, found):
    """Run the blocks of a page in their order; return the pairs, by heading, that they leave behind."""
    torch.manual_seed(0)
    names, pairs, theirs = {"__name__": "page"}, [], None
    for heading, caption, code in found:
        exec(compile(code, f"{peer}.md, {heading}", "exec"), names)
        if caption is not None and assigned("theirs", code):
            theirs = names["theirs"]
        elif theirs is not None and assigned("ours", code):
            pairs.append((heading, theirs, names["ours"]))
            theirs = None
    assert theirs is None, "the last block of the other library has no counterpart"
    return pairs


def compare(pairs):
    for heading, theirs, ours in pairs:
        # Single precision, up to 32 steps, points up to 30: roundings of 1.4e-5 were measured. A time that is
        # wrong by a thousandth, as near as some schedules come to their ends, shows as 1e-3.
        torch.testing.assert_close(
            theirs, ours, rtol=1e-5, atol=5e-5, msg=lambda text, heading=heading: f"{heading}: {text}"
        )


@pytest.mark.parametrize("peer", PEERS)
def test_every_block_of_another_library_has_a_counterpart(peer):
    found = [block for block in blocks(peer) if "theirs" in block[2] or "ours" in block[2]]
    theirs = [assigned("theirs", code) for _, caption, code in found if caption is not None]
    ours = [assigned("ours", code) for _, caption, code in found if caption is None]
    assert len(theirs) >= 5
    assert all(theirs)
    assert sum(ours) == len(theirs)
    named = {caption for _, caption, _ in blocks(peer) if caption is not None}
    assert all(peer in caption for caption in named)


@pytest.mark.parametrize("peer", PEERS)
def test_both_sides_of_a_page_agree(peer, tmp_path, monkeypatch):
    if importlib.util.find_spec(peer) is None:
        pytest.skip(f"{peer} is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Those of ours are errors in test_pages.py.
        compare(run(peer, blocks(peer)))
