import math
import os
import pickle
import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from interpolants.data import ImageFolder

RED, WHITE, BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)


def save(path, colour=RED, size=(20, 30), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def only(folder, **arguments):
    """The only image of a folder."""
    images = ImageFolder(folder, **{"size": 8, **arguments})
    assert len(images) == 1
    return images.batch(torch.tensor([0]))[0][0]


def colour_of(image):
    """The colour of an image that has one only, from 0 to 255."""
    pixels = (image + 1) * 127.5
    assert (pixels - pixels[:, :1, :1]).abs().max() < 0.5
    return tuple(round(float(value)) for value in pixels[:, 0, 0])


# ---- which files, which classes


def test_every_picture_below_a_folder_is_found(tmp_path):
    names = ["b.png", "a.JPG", "c.webp", "d.bmp", "e.jpeg", "f.gif", "g.tiff", "h.ppm"]
    for name in names:
        save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    save(tmp_path / ".hidden.png")
    save(tmp_path / ".thumbnails" / "a.png")
    images = ImageFolder(tmp_path, size=4)
    found, labels = images.batch(torch.arange(len(images)))
    assert found.shape == (8, 3, 4, 4)
    assert found.dtype == torch.float32
    assert images.shape == (3, 4, 4)
    assert labels is None
    assert images.labels is None
    assert images.classes is None
    assert images.class_names == ()
    assert images._files == tuple(sorted(names))


def test_subfolders_are_classes_in_the_order_of_their_names(tmp_path):
    for name, colour in (
        ("dog/1.png", BLACK),
        ("cat/x/2.png", RED),
        ("cat/1.png", WHITE),
        ("dog/0.png", BLACK),
    ):
        save(tmp_path / name, colour)
    (tmp_path / "empty").mkdir()
    images = ImageFolder(str(tmp_path), size=4)
    found, labels = images.batch(torch.tensor([3, 1, 0]))
    assert images.class_names == ("cat", "dog")
    assert images.classes == 2
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert labels.tolist() == [1, 0, 0]
    assert labels.dtype == torch.int64
    assert [colour_of(image) for image in found] == [BLACK, RED, WHITE]
    assert len(images.of_class(1)) == 2


def test_subfolders_may_be_no_classes(tmp_path):
    save(tmp_path / "cat/1.png")
    save(tmp_path / "2.png")
    with pytest.raises(ValueError, match=r"either all pictures or none .*; 2\.png lies in .*labelled=False"):
        ImageFolder(tmp_path, size=4)
    images = ImageFolder(tmp_path, size=4, labelled=False)
    assert len(images) == 2
    assert images.batch(torch.tensor([0]))[1] is None
    assert images.classes is None


def test_links_are_followed_but_not_in_circles(tmp_path):
    save(tmp_path / "elsewhere/1.png")
    top = tmp_path / "top"
    top.mkdir()
    (top / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(top)
    assert ImageFolder(top, size=4)._files == (os.path.join("cat", "1.png"),)


def test_a_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match=f"there is no picture below {tmp_path}"):
        ImageFolder(tmp_path, size=4)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        ImageFolder(tmp_path / "nowhere", size=4)
    with pytest.raises(NotADirectoryError, match=r"must be a folder of pictures; .*notes\.txt is a file"):
        ImageFolder(tmp_path / "notes.txt", size=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"size": 0}, "size must be at least 1"), ({"channels": 4}, "1, for gray, or 3")],
)
def test_a_form_that_no_image_has_is_refused(tmp_path, arguments, message):
    save(tmp_path / "1.png")
    with pytest.raises(ValueError, match=message):
        ImageFolder(tmp_path, **{"size": 4, **arguments})


def test_a_number_outside_is_refused(tmp_path):
    save(tmp_path / "1.png")
    for number in (-1, 1):
        with pytest.raises(IndexError, match=f"0 to 0; got {number}"):
            ImageFolder(tmp_path, size=4).batch(torch.tensor([number]))


def test_a_missing_pillow_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"ImageFolder needs pillow: pip install \"interpolants\[data\]\""):
        ImageFolder(tmp_path, size=4)


def test_a_folder_can_be_sent_to_another_process(tmp_path):
    save(tmp_path / "1.png")
    again = pickle.loads(pickle.dumps(ImageFolder(tmp_path, size=4)))
    assert colour_of(again.batch(torch.tensor([0]))[0][0]) == RED


