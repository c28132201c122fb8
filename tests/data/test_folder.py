import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkit.data import folder, read
from segkit.data.folder import Example, infer_label_encoding, open_folder
from segkit.errors import ArgumentError, DataError

REAL = os.environ.get("SEGKIT_REAL_DATA")
real = pytest.mark.skipif(not REAL, reason="SEGKIT_REAL_DATA is not set")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKIT_DATA", str(tmp_path / "data"))


def blob(i, ids=(0, 1), size=(20, 24)):
    """Return a mask with a rectangle per id, at a place that depends on i."""
    mask = np.full(size, ids[0], np.uint8)
    for k, value in enumerate(ids[1:]):
        mask[2 + i % 5 : 12 + i % 5, 2 + 5 * k : 6 + 5 * k] = value
    return mask


def fill(place, n=10, ids=(0, 255), colour=True, start=0):
    """Write n pairs; the image is 20 × the item's number, so that pairs show."""
    for sub in ("images", "masks"):
        (place / sub).mkdir(parents=True, exist_ok=True)
    for i in range(start, start + n):
        shape = (20, 24, 3) if colour else (20, 24)
        Image.fromarray(np.full(shape, 5 * i, np.uint8)).save(place / "images" / f"p{i:02d}.png")
        Image.fromarray(blob(i, ids)).save(place / "masks" / f"p{i:02d}.png")
    return place


@pytest.fixture
def root(tmp_path):
    return fill(tmp_path / "mine")


def opened(root, **options):
    return {s: open_folder(root, s, 16, **options) for s in folder.SPLITS}


def refused(root, *words, split="train", **options):
    with pytest.raises(DataError) as error:
        open_folder(root, split, 16, **options)
    for word in words:
        assert word in str(error.value)
    return str(error.value)


# What is found


def test_one_folder_is_split_by_seed_and_pairs_stay_together(root):
    parts = opened(root)
    assert [len(part) for part in parts.values()] == [7, 1, 2]
    assert sorted(sum((part.names for part in parts.values()), ())) == [f"p0{i}" for i in range(10)]
    for part in parts.values():
        assert part.images.shape == (len(part), 16, 16, 3)
        assert part.class_names == ("background", "foreground")
        for (image, mask), name in zip(map(part.raw, range(len(part))), part.names, strict=True):
            i = int(name[1:])
            assert (image == 5 * i).all()
            source = Image.fromarray(blob(i)).resize((16, 16), Image.Resampling.NEAREST)
            assert np.array_equal(mask, np.array(source))
    again = opened(root, cache=False)
    for split, part in parts.items():
        assert again[split].names == part.names
        assert np.array_equal(again[split].images, part.images)
        assert np.array_equal(again[split].masks, part.masks)
    assert opened(root, seed=1)["train"].names != parts["train"].names


def test_ready_splits_are_taken_as_they_are_and_others_refused(tmp_path):
    for k, split in enumerate(("train", "val")):
        fill(tmp_path / split, n=3 + k, start=10 * k)
    assert open_folder(tmp_path, "train", 16, seed=3).names == ("p00", "p01", "p02")
    assert open_folder(tmp_path, "val", 16).names == ("p10", "p11", "p12", "p13")
    refused(tmp_path, "no split 'test' in this folder, only train, val", split="test")
    with pytest.raises(ArgumentError, match="'dev'; there are: train, val, test"):
        open_folder(tmp_path, "dev", 16)


def test_grey_colour_and_asked_channels(tmp_path):
    grey = fill(tmp_path / "grey", colour=False)
    assert open_folder(grey, "train", 16).images.shape == (7, 16, 16)
    assert open_folder(grey, "train", 16, channels=3).images.shape == (7, 16, 16, 3)
    mixed = fill(fill(tmp_path / "mixed", colour=False), n=1, start=20)
    assert open_folder(mixed, "train", 16).channels == 3
    assert open_folder(mixed, "train", (8, 12), channels=1).images.shape[1:] == (8, 12)


