"""The reference names every public object once, and what it says of their arguments is true."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
# Not `config` and `cli`: they are the command line's, whose page shows what each command prints for --help.
FOLDERS = ("losses", "fields", "oracles", "samplers", "networks", "training", "data", "metrics", "plotting")
FILES = ("interpolant", "families", "gammas", "couplings", "checks")

# Documented beside the public names because public functions return them or the shell calls them.
BESIDES = {
    "interpolants.metrics.neighbours.PrecisionRecall",
    "interpolants.metrics.neighbours.DensityCoverage",
    "interpolants.metrics.neighbours.Copies",
    "interpolants.metrics.quality.Compared",
    "interpolants.cli.main",
}
BASE = "an abstract base, whose finals have one"
PROTOCOL = "says what must be written; what the library has of the kind shows it"
RECORD = "a record that the examples of what returns it show"
ERROR = "is raised, not called"
NO_EXAMPLE = {
    "interpolants.Divergence": BASE,
    "interpolants.Field": BASE,
    "interpolants.losses.Loss": BASE,
    "interpolants.losses.Target": BASE,
    "interpolants.losses.TimeLaw": BASE,
    "interpolants.fields.Diffusion": PROTOCOL,
    "interpolants.losses.Shard": PROTOCOL,
    "interpolants.oracles.Shape": PROTOCOL,
    "interpolants.training.Engine": PROTOCOL,
    "interpolants.Bound": RECORD,
    "interpolants.InterpolantSample": RECORD,
    "interpolants.Likelihood": RECORD,
    "interpolants.Pairs": RECORD,
    "interpolants.Trajectory": RECORD,
    "interpolants.losses.Draw": RECORD,
    "interpolants.losses.Estimate": RECORD,
    "interpolants.training.Step": RECORD,
    "interpolants.FieldUnavailable": ERROR,
    "interpolants.InterpolantError": ERROR,
    "interpolants.training.DamagedCheckpoint": ERROR,
    "interpolants.training.NonFiniteLoss": ERROR,
    "interpolants.metrics.image_quality": "the example of ImageQuality calls it",
}
# The arguments of these are described once, in the docstring of the base.
AS_THE_BASE = {"interpolants.Regression", "interpolants.Quadratic"}


def public_names(module):
    """Return the names a module offers, modules aside."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not inspect.ismodule(getattr(module, name))]
    own = [
        name for name, found in vars(module).items() if getattr(found, "__module__", "") == module.__name__
    ]
    return [name for name in own if not name.startswith("_")]


def public_objects():
    """Return every public object by the shortest name under which it is imported."""
    found = {}
    for place in ("interpolants", *(f"interpolants.{name}" for name in (*FOLDERS, *FILES))):
        module = importlib.import_module(place)
        for name in public_names(module):
            if not any(getattr(module, name) is other for other in found.values()):
                found[f"{place}.{name}"] = getattr(module, name)
    return found


OBJECTS = public_objects()
DESCRIBED = {
    name: found for name, found in OBJECTS.items() if inspect.isclass(found) or inspect.isroutine(found)
}
CLASSES = {name: found for name, found in DESCRIBED.items() if inspect.isclass(found)}


def sections(docstring):
    """Return the sections of a Google docstring by name, as lists of lines."""
    found, current = {}, None
    for line in inspect.cleandoc(docstring or "").splitlines():
        if re.fullmatch(r"(Args|Attributes|Returns|Yields|Raises|Example|Source|Note):", line):
            current = found.setdefault(line[:-1], [])
        elif line and not line.startswith(" "):
            current = None
        elif current is not None:
            current.append(line)
    return found


def named_in(docstring, section):
    """Return the names that a section describes."""
    lines = sections(docstring).get(section, [])
    return [match[1] for line in lines if (match := re.match(r" {4}\*{0,2}(\w+): \S", line))]


def arguments(function):
    """Return the names of the arguments a caller gives."""
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def constructed(found):
    """Return the arguments of a function or constructor; none where a user never calls it."""
    protocol = getattr(found, "_is_protocol", False)
    if inspect.isclass(found) and (
        protocol or issubclass(found, Exception) or found.__init__ is object.__init__
    ):
        return []
    return arguments(found)


def methods(found):
    """Return the public methods and properties that a class itself writes."""
    for name, member in vars(found).items():
        function = getattr(member, "fget", getattr(member, "__func__", member))
        if inspect.isfunction(function) and (not name.startswith("_") or name == "__call__"):
            yield name, function


def words_of(found, name):
    """Return the docstring of a method, or of the one it overrides."""
    bases = (vars(base)[name] for base in found.__mro__ if name in vars(base))
    return next((member.__doc__ for member in bases if member.__doc__), None)


def test_every_public_name_is_documented_once_and_nothing_else_is():
    text = "\n".join(page.read_text(encoding="utf-8") for page in sorted(REFERENCE.glob("*.md")))
    documented = re.findall(r"^\.\. auto\w+:: (\S+)$", text, flags=re.MULTILINE)
    assert sorted(documented) == sorted(OBJECTS.keys() | BESIDES)


def test_every_page_is_in_the_index():
    index = (REFERENCE / "index.md").read_text(encoding="utf-8")
    listed = re.search(r"```\{toctree\}\n(.*?)```", index, flags=re.DOTALL)[1].split()
    pages = {page.stem for page in REFERENCE.glob("*.md")} - {"index"}
    assert pages == {name for name in listed if not name.startswith(":") and not name.isdigit()}


def test_the_help_of_every_command_is_shown(capsys, monkeypatch):
    pytest.importorskip("tyro")
    from interpolants.cli import main

    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["--help"])
    commands = re.search(r"\{([\w,]+)\}", capsys.readouterr().out)[1].split(",")
    page = (REFERENCE / "command_line.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```\{command-help\} ?(\w*)$", page, flags=re.MULTILINE)
    assert sorted(shown) == sorted(["", *commands])


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_docstring_begins_with_a_sentence(name):
    first = inspect.cleandoc(DESCRIBED[name].__doc__ or "").split("\n\n")[0]
    assert re.match(r"[A-Z`(:]", first)
    assert first.endswith((".", ":")), first


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_docstring_has_an_example_unless_there_is_a_reason(name):
    has_one = ">>> " in "\n".join(sections(DESCRIBED[name].__doc__).get("Example", []))
    assert has_one != (name in NO_EXAMPLE)


@pytest.mark.parametrize("name", DESCRIBED)
def test_the_arguments_described_are_those_there_are(name):
    found = DESCRIBED[name]
    words = found.__mro__[1].__doc__ if name in AS_THE_BASE else found.__doc__
    described = named_in(words, "Args")
    # Of a record the attributes are the arguments.
    described = described or [each for each in named_in(words, "Attributes") if each in constructed(found)]
    assert described == constructed(found)


@pytest.mark.parametrize("name", CLASSES)
def test_every_method_says_what_it_does(name):
    silent = {method for method, _ in methods(CLASSES[name]) if not words_of(CLASSES[name], method)}
    assert silent <= set(named_in(CLASSES[name].__doc__, "Attributes"))


@pytest.mark.parametrize("name", CLASSES)
def test_a_method_that_lists_its_arguments_lists_all_and_no_others(name):
    for method, function in methods(CLASSES[name]):
        described = named_in(function.__doc__, "Args")
        assert not described or described == arguments(function), method