# ---- from a picture to an image


def test_the_middle_square_is_taken(tmp_path):
    for name, size in (("wide", (50, 10)), ("tall", (10, 50))):
        pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
        (pixels[:, 20:30] if name == "wide" else pixels[20:30])[:] = 255
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "1.png")
        assert (only(tmp_path / name, size=10) == 1).all()
        assert (only(tmp_path / name, size=5) == 1).all()


def test_a_square_of_the_wanted_size_is_kept_exactly(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "1.png")
    found = only(tmp_path, size=16)
    assert torch.allclose(found, torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize("name", ["1.png", "1.jpg"])
def test_what_is_finer_than_a_pixel_becomes_gray(tmp_path, name):
    # A chequered pattern at the limit of what the picture can hold; nearest neighbours would keep it.
    pixels = (np.indices((128, 128)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / name)
    found = only(tmp_path, size=16, channels=1)
    assert found.abs().max() < 0.05


def test_a_smooth_picture_stays_what_it_is(tmp_path):
    ramp = np.tile(np.linspace(0, 255, 400).astype(np.uint8), (400, 1))
    Image.fromarray(ramp).save(tmp_path / "1.jpg", quality=95)
    found = only(tmp_path, size=20, channels=1)[0]
    centres = (torch.arange(20) + 0.5) / 10 - 1
    # The border mirrors the picture, and JPEG rounds.
    assert (found - centres)[:, 1:-1].abs().max() < 0.02


@pytest.mark.parametrize("size", [128, 64])
def test_a_large_jpeg_keeps_the_detail_that_fits(tmp_path, size):
    wave = np.tile(128 + 100 * np.sin(2 * np.pi * (np.arange(256) + 0.5) / 16), (256, 1))
    Image.fromarray(wave.round().astype(np.uint8)).save(tmp_path / "1.jpg", quality=95)
    found = only(tmp_path, size=size, channels=1)
    centres = (torch.arange(size) + 0.5) * (256 / size)
    wanted = 100 / 127.5 * torch.sin(2 * math.pi * centres / 16)
    # The filter passes three quarters of a wave of four pixels, and more of one of eight.
    assert (found * wanted).mean() > 0.7 * wanted.square().mean()


def test_gray_is_luminance_and_gray_pictures_may_be_coloured(tmp_path):
    save(tmp_path / "1.png", RED)
    # ITU-R 601 weights, rounded to 8 bits.
    assert colour_of(only(tmp_path, channels=1)) == (76,)
    save(tmp_path / "1.png", 100, mode="L")
    assert colour_of(only(tmp_path)) == (100, 100, 100)


def test_transparent_is_white(tmp_path):
    path = tmp_path / "1.png"
    save(path, (255, 0, 0, 0), mode="RGBA")
    assert colour_of(only(tmp_path)) == WHITE
    save(path, (255, 0, 0, 51), mode="RGBA")
    assert colour_of(only(tmp_path)) == (255, 204, 204)
    save(path, (0, 51), mode="LA")
    assert colour_of(only(tmp_path, channels=1)) == (204,)
    palette = Image.new("P", (8, 8), 7)
    palette.putpalette([0, 0, 99] * 256)
    palette.save(path, transparency=7)
    assert colour_of(only(tmp_path)) == WHITE


def test_sixteen_bits_are_rounded_to_eight(tmp_path):
    for value in (0, 257 * 100, 65535):
        Image.fromarray(np.full((9, 9), value, dtype=np.uint16)).save(tmp_path / "1.png")
        assert colour_of(only(tmp_path)) == (round(value / 257),) * 3


def test_printing_colours_and_palettes_are_converted(tmp_path):
    save(tmp_path / "cmyk" / "1.jpg", (0, 0, 0, 0), mode="CMYK")
    assert colour_of(only(tmp_path / "cmyk")) == WHITE
    save(tmp_path / "cmyk" / "1.jpg", (0, 0, 0, 255), mode="CMYK")
    assert colour_of(only(tmp_path / "cmyk")) == BLACK
    save(tmp_path / "bits" / "1.png", 1, mode="1")
    assert colour_of(only(tmp_path / "bits")) == WHITE


def test_a_moving_picture_is_its_first(tmp_path):
    first, second = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), BLACK)
    first.save(tmp_path / "1.gif", save_all=True, append_images=[second])
    assert colour_of(only(tmp_path)) == RED