def test_count_is_a_seeded_choice(tmp_path):
    fill(tmp_path, n=40)
    few, again, other = (open_folder(tmp_path, "train", 16, count=9, seed=s) for s in (0, 0, 1))
    assert len(few) == 9 and set(few.names) <= set(open_folder(tmp_path, "train", 16).names)
    assert few.names == again.names != other.names
    with pytest.warns(UserWarning, match="count=29, but there are 28 items: all 28 are used"):
        assert len(open_folder(tmp_path, "train", 16, count=29)) == 28


@pytest.mark.parametrize("group_by", [r"^p\d", r"^p(\d)", lambda name: name[1]])
def test_groups_are_not_split_apart(tmp_path, group_by):
    fill(tmp_path, n=50)  # p00 … p49: five groups of ten
    parts = opened(tmp_path, group_by=group_by, fractions=(0.6, 0.2, 0.2)).values()
    assert [len(set(part.groups)) for part in parts] == [3, 1, 1]
    assert len({group for part in parts for group in part.groups}) == 5
    for part in parts:
        assert [group[-1] for group in part.groups] == [name[1] for name in part.names]


def test_a_group_pattern_that_misses_names_is_refused(root):
    refused(root, "group_by='p01' is found in 1 of 10 names, not in p00", group_by="p01")
    refused(root, "is found in 1 of 10 names, not in p00", group_by="p00|(p01)")
    with pytest.raises(ArgumentError, match="is no regular expression"):
        open_folder(root, "train", 16, group_by="(")


def test_the_cache_follows_the_files(root):
    before = open_folder(root, "train", 16)
    name = before.names[0]
    Image.fromarray(np.full((20, 24, 3), 250, np.uint8)).save(root / "images" / f"{name}.png")
    after = open_folder(root, "train", 16)
    assert after.images[0].min() == 250
    assert np.array_equal(before.images[1:], after.images[1:])
    Image.fromarray(np.full((20, 24), 7, np.uint8)).save(root / "masks" / f"{name}.png")
    refused(root, f"masks/{name}.png", "holds 7")


# What does not fit


def test_opened_again_it_decodes_nothing(root, monkeypatch):
    first = open_folder(root, "train", 16)
    monkeypatch.setattr(read, "opened", lambda *_: pytest.fail("a file is decoded again"))
    again = open_folder(root, "train", 16)
    np.testing.assert_array_equal(again.images, first.images)
    assert (again.names, again.class_names) == (first.names, first.class_names)


def test_files_without_their_partner_and_duplicates_are_listed_together(root):
    (root / "masks" / "p03.png").unlink()
    (root / "masks" / "p04.png").unlink()
    (root / "images" / "p07.png").unlink()
    shutil.copy(root / "images" / "p00.png", root / "images" / "p00.jpg")
    message = refused(root, "3 faults in", "images/p03.png", "images/p04.png", "p00.jpg", "p00.png")
    assert "p07.png: a mask without an image of the same name: bring back the image" in message
    assert "2 files: an image without a mask of the same name: add the mask" in message
    assert "2 files: several files with one stem, so it is unclear which" in message


@pytest.mark.parametrize(
    "image, mask, hint",
    [
        ("IM000", "im000", " differs in case: rename one"),
        ("Straße", "strasse", " differs in case: rename one"),
        ("a", "b", ""),
    ],
)
def test_a_name_that_nearly_matches_is_named(tmp_path, image, mask, hint):
    root = fill(tmp_path / "mine", n=3)
    name = sorted((root / "images").iterdir())[0].stem
    (file,) = (root / "images").glob(f"{name}.*")
    file.rename(file.with_stem(image))
    (target,) = (root / "masks").glob(f"{name}.*")
    target.rename(target.with_stem(mask))
    _, issues, _ = folder.find_pairs(root)
    assert [one.code for one in issues] == ["missing-mask", "missing-image"]
    details = [one.details[0] for one in issues]
    if not hint:
        assert details == ["", ""]
    else:
        assert details == [f"masks/{mask}.png{hint}", f"images/{image}.png{hint}"]


