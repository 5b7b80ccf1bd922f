"""How Sphinx builds these pages: offline, every example executed, warnings as errors (`make docs`)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from importlib.metadata import version as version_of
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive

# One thread each: the examples run side by side, and their numbers do not depend on the machine's cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import draw_layers

from interpolants.fields.derived import DerivedField

draw_layers.write(HERE / "extending")

project = "interpolants"
author = "The interpolants authors"
copyright = f"2026, {author}"  # noqa: A001 - Sphinx's own word
release = version_of("interpolants")
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build", "examples", "**/README.md"]
nitpicky = True
# Of other projects, whose pages are not to be had offline.
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|numpy|np|scipy|matplotlib|PIL|sklearn|accelerate)\..*"),
    (r"py:.*", r"(pathlib|os|contextlib|collections|typing|abc)\..*"),
    (r"py:.*", r"(Tensor|nn|Path|Any|Figure|Axes|Generator|NDArray|Self)(\..*)?"),
    (r"py:class", "Paths"),  # of plotting.flow_figure, whose docstring says what it holds
]

# ---- Markdown
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
myst_dmath_double_inline = True

# ---- formulas, without the network: MathJax and its fonts lie beside the pages
mathjax_path = "mathjax/tex-chtml.js"
mathjax3_config = {"tex": {"macros": {"E": r"\mathbb{E}"}}}

# ---- reference
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "special-members": "__call__"}
# What `adapt` returns is of a class of its own, used as any other module is.
autodoc_type_aliases = {"Adapted": "torch.nn.Module"}
autosummary_generate = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_attr_annotations = False  # the signature has them
napoleon_custom_sections = ["Source"]
python_use_unqualified_type_names = True
python_display_short_literal_types = True
maximum_signature_line_length = 88
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

# ---- examples
suppress_warnings = ["config.cache"]  # sphinx_gallery_conf holds functions
sphinx_gallery_conf = {
    "examples_dirs": ["examples/idea", "examples/gallery"],
    "gallery_dirs": ["idea_scripts", "gallery"],
    "filename_pattern": r"/plot_",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "capture_repr": (),
    "doc_module": ("interpolants",),
    "reference_url": {"interpolants": None},
    "download_all_examples": False,
    "show_signature": False,
    "show_memory": False,
    "write_computation_times": False,
    "remove_config_comments": True,
    "min_reported_time": 1,
    "image_srcset": ["2x"],
    "matplotlib_animations": (True, "jshtml"),
    "junit": "../examples.xml",
    "parallel": 2,
}
warnings.filterwarnings("ignore", message=".*FigureCanvasAgg is non-interactive.*")

# ---- looks
html_theme = "furo"
html_title = "interpolants"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_favicon = "_static/favicon.svg"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def skip_member(app, what, name, member, skip, options):
    """Leave out what overrides a documented member without a word of its own: its base has the words."""
    function = getattr(member, "fget", getattr(member, "__func__", member))
    return True if callable(function) and function.__doc__ is None else None


def name_public_bases(app, name, member, options, bases):
    """Name the public class behind a base that is our own affair."""
    bases[:] = [base.__base__ if base is DerivedField else base for base in bases]


def list_benchmarks(app, name, source):
    """Give the generated list of benchmarks its place among the pages; its Markdown is read elsewhere too."""
    if name == "benchmarks/index":
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n*\n```\n"


def mend_signature(app, what, name, member, options, signature, returned):
    """Write as Python does what Sphinx does not: a default made anew each time, a call with any arguments."""
    for written, meant in (("<factory>", "..."), ("Callable[[...], ", "Callable[..., ")):
        signature, returned = (part and part.replace(written, meant) for part in (signature, returned))
    return signature, returned


class CommandHelp(Directive):
    """Show what a command prints for ``--help``, as it is when the page is built."""

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self):
        """Return the text as it stands, in 80 columns."""
        words = [sys.executable, "-m", "interpolants", *"".join(self.arguments).split(), "--help"]
        # Whatever the terminal and the locale of the build.
        environment = os.environ | {"COLUMNS": "80", "NO_COLOR": "1", "PYTHONUTF8": "1"}
        environment.pop("FORCE_COLOR", None)
        done = subprocess.run(words, env=environment, capture_output=True, encoding="utf-8", check=False)
        if done.returncode:
            raise self.error(f"{' '.join(words[1:])} failed: {done.stderr.strip()}")
        return [nodes.literal_block(done.stdout, done.stdout, language="none")]


def mend_links_of_sources(app, pagename, templatename, context, doctree):
    """Lead back from the pages of the sources to the name that a user imports, which viewcode cannot know."""
    objects = app.env.domains["py"].objects
    module = pagename.removeprefix("_modules/").replace("/", ".")

    def mended(match):
        parts = match[1].split(".")
        # What has no entry of its own, as a method inherited from a base, leads to the class that has one.
        for end in range(len(parts), 1, -1):
            for start in range(1, end):
                name = ".".join([module, *parts[start:end]])
                if name in objects:
                    return f'#{objects[name].node_id}"'
        return '"'

    if pagename.startswith("_modules/") and "body" in context:
        context["body"] = re.sub(r'#(interpolants\.[\w.]+)"', mended, context["body"])


def setup(app):
    """Called by Sphinx."""
    app.connect("html-page-context", mend_links_of_sources)
    app.add_directive("command-help", CommandHelp)
    app.connect("source-read", list_benchmarks)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("autodoc-process-signature", mend_signature)
    app.connect("autodoc-process-bases", name_public_bases)