def test_a_picture_is_turned_as_its_camera_says(tmp_path):
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned clockwise by a quarter.
    Image.fromarray(pixels).save(tmp_path / "1.png", exif=exif)
    found = only(tmp_path, size=16, channels=1)[0]
    assert (found[:, 8:] == 1).all()
    assert (found[:, :8] == -1).all()


# ---- broken pictures


def broken_at(folder, *broken, n=6):
    """A folder of pictures whose gray level is ten times their number, some of them cut off."""
    for k in range(n):
        path = save(folder / f"{k}.png", 10 * k, mode="L")
        if k in broken:
            path.write_bytes(path.read_bytes()[:40])
    return ImageFolder(folder, size=4, channels=1)


def levels(images, *index):
    found, _ = images.batch(torch.tensor(index))
    return [colour_of(image)[0] for image in found]


def test_a_broken_picture_is_reported_once_and_the_next_takes_its_place(tmp_path):
    images = broken_at(tmp_path, 2, 5)
    with pytest.warns(
        UserWarning, match=r"2\.png cannot be read: .*; another picture takes its place"
    ) as warned:
        assert levels(images, 1, 2, 3, 2) == [10, 30, 30, 30]
    assert len(warned) == 1
    assert warned[0].filename == __file__
    # Warnings are errors here, so that nothing is reported again.
    assert levels(images, 2) == [30]
    with pytest.warns(UserWarning, match=r"5\.png"):
        assert levels(images, 5) == [0]


def test_a_picture_of_the_same_class_takes_the_place(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        save(tmp_path / name, WHITE if name[0] == "b" else RED)
    (tmp_path / "a/2.png").write_bytes(b"nothing")
    images = ImageFolder(tmp_path, size=4)
    with pytest.warns(UserWarning, match=r"2\.png"):
        found, labels = images.batch(torch.tensor([1]))
    assert labels.tolist() == [0]
    assert colour_of(found[0]) == RED
    (tmp_path / "b/1.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"1\.png"):
        found, labels = images.batch(torch.tensor([2]))
    assert labels.tolist() == [0]  # That of the image, not of the one that is broken.
    assert colour_of(found[0]) == RED


def test_a_folder_of_broken_pictures_is_an_error_that_names_some(tmp_path):
    images = broken_at(tmp_path, *range(9), n=9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            with pytest.raises(
                ValueError, match=r"none of the 9 pictures below .*3\.png cannot be read"
            ) as error:
                images.batch(torch.tensor([3]))
    assert str(error.value).count("cannot be read: ") == 5


def test_files_of_every_kind_of_damage_are_broken(tmp_path):
    good = save(tmp_path / "0.png", 0, mode="L")
    (tmp_path / "1.png").touch()
    (tmp_path / "2.jpg").write_text("not a picture")
    (tmp_path / "3.png").write_bytes(good.read_bytes()[:45])
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "4.tiff")
    (tmp_path / "5.gif").symlink_to(tmp_path / "nowhere")
    images = ImageFolder(tmp_path, size=4, channels=1)
    with pytest.warns(UserWarning, match="cannot be read") as warned:
        assert levels(images, *range(6)) == [0] * 6
    reported = " ".join(str(warning.message) for warning in warned)
    assert len(warned) == 5
    assert all(name in reported for name in ("1.png", "2.jpg", "3.png", "4.tiff", "5.gif"))
    assert "floating-point" in reported


@pytest.mark.parametrize("side", [10_000, 40_000])
def test_a_picture_of_too_many_pixels_is_broken_and_not_decoded(tmp_path, side):
    assert Image.MAX_IMAGE_PIXELS < 10_000**2
    save(tmp_path / "0.png", 0, mode="L")
    chunk = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    (tmp_path / "1.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + b"\0\0\0\0IDAT\x35\xaf\x06\x1e"
    )
    images = ImageFolder(tmp_path, size=4, channels=1)
    with pytest.warns(UserWarning, match=r"1\.png cannot be read: .*exceeds limit") as warned:
        assert levels(images, 1) == [0]
    assert len(warned) == 1


def test_memory_and_interrupts_are_no_damage(tmp_path, monkeypatch):
    images = broken_at(tmp_path)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("interpolants.data.folders.read_picture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        images.batch(torch.tensor([0]))