def test_a_folder_of_another_name_beside_it_is_named(tmp_path):
    root = fill(tmp_path / "mine", n=3)
    (root / "masks").rename(root / "truths")
    _, (missing,), _ = folder.find_pairs(root)
    assert missing.code == "no-pictures"
    assert missing.details == ("there is no such folder, but images/, truths/",)


def renamed(root, sub, change):
    for file in sorted((root / sub).iterdir()):
        file.rename(file.with_stem(change(file.stem)))


def test_names_in_two_unicode_forms_are_one_name(root):
    for sub, name in (("images", "Z\u00fcrich"), ("masks", "Zu\u0308rich")):
        (root / sub / "p00.png").rename(root / sub / f"{name}.png")
    examples, issues, _ = folder.find_pairs(root)
    assert not issues and examples[0].name == "Z\u00fcrich"
    assert examples[0].mask.name == "Zu\u0308rich.png"


@pytest.mark.parametrize(
    ("image", "mask", "options", "advice"),
    [
        ("{}", "{}_mask", {"mask_suffix": "_mask"}, "add --mask-suffix _mask"),
        ("{}-rgb", "{}", {"image_suffix": "-rgb"}, "add --image-suffix -rgb"),
        ("{}_im 1a", "{}", {"image_suffix": "_im 1a"}, "add --image-suffix '_im 1a'"),
        ("{}_img", "{}_gt_ids", {"image_suffix": "_img", "mask_suffix": "_gt_ids"},
            "add --image-suffix _img --mask-suffix _gt_ids"),
    ],
)  # fmt: skip
def test_suffixes_pair_names_and_are_proposed(root, image, mask, options, advice):
    before = opened(root)["train"]
    renamed(root, "images", image.format)
    renamed(root, "masks", mask.format)
    message = refused(root, f"masks: the names of images and masks differ at their end (10 images "
                      f"pair if you {advice}): add the option")  # fmt: skip
    assert "without" not in message
    after = opened(root, **options)["train"]
    assert after.names == before.names
    assert np.array_equal(after.images, before.images)
    assert np.array_equal(after.masks, before.masks)


def test_a_suffix_that_does_not_help_is_not_proposed(root):
    # of ten pairs nine would be lost
    (root / "masks" / "p00.png").rename(root / "masks" / "p00_mask.png")
    assert "--mask-suffix" not in refused(root)
    # numbers are no suffix: a_1 belongs to a_1
    other = fill(root.parent / "other", n=1)
    renamed(other, "images", lambda name: "a_1")
    renamed(other, "masks", lambda name: "a_2")
    refused(other, "a_1.png: an image without a mask of the same name: add")


def test_a_suffix_too_many_is_noticed(root):
    refused(root, "10 images pair if you leave out the suffix", mask_suffix="_mask")


def test_files_without_the_suffix_are_left_out_and_counted(root):
    renamed(root, "masks", "{}_mask".format)
    for i in range(3):  # a second picture of the same scene, as Cityscapes has
        shutil.copy(root / "masks" / f"p0{i}_mask.png", root / "masks" / f"p0{i}_colour.png")
    examples, (note,), _ = folder.find_pairs(root, mask_suffix="_mask")
    assert {e.mask.name for e in examples} == {f"p0{i}_mask.png" for i in range(10)}
    assert (note.code, note.severity) == ("other-files", "note")
    assert note.details == ("3 pictures without _mask",)
    first = open_folder(root, "train", 16, mask_suffix="_mask")
    assert len(first) == 7
    shutil.copy(root / "masks" / "p00_mask.png", root / "masks" / "p00_mask.bmp")
    refused(root, "several files with one stem", mask_suffix="_mask")


