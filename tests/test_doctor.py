"""The data doctor: one fault planted at a time in a set that has none."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from labelme_files import annotate, shape
from PIL import Image, ImageDraw, ImageFilter

from segkit import doctor
from segkit.data.folder import open_folder
from segkit.errors import DataError
from segkit.files import FileError

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


def save(root, split, name, image, ids):
    for folder, content in (("images", image), ("masks", ids)):
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
    return {issue.code: issue for issue in report.issues}


def edit(file, change, to=None, **options):
    """Replace a picture by `change(picture)`, in a file of another suffix or name if given."""
    with Image.open(file) as stored:
        stored.load()
        changed = change(stored)
    changed.save(file if to is None else to, **options)
    if to is not None and to.stem == file.stem:
        file.unlink()


def edit_all(root, pattern, change):
    for file in sorted(root.glob(pattern)):
        edit(file, change)


IMAGE, MASK = Path("train/images/p02.png"), Path("train/masks/p02.png")
JPG = IMAGE.with_suffix(".jpg")


def truncated(root):
    content = (root / IMAGE).read_bytes()
    (root / IMAGE).write_bytes(content[: len(content) // 2])


def turned(root, orientation=6):
    exif = Image.Exif()
    exif[0x0112] = orientation
    edit(root / IMAGE, lambda p: p, root / JPG, exif=exif, quality=95)


def transparent(picture):
    picture.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, W).astype(np.uint8), (H, 1))))
    return picture


def deep(picture):
    return Image.fromarray(np.array(picture.convert("L"), np.uint16) * 257)


def coloured(picture):
    table = np.array([(0, 0, 0), (200, 10, 10), (10, 200, 10)], np.uint8)
    return Image.fromarray(table[np.array(picture)])


def on_white(picture):
    indexed = Image.fromarray(np.array(picture))
    indexed.putpalette([255, 255, 255, 0, 0, 0])
    return indexed


def smeared(picture):
    half = picture.resize((W // 2 + 1, H // 2 + 1), Image.Resampling.BILINEAR)
    return half.resize((W, H), Image.Resampling.BILINEAR)


def with_palettes(root):
    for k, file in enumerate(sorted(root.glob("*/masks/*.png"))):
        with Image.open(file) as stored:
            ids = np.array(stored)
        colours = [(0, 0, 0), (255, 0, 0), (0, 255, 0)]
        if k == 1:
            ids, colours = np.array([0, 2, 1], np.uint8)[ids], [colours[j] for j in (0, 2, 1)]
        indexed = Image.fromarray(ids)
        indexed.putpalette([x for colour in colours for x in colour])
        indexed.save(file)


def white(picture):
    return picture.point(lambda v: 255 * (v > 0))


def instead(old, new):
    return lambda picture: picture.point(lambda v: new if v == old else v)


def one(file, change, to=None, **options):
    return lambda root: edit(root / file, change, root / to if to else None, **options)


def every(pattern, change):
    return lambda root: edit_all(root, pattern, change)


def copied(to, change=lambda p: p):
    return lambda root: edit(root / IMAGE, change, root / to)


def as_it_is(picture):
    return picture


def plus_one(picture):
    return picture.point(lambda v: v + 1)


def brighter(picture):
    return picture.resize((60, 44)).point(lambda v: min(255, v + 9)).resize((W, H))


# The issue's code, the ids of a set, how the issue is planted in it, the files that then have it.
THREE, TWO, BINARY = (0, 1, 2), (0, 1), (0, 255)
VAL, NEXT, ROOT = Path("val/images/p07.png"), Path("train/images/p03.png"), Path(".")
BMP, TIF, MASK_JPG = IMAGE.with_suffix(".bmp"), IMAGE.with_suffix(".tif"), MASK.with_suffix(".jpg")
FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (W, H))]}
PLANTED = {
    "missing-mask": (THREE, lambda r: (r / MASK).unlink(), [IMAGE]),
    "missing-image": (THREE, lambda r: (r / IMAGE).unlink(), [MASK]),
    "other-files": (THREE, lambda r: (r / "val/images/p07.heic").touch(), [VAL.parent]),
    "same-stem": (THREE, lambda r: Image.open(r / IMAGE).save(r / BMP), [BMP, IMAGE]),
    "unreadable": (THREE, truncated, [IMAGE]),
    "size-mismatch": (THREE, one(MASK, lambda p: p.resize((32, 24), 0)), [MASK]),
    "exif": (THREE, turned, [JPG]),
    "colour-space": (THREE, one(IMAGE, lambda p: p.convert("CMYK"), JPG), [JPG]),
    "bit-depth": (THREE, one(IMAGE, deep), [IMAGE]),
    "mask-depth": (THREE, one(MASK, deep), [MASK]),
    "transparent": (THREE, one(IMAGE, transparent), [IMAGE]),
    "frames": (THREE, one(IMAGE, as_it_is, TIF, **FRAMES), [TIF]),
    "mode": (THREE, one(IMAGE, lambda p: p.convert("RGBA")), [IMAGE]),
    "mixed-channels": (THREE, one(IMAGE, lambda p: p.convert("L")), [IMAGE]),
    "wrong-suffix": (THREE, one(IMAGE, as_it_is, format="JPEG", quality=95), [IMAGE]),
    "mask-colours": (THREE, one(MASK, coloured), [MASK]),
    "bright-background": (TWO, every("*/masks/*", on_white), 14),
    "palette-differs": (THREE, with_palettes, [Path("test/masks/p11.png")]),
    "black-white": (TWO, every("*/masks/*", white), 14),
    "mixed-values": (TWO, one(MASK, white), [MASK]),
    "interpolated": (BINARY, one(MASK, lambda p: p.filter(ImageFilter.GaussianBlur(0.8))), [MASK]),
    "thin-strips": (THREE, one(MASK, smeared), [MASK]),
    "lossy-mask": (BINARY, one(MASK, as_it_is, MASK_JPG, quality=75), [MASK_JPG]),
    "trimap": (THREE, every("*/masks/*", plus_one), 14),
    "ids-from-one": (TWO, every("*/masks/*", plus_one), 14),
    "id-gap": (THREE, one(MASK, instead(2, 5)), [MASK]),
    "unknown-ids": (THREE, one(MASK, instead(2, 90)), [MASK]),
    "no-background": (TWO, every("*/masks/*", lambda p: p.point(lambda v: 1 - v)), [ROOT]),
    "no-foreground": (TWO, every("*/masks/*", instead(1, 0)), [ROOT]),
    "empty-mask": (THREE, one(MASK, lambda p: p.point(lambda v: 0)), [MASK]),
    "rare-class": (THREE, every("*/masks/p*[0-24-9].png", instead(2, 1)), [ROOT]),
    "class-not-in-split": (THREE, every("val/masks/*", instead(2, 1)), [Path("val")]),
    "leak-duplicate": (THREE, copied(VAL), [IMAGE, VAL]),
    "leak-near-duplicate": (THREE, copied(VAL, brighter), [IMAGE, VAL]),
    "duplicate": (THREE, copied(NEXT), [IMAGE, NEXT]),
}
# 0/255 masks are worth a note wherever they are.
ALONG = {"interpolated": {"black-white"}, "lossy-mask": {"black-white"}}


@pytest.mark.parametrize("ids", [THREE, TWO, (0, 1, 2, 255)])
def test_a_healthy_folder_has_no_issues(tmp_path, ids):
    report = doctor.check(healthy(tmp_path / "mine", ids))
    assert report.issues == [] and report.ok
    assert report.statistics["pairs"] == SPLITS
    assert report.statistics["sizes"] == {"64×48": 14}


FIXED = {
    "exif": "turned upright",
    "mode": "made grey or RGB",
    "wrong-suffix": "renamed",
    "palette-differs": "ids made those of the usual palette",
    "black-white": "255 became 1",
    "mixed-values": "255 became 1",
    "interpolated": "edges cut at a half",
    "lossy-mask": "edges cut at a half",
}
KEPT = {
    "bright-background", "mixed-channels", "thin-strips", "id-gap", "no-background",
    "no-foreground", "empty-mask", "rare-class", "class-not-in-split", "leak-duplicate",
    "leak-near-duplicate", "duplicate",
}  # fmt: skip


@pytest.mark.parametrize("code", PLANTED)
def test_an_issue_is_found_alone_and_a_copy_is_corrected_or_lacks_it(tmp_path, code):
    ids, plant, files = PLANTED[code]
    root, out = healthy(tmp_path / "mine", ids), tmp_path / "out"
    plant(root)
    report = doctor.check(root)
    found = codes(report)
    assert set(found) == {code} | ALONG.get(code, set())
    issue = found[code]
    if isinstance(files, int):
        assert len(issue.files) == files
    else:
        assert issue.files == tuple(file.as_posix() for file in files)
    assert issue.what and issue.remedy and len(issue.details) == len(issue.files)
    assert issue.fixable == (code in {*FIXED, "mask-colours", "mask-depth"})
    if code in ("trimap", "ids-from-one"):
        with pytest.raises(DataError, match="no pair that could be written"):
            doctor.fix(report, out)
        return
    if code == "exif":  # the mask is that of the picture as shown
        edit(root / MASK, lambda p: p.transpose(Image.Transpose.ROTATE_270))
    before = {file: file.read_bytes() for file in root.rglob("*.*")}
    done = doctor.fix(report, out)
    assert {file: file.read_bytes() for file in root.rglob("*.*")} == before
    again = codes(doctor.check(out))
    left_out = {fix.file for fix in done if fix.written is None}
    if code in FIXED:
        assert FIXED[code] in {fix.what for fix in done} and not left_out
        assert again == {}
    elif code == "other-files":  # not copied
        assert again == {} and not left_out
    elif code in KEPT:
        assert set(again) == {code} and not left_out
    else:
        assert again == {} and set(report.issues[0].files) <= left_out
    written = {fix.written for fix in done if fix.written}
    assert written == {f.relative_to(out).as_posix() for f in out.rglob("*.*")}


def test_colours_without_black_are_not_numbered(root, tmp_path):
    """Which of them is the background would be a guess."""
    table = np.array([(0, 200, 0), (200, 0, 0), (0, 0, 200)], np.uint8)
    for file in root.glob("*/masks/*"):
        edit(file, lambda p: Image.fromarray(table[np.array(p)]))
    report = doctor.check(root)
    assert report.colour_ids == {}
    with pytest.raises(DataError, match="no pair that could be written"):
        doctor.fix(report, tmp_path / "out")


def test_all_faults_at_once_are_all_reported(root):
    truncated(root)
    (root / "val/masks/p07.png").unlink()
    edit(root / "test/masks/p11.png", lambda p: p.resize((32, 24), 0))
    edit(root / "train/images/p00.png", lambda p: p.convert("L"))
    wanted = {"unreadable", "missing-mask", "size-mismatch", "mixed-channels"}
    assert set(codes(doctor.check(root))) == wanted


def test_a_folder_without_splits_warns_of_what_may_be_split_apart(tmp_path):
    root = healthy(tmp_path / "mine", splits={".": 12})
    assert doctor.check(root).issues == []
    copy = Image.open(root / "images/p02.png")
    copy.save(root / "images/p05.png")
    Image.open(root / "images/p03.png").point(lambda v: v * 0.95).save(root / "images/p08.png")
    found = codes(doctor.check(root))
    severities = {code: f.severity for code, f in found.items()}
    assert severities == {"duplicate": "warning", "near-duplicate": "warning"}
    assert found["near-duplicate"].details == ("as p08", "as p03")
    together = {"p05": "a", "p02": "a", "p03": "b", "p08": "b"}
    assert doctor.check(root, group_by=lambda name: together.get(name, name)).issues == []


def test_groups_must_keep_to_one_split(root):
    assert doctor.check(root, group_by=r"p\d\d").issues == []
    (issue,) = doctor.check(root, group_by=r"p\d(\d)").issues
    assert (issue.code, issue.severity) == ("leak-group", "error")
    assert "train/images/p00.png" in issue.files and "test/images/p10.png" in issue.files
    assert "train/images/p04.png" not in issue.files
    with pytest.raises(DataError, match="is found in 0 of 14 names"):
        doctor.check(root, group_by="patient")


def test_named_classes_decide_what_is_a_gap(root):
    edit(root / MASK, lambda p: p.point(lambda v: 4 if v == 2 else v))
    named = doctor.check(root, class_names=["a", "b", "c", "d", "e"])
    assert set(codes(named)) == {"absent-class", "rare-class"}
    assert named.statistics["classes"][3] == {"id": 3, "name": "d", "share": 0.0, "images": 0}
    assert set(codes(doctor.check(root, class_names=["a", "b", "c"]))) == {"unknown-ids"}
    edit_all(root, "*/masks/*", white)
    assert set(codes(doctor.check(root, class_names=["a", "b", "c"]))) == {"class-names"}
    assert doctor.check(root, values="ids").statistics["values"] == "ids"


def test_the_doctor_and_the_loader_agree(root):
    assert doctor.check(root).ok
    assert len(open_folder(root, "train", 16)) == 6
    for code in ("unreadable", "exif", "mask-colours", "id-gap", "size-mismatch"):
        broken = healthy(root.parent / code)
        PLANTED[code][1](broken)
        assert not doctor.check(broken).ok
        with pytest.raises(DataError):
            open_folder(broken, "train", 16)


def test_other_places_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither images/"):
        doctor.check(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        doctor.check(tmp_path / "nowhere")


# The other layouts


def test_labelme_files_are_read_too(tmp_path):
    root = tmp_path / "mine"
    for i in range(6):
        points = [[4 + i, 4], [40 - 2 * i, 6], [30, 40]]
        annotate(root, f"a{i}", [shape("leaf", points)], picture(i))
    report = doctor.check(root)
    assert report.layout == "labelme" and report.issues == []
    assert [c["name"] for c in report.statistics["classes"]] == ["background", "leaf"]
    (root / "a1.json").write_text("{")
    (root / "a2.json").unlink()
    (root / "a3.png").unlink()
    edit(root / "a4.png", lambda p: p.resize((32, 24)))
    found = codes(doctor.check(root))
    assert {code: f.files for code, f in found.items()} == {
        "annotation-file": ("a1.json",),
        "annotation-image": ("a3.json",),
        "annotation-size": ("a4.json",),
        "missing-mask": ("a2.png",),
    }
    with pytest.raises(DataError, match="only folders of images and masks can be corrected"):
        doctor.fix(report, tmp_path / "out")


def test_the_pets_are_read_as_the_loader_does(tmp_path):
    root = tmp_path / "oxford-iiit-pet"
    for place in ("images", "annotations/trimaps"):
        (root / place).mkdir(parents=True)
    names = [f"Cat_{i}" for i in range(8)]
    for part, listed in (("trainval", names[:5]), ("test", names[5:])):
        (root / "annotations" / f"{part}.txt").write_text("".join(f"{n} 1 1 1\n" for n in listed))
    for i, name in enumerate(names):
        Image.fromarray(picture(i)).save(root / "images" / f"{name}.jpg")
        trimap = mask(i, (2, 1, 3))
        Image.fromarray(trimap).save(root / "annotations/trimaps" / f"{name}.png")
    report = doctor.check(tmp_path)
    assert report.layout == "oxford-pet" and report.issues == []
    assert report.statistics["pairs"] == {"trainval": 5, "test": 3}
    assert [c["name"] for c in report.statistics["classes"]] == ["background", "pet", "border"]
    Image.fromarray(mask(0, (2, 1, 7))).save(root / "annotations/trimaps/Cat_0.png")
    (root / "images/Cat_1.jpg").unlink()
    assert set(codes(doctor.check(root))) == {"unknown-ids", "missing-image"}


# What is shown


def test_the_report_is_json_a_table_and_a_page(tmp_path, root, capsys):
    truncated(root)
    edit(root / "val/masks/p07.png", lambda p: p.resize((32, 24), 0))
    os.rename(root / "test/images/p12.png", root / "test/images/<b>.png")
    report = doctor.check(root)
    shown = json.loads(json.dumps(report.to_dict()))
    assert (shown["ok"], shown["layout"]) == (False, "folder")
    wanted = {"unreadable", "size-mismatch", "missing-mask", "missing-image"}
    assert {f["code"] for f in shown["issues"]} == wanted
    report.print()
    printed = capsys.readouterr().out
    assert "4 errors" in printed and "error size-mismatch" in printed
    report.write_html(tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert "train/images/p02.png" in html and "32×24, image 64×48" in html
    assert html.count("data:image/jpeg") >= 6
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert "<b>.png" not in html and "&lt;b&gt;.png" in html
    assert json.loads(json.dumps(report.to_dict())) == shown  # reading it changes nothing


# Corrected copies


@pytest.mark.parametrize("lies_on", ["stored", "shown"])
def test_a_turned_image_and_its_mask_come_to_lie_on_each_other(tmp_path, root, lies_on):
    turned(root)
    upright = picture(2).transpose(1, 0, 2)[:, ::-1]
    expected = mask(2).T[:, ::-1]
    if lies_on == "shown":
        Image.fromarray(np.ascontiguousarray(expected)).save(root / MASK)
    doctor.fix(doctor.check(root), tmp_path / "out")
    fixed = np.asarray(Image.open(tmp_path / "out" / IMAGE)).astype(int)
    assert fixed.shape == upright.shape and np.abs(fixed - upright).mean() < 5
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / MASK)), expected)


def test_a_half_turn_is_left_to_the_owner(tmp_path, root):
    turned(root, 3)
    done = doctor.fix(doctor.check(root), tmp_path / "out")
    left_out = {fix.file: fix.what for fix in done if fix.written is None}
    assert set(left_out) == {JPG.as_posix(), MASK.as_posix()}
    assert "cannot be decided" in left_out[MASK.as_posix()]


def test_16_bit_masks_whose_ids_fit_8_bits_are_saved_so(tmp_path, root):
    edit(root / MASK, lambda p: Image.fromarray(np.array(p, np.uint16)))
    assert set(codes(doctor.check(root))) == {"mask-depth"}
    doctor.fix(doctor.check(root), tmp_path / "out")
    assert doctor.check(tmp_path / "out").issues == []
    assert np.array_equal(Image.open(tmp_path / "out" / MASK), mask(2))


@pytest.mark.parametrize("empty", [False, True])
def test_colour_masks_become_ids(tmp_path, root, empty):
    edit_all(root, "*/masks/*", coloured)
    if empty:  # black in all channels reads as a mask of 0
        edit(root / "val/masks/p07.png", lambda p: p.point(lambda v: 0))
    out = tmp_path / "out"
    report = doctor.check(root)
    assert set(codes(report)) == {"mask-colours"} | ({"empty-mask"} if empty else set())
    doctor.fix(report, out)
    assert set(codes(doctor.check(out))) == ({"empty-mask"} if empty else set())
    written = np.asarray(Image.open(out / MASK))
    assert np.array_equal(np.unique(written), [0, 1, 2])
    assert np.array_equal(written == 0, mask(2) == 0)


def test_a_map_of_values_is_written_as_ids(tmp_path):
    root = healthy(tmp_path / "mine", (0, 128, 255))
    assert "unknown-ids" in codes(doctor.check(root))
    values = {255: "cup", 0: "background", 128: "disc"}
    report = doctor.check(root, values=values)
    assert report.issues == []
    classes = [(c["id"], c["name"]) for c in report.statistics["classes"]]
    assert classes == [(0, "background"), (1, "cup"), (2, "disc")]
    turned(root)  # its mask is turned, too
    edit(root / "val/masks/p07.png", lambda p: p.point(lambda v: v and 90))
    report = doctor.check(root, values=values)
    assert codes(report)["unknown-value"].details == ("it holds 90",)
    assert not codes(report)["unknown-value"].fixable
    done = doctor.fix(report, tmp_path / "out")
    left_out = {fix.file: fix.what for fix in done if fix.written is None}
    assert set(left_out) == {"val/masks/p07.png", "val/images/p07.png"}
    assert "unknown-value" in left_out["val/masks/p07.png"]
    assert {fix.what for fix in done if fix.written and "/masks/" in fix.file} == {
        "values became ids"
    }
    assert (tmp_path / "out/classes.txt").read_text() == "background\ncup\ndisc\n"
    for i in (1, 2):
        ids = np.asarray(Image.open(tmp_path / f"out/train/masks/p{i:02d}.png"))
        wanted = np.array([0, 2, 1])[mask(i)]
        assert np.array_equal(ids, wanted if i == 1 else wanted.T[:, ::-1])
    assert doctor.check(tmp_path / "out", values="ids", class_names=["b", "c", "d"]).issues == []


def test_a_map_of_colours_does_not_take_palettes_for_those_of_ids(tmp_path):
    root = healthy(tmp_path / "mine")
    for k, file in enumerate(sorted(root.glob("*/masks/*.png"))):
        colours = [(0, 0, 0), (250, 0, 0), (0, 250, 0)]
        order = [0, 2, 1] if k % 2 else [0, 1, 2]
        indexed = Image.fromarray(np.array(order, np.uint8)[np.array(Image.open(file))])
        indexed.putpalette([part for i in order for part in colours[i]])
        indexed.save(file)
    assert "palette-differs" in codes(doctor.check(root))
    values = {"#000000": "background", "#fa0000": "disc", "#00fa00": "cup"}
    report = doctor.check(root, values=values)
    assert report.issues == []
    doctor.fix(report, tmp_path / "out")
    for i in range(3):
        copy = np.asarray(Image.open(tmp_path / f"out/train/masks/p{i:02d}.png"))
        assert np.array_equal(copy, mask(i))


def test_black_white_masks_that_are_all_jpegs_are_cut_at_a_half(tmp_path):
    root = healthy(tmp_path / "mine", BINARY)
    for file in root.glob("*/masks/*"):
        edit(file, lambda p: p, file.with_suffix(".jpg"))
    report = doctor.check(root)
    assert set(codes(report)) == {"lossy-mask"} and report.issues[0].fixable
    share = np.mean([mask(i, BINARY) > 0 for i in range(14)])
    assert report.statistics["classes"][1]["share"] == pytest.approx(share, abs=0.01)
    doctor.fix(report, tmp_path / "out")
    assert doctor.check(tmp_path / "out").issues == []


def test_objects_ringed_by_ignored_pixels_cause_no_warning(root, recwarn):
    edit_all(
        root, "*/masks/*", lambda p: p.point(lambda v: v and 2).filter(ImageFilter.MinFilter(3))
    )
    for file in root.glob("*/masks/*"):
        ids = np.array(Image.open(file))
        wide = np.array(Image.fromarray(ids).filter(ImageFilter.MaxFilter(5)))
        Image.fromarray(np.where((ids == 0) & (wide > 0), 255, ids).astype(np.uint8)).save(file)
    doctor.check(root, class_names=["a", "b", "c"])
    assert not [warning for warning in recwarn if "slice" in str(warning.message)]


def test_cut_edges_come_back(tmp_path):
    root = healthy(tmp_path / "mine", BINARY)
    PLANTED["interpolated"][1](root)
    doctor.fix(doctor.check(root), tmp_path / "out")
    fixed = np.asarray(Image.open(tmp_path / "out" / MASK))
    assert (fixed != (mask(2, BINARY) > 0)).mean() < 0.005


def test_a_copy_appears_whole_or_not_at_all(tmp_path, root, monkeypatch):
    report = doctor.check(root)
    (root / "test/masks/p13.png").unlink()
    with pytest.raises(FileError, match=r"p13\.png"):
        doctor.fix(report, tmp_path / "out")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mine"]


# Real data. What is reported there is truly unusual; nothing else is.


def found_in(folder):
    report = doctor.check(Path(REAL, folder))
    notes = {issue.code for issue in report.issues if issue.severity == "note"}
    return {f.code: f.files for f in report.issues if f.severity != "note"}, notes


@real
def test_the_teeth_x_rays():
    assert found_in("teeth-xray") == (
        {
            "duplicate": ("images/cate4-00101.jpg", "images/cate4-00107.jpg"),
            "near-duplicate": ("images/cate1-00044.jpg", "images/cate3-00009.jpg"),
        },
        {"black-white", "shared-stems"},  # cate1-…: it cannot know that these are no patients
    )


@real
def test_the_nuclei():
    found, notes = found_in("nuclei")
    (pair,) = found.values()
    assert set(found) == {"near-duplicate"}
    assert [Path(file).stem[:4] for file in pair] == ["20b2", "cb4d"]
    assert notes == {"black-white", "mode"}


@real
def test_the_pets():
    found, notes = found_in("oxford-iiit-pet")
    image = "images/Abyssinian_{}.jpg".format
    assert found == {
        "leak-near-duplicate": (image(151), image(99)),
        "near-duplicate": tuple(map(image, (11, 122, 172, 177))),
    }
    assert notes == {"mode", "wrong-suffix"}  # an RGBA PNG that is called .jpg
