import importlib
import subprocess
import sys

import pytest

import interpolants

OPTIONAL = [
    "torchdiffeq",
    "torchsde",
    "scipy",
    "matplotlib",
    "sklearn",
    "PIL",
    "tyro",
    "tqdm",
    "accelerate",
    "safetensors",
    "torchvision",
]


def imported_by(statement):
    code = f"import sys\n{statement}\nprint(*(m for m in {OPTIONAL!r} if m in sys.modules))"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )


def test_importing_the_library_imports_torch_and_little_else():
    assert imported_by("import interpolants") <= imported_by("import torch")


@pytest.mark.parametrize("name", interpolants.__all__)
def test_public_names_resolve(name):
    assert getattr(interpolants, name) is not None
    assert name in dir(interpolants)


def test_public_names_are_unique():
    assert len(set(interpolants.__all__)) == len(interpolants.__all__)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("networks", "MLP"),
        ("training", "Trainer"),
        ("metrics", "wasserstein2"),
        ("metrics", "mmd"),
        ("oracles", "MixtureOracle"),
        ("samplers", "ODESampler"),
        ("losses", "Quadratic"),
    ],
)
def test_names_at_the_root_are_those_of_their_folders(module, name):
    folder = importlib.import_module(f"interpolants.{module}")
    assert getattr(interpolants, name) is getattr(folder, name)


def test_star_import_gives_every_public_name():
    names = {}
    exec("from interpolants import *", names)
    assert set(interpolants.__all__) <= set(names)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = interpolants.nonsense
    with pytest.raises(ImportError):
        exec("from interpolants import nonsense")