@pytest.mark.parametrize("suffix", ["_mask.png", ".GIF", 7, None])
def test_a_suffix_is_the_end_of_a_name(root, suffix):
    with pytest.raises(ArgumentError, match=r"mask_suffix=.*: give the end .* as _mask for"):
        open_folder(root, "train", 16, mask_suffix=suffix)


def test_another_suffix_pairs_other_files_of_the_same_folder(root):
    renamed(root, "masks", "{}_a".format)
    for file in list((root / "masks").iterdir()):
        Image.fromarray(np.zeros((20, 24), np.uint8)).save(file.with_stem(file.stem[:-2] + "_b"))
    assert open_folder(root, "train", 16, mask_suffix="_a").masks.any()
    assert not open_folder(root, "train", 16, mask_suffix="_b").masks.any()


# Layouts


@pytest.mark.parametrize(
    ("images", "masks", "layout"),
    [
        ("images", "masks", ""),
        ("images", "labels", "images/ and labels/"),
        ("imgs", "masks", "imgs/ and masks/"),
        ("images", "annotations", "images/ and annotations/"),
        ("JPEGImages", "SegmentationClass", "JPEGImages/ and SegmentationClass/"),
        ("Images", "Labels", "Images/ and Labels/"),
    ],
)
def test_folders_of_other_names_are_recognised(root, images, masks, layout):
    (root / "images").rename(root / images)
    (root / "masks").rename(root / masks)
    found = open_folder(root, "train", 16)
    assert len(found) == 7 and found.info.get("folders", "") == layout


def test_valid_is_val(tmp_path):
    for k, split in enumerate(("train", "valid")):
        fill(tmp_path / split, n=3, start=10 * k)
    found = open_folder(tmp_path, "val", 16)
    assert found.names == ("p10", "p11", "p12")
    assert found.info["folders"] == "valid/images/ and valid/masks/ for val"


def test_camvid_is_recognised(tmp_path):
    for k, split in enumerate(("train", "val", "test")):
        place = fill(tmp_path / "x", n=2, start=10 * k, ids=(0, 1, 2))
        (place / "images").rename(tmp_path / split)
        (place / "masks").rename(tmp_path / f"{split}annot")
    parts = opened(tmp_path)
    assert [part.names[0] for part in parts.values()] == ["p00", "p10", "p20"]
    assert parts["val"].info["folders"].split("; ")[1] == "val/ and valannot/ for val"


def test_folders_inside_pair_by_their_path(root):
    for cat, digit in (("cats", "0"), ("dogs/small", "1")):
        for sub in ("images", "masks"):
            fill(root.parent / "more", n=3, start=10 * int(digit))
            (root / sub / cat).parent.mkdir(exist_ok=True)
            (root.parent / "more" / sub).rename(root / sub / cat)
            shutil.rmtree(root.parent / "more")
            (root / sub / ".ipynb_checkpoints").mkdir(exist_ok=True)
            shutil.copy(root / sub / "p00.png", root / sub / ".ipynb_checkpoints" / "p.png")
    parts = opened(root, group_by="^[^/]+(?=/)|^p")
    assert sum(map(len, parts.values())) == 16
    assert {"cats/p00", "dogs/small/p10"} <= {n for part in parts.values() for n in part.names}
    assert parts["train"].info["folders"] == "images/ and masks/ with cats, dogs inside"
    (root / "masks" / "cats" / "p01.png").rename(root / "masks" / "cats" / "q.png")
    refused(root, "images/cats/p01.png: an image without", "masks/cats/q.png: a mask without")


@pytest.fixture
def inside(tmp_path):
    """Splits below images/ and masks/."""
    for k, split in enumerate(("train", "valid")):
        for sub in ("images", "masks"):
            fill(tmp_path / "more", n=3, start=10 * k)
            (tmp_path / "mine" / sub).mkdir(parents=True, exist_ok=True)
            (tmp_path / "more" / sub).rename(tmp_path / "mine" / sub / split)
            shutil.rmtree(tmp_path / "more")
    return tmp_path / "mine"


