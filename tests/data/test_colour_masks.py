"""Masks by colour and number in the layouts of Pascal VOC, CVAT, CamVid and Cityscapes."""

import numpy as np
import pytest
from PIL import Image

from segkit import convert, data
from segkit.errors import DataError

H, W = 12, 16


def picture(file, array):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(file)


def coloured(*rows):
    """Return a colour mask whose rows are of these colours, in turn."""
    return np.array([[rows[y * len(rows) // H]] * W for y in range(H)], np.uint8)


def photo(value=90):
    return np.full((H, W, 3), value)


def opened(form, root, split="train", **options):
    options = {"fractions": (1, 0, 0), "cache": False, "channels": 3, "transform": None} | options
    return data.load(form, split, (H, W), data_dir=root, **options)


@pytest.fixture
def voc(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / "JPEGImages" / f"{name}.jpg", photo())
        mask = coloured((0, 0, 0), (128, 0, 0), (224, 224, 192), (0, 64, 128))
        picture(tmp_path / "SegmentationClass" / f"{name}.png", mask)
    return tmp_path


def test_voc_has_the_colours_of_the_challenge(voc):
    found = opened("voc", voc)
    assert found.classes == 21 and len(found) == 2  # all 20, though two are there
    named = [found.class_names[i] if i != 255 else i for i in found.masks[0][::3, 0]]
    assert named == ["background", "aeroplane", 255, "tvmonitor"]


def test_voc_masks_with_a_palette_are_read_by_their_colours(voc):
    for file in (voc / "SegmentationClass").glob("*.png"):
        Image.open(file).convert("P", palette=Image.Palette.ADAPTIVE).save(file)
    assert set(np.unique(opened("voc", voc).masks)) == {0, 1, 20, 255}


def test_the_lists_of_voc_make_the_splits(voc):
    lists = voc / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("b\n")
    (lists / "val.txt").write_text("a\n")
    (lists / "trainval.txt").write_text("a\nb\n")
    assert opened("voc", voc).names == ("b",) and opened("voc", voc, "val").names == ("a",)
    (lists / "val.txt").write_text("a\nmissing\n")
    with pytest.raises(DataError, match=r"missing\.png: a mask without an image"):
        opened("voc", voc)


def test_the_labelmap_of_cvat_names_any_colour(voc):
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::", "bone:128,0,0::"]
    lines += ["__ignore__:224,224,192::", "steel:0,64,128::", ""]
    (voc / "labelmap.txt").write_text("\n".join(lines))
    found = opened("voc", voc)
    assert found.class_names == ("background", "bone", "steel")
    assert found.masks[0][::3, 0].tolist() == [0, 1, 255, 2]
    chosen = opened("voc", voc, class_names=["background", "steel"], others="background")
    assert chosen.masks[0][::3, 0].tolist() == [0, 0, 255, 1]
    names, counts = convert.convert("voc", voc, voc.parent / "out")
    assert names == found.class_names and counts == {"": 2}


@pytest.mark.parametrize("line", ["bone:1,2::", "bone:1,2,300::", "bone", "bone:a,b,c"])
def test_a_line_of_the_labelmap_that_is_none_is_shown(voc, line):
    (voc / "labelmap.txt").write_text(line)
    with pytest.raises(DataError, match=f"labelmap.txt: .*'{line}' is not name:r,g,b"):
        opened("voc", voc)


def test_a_colour_without_a_name_is_refused(voc):
    picture(voc / "SegmentationClass" / "a.png", coloured((0, 0, 0), (1, 2, 3)))
    with pytest.raises(DataError, match=r"a\.png: a mask with a value .*it holds #010203\)"):
        opened("voc", voc)


def test_a_mask_of_another_size_is_refused(voc):
    picture(voc / "JPEGImages" / "a.jpg", np.zeros((H, W + 1, 3)))
    with pytest.raises(DataError, match=r"a\.png: a mask of another size .*16×12, image 17×12"):
        opened("voc", voc)


def test_camvid_has_numbers(tmp_path):
    for split in ("train", "val", "test"):
        picture(tmp_path / split / "a.png", photo())
        picture(tmp_path / f"{split}annot" / "a.png", np.arange(12).repeat(W).reshape(H, W))
    found = opened("camvid", tmp_path, "val")
    names = [found.class_names[i] if i != 255 else i for i in found.masks[0][:, 0]]
    assert names[:2] == ["sky", "building"] and names[-2:] == ["bicyclist", 255]
    assert found.classes == 12
    picture(tmp_path / "valannot" / "a.png", np.full((H, W), 77))
    with pytest.raises(DataError, match="it holds 77"):
        opened("camvid", tmp_path, "val")


def test_cityscapes_ignores_what_it_does_not_score(tmp_path):
    for split in ("train", "val"):
        stem = "ulm_000000_000019"
        image = tmp_path / "leftImg8bit" / split / "ulm" / f"{stem}_leftImg8bit.png"
        picture(image, photo())
        ids = np.array([0, 7, 24, 33]).repeat(3 * W).reshape(H, W)
        picture(tmp_path / "gtFine" / split / "ulm" / f"{stem}_gtFine_labelIds.png", ids)
    found = opened("cityscapes", tmp_path, "val")
    names = [found.class_names[i] if i != 255 else i for i in found.masks[0][::3, 0]]
    assert names == [255, "road", "person", "bicycle"] and found.classes == 20


def test_a_folder_of_none_of_these_layouts_says_what_is_looked_for(tmp_path):
    with pytest.raises(DataError, match="neither JPEGImages and SegmentationClass, nor train and"):
        opened("voc", tmp_path)
