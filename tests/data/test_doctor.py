"""The data doctor: one fault planted at a time in a set that has none."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from segkit.data import doctor

REAL = os.environ.get("SEGKIT_REAL_DATA")
real = pytest.mark.skipif(not REAL, reason="SEGKIT_REAL_DATA is not set")
SPLITS = {"train": 6, "val": 4, "test": 4}
H, W = 48, 64


def picture(i, channels=3):
    """Return an image like no other: blocks of random colours, smoothed."""
    rng = np.random.default_rng(i)
    small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8))
    image = small.resize((W, H), Image.Resampling.BICUBIC)
    return np.array(image.convert("L" if channels == 1 else "RGB"))


def mask(i, ids=(0, 1, 2)):
    """Return a mask in which every id after the first has a disc."""
    drawn = Image.new("L", (W, H), ids[0])
    for k, value in enumerate(ids[1:]):
        x, y = 6 + 18 * k + i % 5, 8 + 2 * k + i % 7
        ImageDraw.Draw(drawn).ellipse([x, y, x + 22, y + 20], value)
    return np.array(drawn)


def save(root, split, name, image, its_mask):
    for folder, content in (("images", image), ("masks", its_mask)):
        (root / split / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(content).save(root / split / folder / f"{name}.png")


def healthy(root, ids=(0, 1, 2), splits=SPLITS):
    start = 0
    for split, n in splits.items():
        for i in range(start, start + n):
            save(root, split, f"p{i:02d}", picture(i), mask(i, ids))
        start += n
    return root


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKIT_DATA", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    return healthy(tmp_path / "mine")


def codes(report):
    return {finding.code: finding for finding in report.findings}


def edit(file, change):
    """Replace a picture by `change(picture)`."""
    with Image.open(file) as its:
        its.load()
        changed = change(its)
    changed.save(file)


IMAGE, MASK = Path("train/images/p02.png"), Path("train/masks/p02.png")


def truncated(root):
    content = (root / IMAGE).read_bytes()
    (root / IMAGE).write_bytes(content[: len(content) // 2])


def turned(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(root / IMAGE) as its:
        its.save(root / IMAGE.with_suffix(".jpg"), exif=exif, quality=95)
    (root / IMAGE).unlink()


def cmyk(root):
    edit(root / IMAGE, lambda p: p.convert("CMYK")) if False else None
    with Image.open(root / IMAGE) as its:
        its.convert("CMYK").save(root / IMAGE.with_suffix(".jpg"))
    (root / IMAGE).unlink()


def transparent(picture):
    picture.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, W).astype(np.uint8), (H, 1))))
    return picture


def deep(picture):
    return Image.fromarray(np.array(picture.convert("L"), np.uint16) * 257)


def frames(root):
    with Image.open(root / IMAGE) as its:
        pages = [its, its.rotate(90)]
        its.save(root / IMAGE.with_suffix(".tif"), save_all=True, append_images=pages[1:])
    (root / IMAGE).unlink()


def coloured(picture):
    table = np.array([(0, 0, 0), (200, 10, 10), (10, 200, 10)], np.uint8)
    return Image.fromarray(table[np.array(picture)])


def smeared(picture):
    half = picture.resize((W // 2 + 1, H // 2 + 1), Image.Resampling.BILINEAR)
    return half.resize((W, H), Image.Resampling.BILINEAR)


def jpeg_mask(root):
    with Image.open(root / MASK) as its:
        its.save(root / MASK.with_suffix(".jpg"), quality=75)
    (root / MASK).unlink()


def copy_image(root, frm, to, change=lambda p: p):
    with Image.open(root / frm) as its:
        its.load()
    change(its).save(root / to)


def with_palettes(root, odd=True):
    for k, file in enumerate(sorted(root.glob("*/masks/*.png"))):
        with Image.open(file) as its:
            ids = np.array(its)
        colours = [(0, 0, 0), (255, 0, 0), (0, 255, 0)]
        if odd and k == 1:
            ids, colours = np.array([0, 2, 1], np.uint8)[ids], [colours[j] for j in (0, 2, 1)]
        indexed = Image.fromarray(ids)
        indexed.putpalette([x for colour in colours for x in colour])
        indexed.save(file)


def black_white(root, only=None):
    for file in [root / only] if only else root.glob("*/masks/*.png"):
        edit(file, lambda p: p.point(lambda v: 255 * (v > 0)))


def renamed(root):
    os.rename(root / MASK, root / "train/masks/other.png")


# The fault's name, how it is planted (in a set with so many classes), the files it is in.
THREE = (0, 1, 2)
TWO = (0, 1)
PLANTED = {
    "missing-mask": (THREE, lambda r: (r / MASK).unlink(), [IMAGE]),
    "missing-image": (THREE, lambda r: (r / IMAGE).unlink(), [MASK]),
    "same-stem": (
        THREE,
        lambda r: copy_image(r, IMAGE, "train/images/p02.bmp"),
        [IMAGE.with_suffix(".bmp"), IMAGE],
    ),
    "unreadable": (THREE, truncated, [IMAGE]),
    "size-mismatch": (THREE, lambda r: edit(r / MASK, lambda p: p.resize((32, 24), 0)), [MASK]),
    "exif": (THREE, turned, [IMAGE.with_suffix(".jpg")]),
    "colour-space": (THREE, cmyk, [IMAGE.with_suffix(".jpg")]),
    "bit-depth": (THREE, lambda r: edit(r / IMAGE, deep), [IMAGE]),
    "transparent": (THREE, lambda r: edit(r / IMAGE, transparent), [IMAGE]),
    "frames": (THREE, frames, [IMAGE.with_suffix(".tif")]),
    "mode": (THREE, lambda r: edit(r / IMAGE, lambda p: p.convert("RGBA")), [IMAGE]),
    "mixed-channels": (THREE, lambda r: edit(r / IMAGE, lambda p: p.convert("L")), [IMAGE]),
    "wrong-suffix": (
        THREE,
        lambda r: Image.open(r / IMAGE).save(r / IMAGE, "JPEG", quality=95),
        [IMAGE],
    ),
    "mask-colours": (THREE, lambda r: edit(r / MASK, coloured), [MASK]),
    "palette-differs": (THREE, with_palettes, [Path("test/masks/p11.png")]),
    "black-white": (TWO, black_white, 14),
    "mixed-values": (TWO, lambda r: black_white(r, MASK), [MASK]),
    "interpolated": (
        (0, 255),
        lambda r: edit(r / MASK, lambda p: p.filter(ImageFilter.GaussianBlur(0.8))),
        [MASK],
    ),
    "thin-strips": (THREE, lambda r: edit(r / MASK, smeared), [MASK]),
    "lossy-mask": ((0, 255), jpeg_mask, [MASK.with_suffix(".jpg")]),
    "trimap": (THREE, lambda r: [edit(f, lambda p: p.point(lambda v: v + 1))
                                 for f in r.glob("*/masks/*")], 14),
    "id-gap": (THREE, lambda r: edit(r / MASK, lambda p: p.point(lambda v: 5 if v == 2 else v)),
               [MASK]),
    "unknown-ids": (
        THREE,
        lambda r: edit(r / MASK, lambda p: p.point(lambda v: 90 if v == 2 else v)),
        [MASK],
    ),
    "no-foreground": (TWO, lambda r: [edit(f, lambda p: p.point(lambda v: 0))
                                      for f in r.glob("*/masks/*")], [Path(".")]),
    "empty-mask": (THREE, lambda r: edit(r / MASK, lambda p: p.point(lambda v: 0)), [MASK]),
    "rare-class": (
        THREE,
        lambda r: [edit(f, lambda p: p.point(lambda v: min(v, 1)))
                   for f in sorted(r.glob("*/masks/*"))[1:]],
        [Path(".")],
    ),
    "class-not-in-split": (
        THREE,
        lambda r: [edit(f, lambda p: p.point(lambda v: min(v, 1))) for f in r.glob("val/masks/*")],
        [Path("val")],
    ),
    "leak-duplicate": (
        THREE,
        lambda r: copy_image(r, IMAGE, "val/images/p07.png"),
        [IMAGE, Path("val/images/p07.png")],
    ),
    "leak-near-duplicate": (
        THREE,
        lambda r: copy_image(
            r, IMAGE, "val/images/p07.png",
            lambda p: p.resize((60, 44)).point(lambda v: min(255, v + 9)).resize((W, H)),
        ),
        [IMAGE, Path("val/images/p07.png")],
    ),
    "duplicate": (
        THREE,
        lambda r: copy_image(r, IMAGE, "train/images/p03.png"),
        [IMAGE, Path("train/images/p03.png")],
    ),
}  # fmt: skip
# What comes with a fault because it is one, too: 0/255 masks are worth a note wherever they are.
ALONG = {"interpolated": {"black-white"}, "lossy-mask": {"black-white"}}


@pytest.mark.parametrize("ids", [THREE, TWO, (0, 1, 2, 255)])
def test_a_healthy_folder_has_no_findings(tmp_path, ids):
    report = doctor.check(healthy(tmp_path / "mine", ids))
    assert report.findings == [] and report.ok
    assert report.facts["pairs"] == SPLITS
    assert report.facts["sizes"] == {"64×48": 14}


@pytest.mark.parametrize("code", PLANTED)
def test_each_planted_fault_is_found_and_nothing_else(tmp_path, code):
    ids, plant, files = PLANTED[code]
    root = healthy(tmp_path / "mine", ids)
    plant(root)
    found = codes(doctor.check(root))
    assert set(found) == {code} | ALONG.get(code, set())
    finding = found[code]
    if isinstance(files, int):
        assert len(finding.files) == files
    else:
        assert finding.files == tuple(file.as_posix() for file in files)
    assert finding.what and finding.cure
    assert len(finding.details) == len(finding.files)