def test_splits_inside_are_splits(inside):
    assert open_folder(inside, "val", 16).names == ("p10", "p11", "p12")
    layout = open_folder(inside, "train", 16).info["folders"]
    assert layout == "images/ and masks/ with train, valid inside"


@pytest.mark.parametrize("more", ["p.png", "cats/p.png", "val/p.png"])
def test_splits_beside_others_are_refused(inside, more):
    (inside / "images" / more).parent.mkdir(exist_ok=True)
    shutil.copy(inside / "images" / "train" / "p00.png", inside / "images" / more)
    refused(inside, "images holds ", "train", "keep train, val and test alone in it")


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("masks", "labels", "mine holds labels/ and masks/: move out what is not meant"),
        ("images", "imgs", "mine holds images/ and imgs/: move out"),
        (".", "train", "mine holds images/ and train/images/: move out"),
    ],
)
def test_two_folders_that_could_be_meant_are_refused(root, first, second, message):
    shutil.copytree(root / first, root.parent / "copy")
    (root.parent / "copy").rename(root / second)
    refused(root, message)


def test_val_beside_valid_is_refused(tmp_path):
    for split in ("val", "valid"):
        fill(tmp_path / split, n=3)
    refused(tmp_path, "holds val/images/ and valid/images/: move out", split="val")


def test_a_folder_without_pictures_is_not_meant(root):
    (root / "labels").mkdir()
    (root / "labels" / "p00.txt").write_text("0 0.5 0.5 0.1 0.1")
    (root / "annotations").mkdir()
    assert "folders" not in open_folder(root, "train", 16).info


def test_jfif_is_jpeg(tmp_path):
    root = fill(tmp_path / "mine", n=3)
    for file in list((root / "images").iterdir()):
        Image.open(file).convert("RGB").save(file.with_suffix(".jpg"))
        file.with_suffix(".jpg").rename(file.with_suffix(".jfif"))
        file.unlink()
    assert len(opened(root, fractions=(1, 0, 0))) == 3


def test_empty_and_absent_folders_are_refused(tmp_path):
    fill(tmp_path / "a", n=0)
    (tmp_path / "a" / "masks").rmdir()
    (tmp_path / "a" / "images" / "cats").mkdir()
    found = "2 files: holds no pictures", "it holds cats", "there is no such folder"
    refused(tmp_path / "a", *found)
    with pytest.raises(FileNotFoundError, match=r"nowhere holds .* no such folder"):
        open_folder(tmp_path / "nowhere", "train", 16)
    (tmp_path / "b" / "pictures").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="it holds pictures"):
        open_folder(tmp_path / "b", "train", 16)


def test_sidecars_other_files_and_folders_are_left_out(root):
    for sub in ("images", "masks"):
        (root / sub / "._p00.png").write_bytes(b"\x00\x05\x16\x07")
        (root / sub / ".DS_Store").write_bytes(b"")
        (root / sub / "Thumbs.db").write_bytes(b"")
        (root / sub / "folder.png").mkdir()
    assert sum(len(part) for part in opened(root).values()) == 10


@pytest.mark.parametrize("shape", [(20, 25), (24, 20)])
def test_a_mask_of_another_size_is_refused(root, shape):
    Image.fromarray(blob(0, size=shape)).save(root / "masks" / "p03.png")
    refused(root, "p03.png: a mask of another size", f"({shape[1]}×{shape[0]}, image 24×20)")


def test_images_that_come_out_bad_only_when_decoded(root):
    for i in range(10):
        file = root / "images" / f"p{i:02d}.png"
        if i % 2:
            file.write_bytes(file.read_bytes()[:-30])
        else:
            Image.new("RGBA", (24, 20), (9, 9, 9, 9)).save(file)
    message = refused(root, "7 faults", "cannot be read", "transparent in places")
    assert message == refused(root, cache=False)


