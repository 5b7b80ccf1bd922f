import subprocess
import sys

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from interpolants.data import load_density, shipped_density
from interpolants.data.draw_densities import heart
from interpolants.plotting import animate, figure, panel, save
from interpolants.plotting.style import array, even_hues


def drawn():
    drawing, ((axes,),) = figure()
    axes.plot([0, 1], [1, 3])
    return drawing


@pytest.mark.parametrize("ending", [".png", ".pdf"])
def test_the_same_figure_gives_the_same_bytes_and_no_leftovers(tmp_path, ending):
    first, again = (save(drawn(), tmp_path / f"{name}{ending}") for name in "ab")
    assert first.read_bytes() == again.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {f"a{ending}", f"b{ending}"}


def test_a_figure_can_be_saved_as_svg(tmp_path):
    assert "<svg" in save(drawn(), str(tmp_path / "a.svg")).read_text()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    class Broken:
        def savefig(self, path, metadata):
            path.write_bytes(b"half")
            raise RuntimeError("the disk is full")

    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="disk"):
        save(Broken(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_figure_without_a_place_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.png, \.pdf, \.svg, not as '\.bmp'"):
        save(drawn(), tmp_path / "figure.bmp")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        save(drawn(), tmp_path / "nowhere" / "figure.png")


def test_drawing_changes_no_setting_of_matplotlib(tmp_path):
    before = dict(matplotlib.rcParams)
    save(panel(torch.rand(2, 5, 2), [0.0, 1.0], bounds=(1.0, 1.0)), tmp_path / "panel.png")
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_hues_are_equally_light():
    colours = array(even_hues(torch.linspace(-3.14, 3.14, 60)))
    assert ((colours >= 0) & (colours <= 1)).all()
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    # Equal in OKLab is nearly equal in luminance; pure HSV hues would span 0.07 to 0.93.
    assert 0.18 < luminance.min() < luminance.max() < 0.35


def test_importing_the_folders_imports_no_drawing_package():
    code = (
        "import sys, interpolants.data.draw_densities, interpolants.metrics, interpolants.plotting\n"
        "sys.exit(', '.join({'matplotlib', 'PIL'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stderr.strip() == ""


def test_a_missing_package_names_its_extra(monkeypatch, tmp_path):
    trajectory = torch.rand(2, 5, 2)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'matplotlib: pip install "interpolants\[plot\]"'):
        figure()
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'PIL: pip install "interpolants\[plot\]"'):
        animate(trajectory, [0.0, 1.0], tmp_path / "points.gif", bounds=(1.0, 1.0))
    for read in (lambda: load_density(shipped_density("p0")), heart):
        with pytest.raises(ImportError, match=r'pillow: pip install "interpolants\[data\]"'):
            read()


def test_saved_pictures_are_on_a_white_ground(tmp_path):
    with Image.open(save(drawn(), tmp_path / "a.png")) as image:
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