# What the values mean


def inferred(files, named=0, values="auto"):
    """Return encoding and number of classes; or the issue's code and the masks that have it."""
    examples = [
        Example(f"m{i}", "", None, Path(f"m{i}"), values=list(found), interior_values=list(found))
        for i, found in enumerate(files)
    ]
    encoding, classes, issues = infer_label_encoding(examples, named, values)
    if encoding:
        assert not issues
        return encoding, classes
    return issues[0].code, [str(file) for issue in issues for file in issue.files]


@pytest.mark.parametrize(
    ("files", "named", "wanted"),
    [
        ([(0, 255), (0,)], 0, ("0/255", 2)),
        ([(255,), (0,)], 2, ("0/255", 2)),
        ([(0, 1), (0,)], 0, ("ids", 2)),
        ([(0,), (0,)], 0, ("ids", 2)),
        ([(0, 1), (0, 1, 255), (0, 255)], 0, ("ids", 2)),
        ([(0, 1, 2), (0, 3)], 0, ("ids", 4)),
        ([(0, 7), (0, 3, 255)], 8, ("ids", 8)),
        ([(0, 1)], 5, ("ids", 5)),
        ([tuple(range(32))], 0, ("ids", 32)),
        ([tuple(range(40))], 40, ("ids", 40)),
        ([(1, 2, 3)], 4, ("ids", 4)),
        ([(0, 1), (0, 5, 9), (0, 2)], 3, ("unknown-ids", ["m1"])),
        ([tuple(range(33))], 0, ("unknown-ids", ["m0"])),  # more must be named
        ([(0, 1), (0, 3)], 0, ("id-gap", ["m1"])),
        ([(1, 2, 3), (1, 2)], 0, ("trimap", ["m0", "m1"])),
        ([(1, 2), (1, 2)], 0, ("ids-from-one", ["m0", "m1"])),
        ([(1, 2, 3, 4)], 0, ("ids-from-one", ["m0"])),
        ([(0, 1), (0, 255), (0,)], 0, ("mixed-values", ["m1"])),
        ([(0, 255)], 3, ("class-names", ["m0"])),
    ],
)
def test_auto_decides_over_all_files(files, named, wanted):
    assert inferred(files, named) == wanted


def test_an_option_overrides_what_the_values_suggest():
    assert inferred([(0, 255)], 0, "ids") == ("ids", 2)
    assert inferred([(0, 1), (0, 255)], 0, "ids") == ("ids", 2)
    assert inferred([(0,)], 0, "0/255") == ("0/255", 2)
    assert inferred([(0, 1, 255)], 0, "0/255")[1] == ["m0"]
    with pytest.raises(ArgumentError, match="'masks'; there are: auto, ids, 0/255"):
        inferred([(0,)], 0, "masks")


@pytest.mark.parametrize(
    ("ids", "in_one", "held"), [((0, 1, 255), (0, 255), {0, 1, 255}), ((0, 255), (0, 0), {0, 1})]
)
def test_the_rule_is_not_decided_file_by_file(tmp_path, ids, in_one, held):
    fill(tmp_path, n=10, ids=ids)  # with ids, 255 is ignored, also in the mask that has no 1
    Image.fromarray(blob(3, in_one)).save(tmp_path / "masks" / "p03.png")
    assert (
        set(np.unique([*opened(tmp_path)["train"].masks, *opened(tmp_path)["test"].masks])) == held
    )


def test_each_rule_has_a_cache_entry_of_its_own(root):
    for values, held in (("auto", {0, 1}), ("ids", {0, 255}), ("0/255", {0, 1})):
        assert set(np.unique(open_folder(root, "train", 16, values=values).masks)) == held


def test_a_map_gives_values_their_classes(tmp_path):
    root = fill(tmp_path / "mine", ids=(0, 128, 255))
    first = open_folder(root, "train", (20, 24), values={0: "background", 128: "disc", 255: "cup"})
    assert first.class_names == ("background", "disc", "cup")  # 255 is a class
    assert first.info["values"] == {0: "background", 128: "disc", 255: "cup"}
    stored = [np.array(Image.open(root / "masks" / f"{name}.png")) for name in first.names]
    assert np.array_equal(first.masks, np.searchsorted([0, 128, 255], stored))
    other = {"255": "background", "128": "ignore", "0": "disc"}  # keys as JSON has them
    second = open_folder(root, "train", (20, 24), values=other)
    assert second.class_names == ("background", "disc")
    assert np.array_equal(second.masks, np.array([1, 255, 0])[first.masks])
    merged = {0: "rest", 128: "rest", 255: "cup"}
    names = ["cup", "bone", "rest"]
    third = open_folder(root, "train", (20, 24), values=merged, class_names=names)
    assert third.class_names == tuple(names)
    assert np.array_equal(third.masks, np.array([2, 2, 0])[first.masks])
    assert np.array_equal(open_folder(root, "train", (20, 24), values="ids",
                          class_names=[f"c{i}" for i in range(129)]).masks, stored)  # fmt: skip


def test_a_map_of_colours_reads_colour_masks(tmp_path):
    root = fill(tmp_path / "mine", ids=(0, 1, 2))
    for file in (root / "masks").iterdir():
        ids = np.array(Image.open(file))
        Image.fromarray(np.array([(0, 0, 0), (255, 0, 0), (0, 10, 0)], np.uint8)[ids]).save(file)
    refused(root, "3 colours: #000000, #000a00, #ff0000)", "--values")
    colours = {"#000000": "background", "#FF0000": "disc", "#000a00": "ignore"}
    found = open_folder(root, "train", (20, 24), values=colours)
    ids = [blob(int(name[1:]), (0, 1, 255)) for name in found.names]
    assert found.class_names == ("background", "disc") and np.array_equal(found.masks, ids)
    message = refused(root, "#000a00", values={"#000000": "background", "#ff0000": "disc"})
    assert "10 files: a mask with a value that the table of classes lacks" in message


def test_what_a_map_lacks_is_refused_by_file_and_value(tmp_path):
    root = fill(tmp_path / "mine", ids=(0, 128))
    Image.fromarray(blob(3, (0, 255))).save(root / "masks" / "p03.png")
    message = refused(root, "p03.png: a mask with a value", values={0: "background", 128: "disc"})
    assert "(it holds 255): correct the mask" in message
    for file in list((root / "masks").iterdir()):
        Image.open(file).save(file.with_suffix(".jpg"), quality=30)
        file.unlink()
    refused(root, "p03.jpg", "(it holds ", values={0: "background", 128: "disc", 255: "cup"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"values: \{\} is no map of values or of colours: name a class, or ignore, for"),
        (3, "values: 3 is no map"),
        (None, "values: None is no map"),
        ({0: "a", "#ff0000": "b"}, "is no map of values or of colours"),
        ({0: "a", 256: "b"}, "values: 256 as 'b' cannot be: name a class, .* each once"),
        ({0: "a", -1: "b"}, "values: -1 as"),
        ({0: "a", 1.0: "b"}, r"values: 1\.0 as"),
        ({0: "a", True: "b"}, "values: True as"),
        ({0: "a", "#ff00": "b"}, "values: '#ff00' as"),
        ({"#ff0000": "a", "#FF0000": "b"}, "'#FF0000' as 'b' cannot be"),
        ({0: "a", "0": "b"}, "values: '0' as"),
        ({0: "a", "00": "b"}, "values: '00' as"),
        ({0: "a", 1: False}, "values: 1 as False"),
        ({0: "a", 1: ""}, "values: 1 as ''"),
        ({0: "a", 1: 1}, "values: 1 as 1"),
        ({0: "a", 1: "a"}, "class_names=.*: give a list of two or more"),
        ({0: "a", 1: "ignore"}, "class_names=.*: give a list of two or more"),
    ],
)
def test_a_map_that_means_nothing_is_refused(root, values, message):
    with pytest.raises(ArgumentError, match=message):
        open_folder(root, "train", 16, values=values)


def test_a_map_names_the_classes_that_are_named(root):
    with pytest.raises(ArgumentError, match="'cup'; there are: background, disc, ignore"):
        values = {0: "background", 255: "cup"}
        open_folder(root, "train", 16, values=values, class_names=["background", "disc"])


def test_interpolated_masks_are_refused_with_the_reason(root):
    for i in (2, 5):
        file = root / "masks" / f"p{i:02d}.png"
        small = Image.open(file).resize((12, 10), Image.Resampling.BILINEAR)
        small.resize((24, 20), Image.Resampling.BILINEAR).save(file)
    refused(root, "2 files: a mask with values", "p02.png (", "interpolation", "use nearest")


def test_masks_interpolated_to_every_value_are_refused(tmp_path):
    fill(tmp_path, n=3)
    ramp = np.tile(np.linspace(0, 255, 24).round().astype(np.uint8), (20, 1))
    ramp[10:] = 255 - ramp[10:]
    everything = np.resize(np.arange(256, dtype=np.uint8), (20, 24))
    for ids, code in (
        (ramp, "in between along its edges"),
        (everything, "that belong to no class"),
    ):
        for file in (tmp_path / "masks").iterdir():
            Image.fromarray(ids).save(file)
        refused(tmp_path, f"3 files: a mask with values {code}", "use nearest")


def test_jpeg_masks_are_refused_as_such(root):
    for file in list((root / "masks").iterdir()):
        Image.open(file).save(file.with_suffix(".jpg"), quality=80)
        file.unlink()
    refused(root, "10 files: a mask stored as JPEG, which changes its values")


NOT_NAMES = ["background", ["one"], ["a", "a"], [], ["a", False], ["a", {"car": "red"}]]


@pytest.mark.parametrize("names", NOT_NAMES)
def test_class_names_must_be_a_list_of_different_names(root, names):
    with pytest.raises(ArgumentError, match="give a list of two or more different names"):
        open_folder(root, "train", 16, class_names=names)


def test_class_names_reach_the_data_set(tmp_path):
    fill(tmp_path, ids=(0, 1, 2, 255))
    assert open_folder(tmp_path, "train", 16).class_names == ("background", "class 1", "class 2")
    named = open_folder(tmp_path, "train", 16, class_names=["sky", "cat", "dog"])
    assert named.class_names == ("sky", "cat", "dog") and named.classes == 3
    assert set(np.unique(named.masks)) == {0, 1, 2, 255}


# Real data


@real
def test_the_teeth_x_rays():
    patients = {"cate5-00091": "cate5-00055", "cate4-00107": "cate4-00101"}
    group_by = {"group_by": lambda name: patients.get(name, name)}
    parts = opened(Path(REAL, "teeth-xray"), channels=1, **group_by).values()
    assert [len(part) for part in parts] == pytest.approx([297, 64, 64], abs=2)
    assert sum(map(len, parts)) == 425 and all(part.images.ndim == 3 for part in parts)
    assert all(set(np.unique(part.masks)) == {0, 1} for part in parts)
    (home,) = [part for part in parts if "cate5-00055" in part.names]
    assert "cate5-00091" in home.names


@real
def test_the_nuclei_with_their_opaque_alpha():
    parts = opened(Path(REAL, "nuclei"))
    assert sum(len(part) for part in parts.values()) == 320
    assert parts["train"].images.shape == (224, 16, 16, 3)
    grey = open_folder(Path(REAL, "nuclei"), "test", 16, channels=1)
    assert grey.channels == 1
    assert 0.02 < grey.masks.mean() < 0.5
