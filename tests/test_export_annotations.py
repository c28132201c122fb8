"""Masks written as annotations, and read back."""

import json
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
from calls import call, printed
from PIL import Image
from pycocotools.coco import COCO
from skimage.draw import polygon2mask

from segkit import convert
from segkit.errors import SegkitError

NAMES = ("background", "cell", "bone")


def masks() -> dict[str, np.ndarray]:
    found = {name: np.zeros((20, 30), np.uint8) for name in ("holes", "lines", "touch", "empty")}
    found["holes"][2:18, 3:25] = 1
    found["holes"][5:9, 6:12] = 0
    found["holes"][10:15, 8:20] = 2
    found["holes"][12, 10] = 1
    found["lines"][4, :] = 1
    found["lines"][:, 29] = 2
    found["lines"][range(6, 18), range(6, 18)] = 1  # touch by corners only
    found["lines"][0, 0] = 2
    found["touch"][:10, :15], found["touch"][10:, :15], found["touch"][:, 15:] = 1, 2, 255
    found["touch"][5:8, 18:22] = 0
    found["touch"][15:18, 24:27] = 1
    rng = np.random.default_rng(0)
    return found | {"noise": rng.choice(np.array([0, 1, 2, 255], np.uint8), (17, 23))}


def write(root: Path, made: dict[str, np.ndarray]) -> Path:
    for name, mask in made.items():
        for part, picture in (("images", np.zeros_like(mask)), ("masks", mask)):
            (root / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(root / part / f"{name}.png")
    return root


def from_geojson(file: Path, ids: dict[str, int], shape: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    for one in json.loads(file.read_text())["features"]:
        outer, *holes = (
            polygon2mask(shape, np.array(ring)[:, ::-1] - 0.5)
            for ring in one["geometry"]["coordinates"]
        )
        for hole in holes:
            outer &= ~hole
        mask[outer] = ids[one["properties"]["classification"]["name"]]
    return mask


def read_back(form: str, out: Path, made: dict, names=NAMES) -> dict[str, np.ndarray]:
    if form == "geojson":
        ids = {name: i for i, name in enumerate(names)} | {"__ignore__": 255}
        return {k: from_geojson(out / f"{k}.geojson", ids, m.shape) for k, m in made.items()}
    convert.convert(form, out, out.with_name("back"), class_names=names)
    files = (out.with_name("back") / "masks").glob("*.png")
    return {file.stem: np.array(Image.open(file)) for file in files}


@pytest.mark.parametrize("form", ["coco", "labelme", "geojson"])
def test_masks_come_back_exactly(form, tmp_path):
    made = masks()
    root, out = write(tmp_path / "scans", made), tmp_path / "out"
    before = {file: file.read_bytes() for file in root.rglob("*.png")}
    assert convert.export(form, root, out, class_names=NAMES) == (NAMES, {"": len(made)})
    back = read_back(form, out, made)
    for name, mask in made.items():
        np.testing.assert_array_equal(back[name], mask, err_msg=name)
    assert "background" not in "".join(f.read_text() for f in out.glob("*json"))
    assert {file: file.read_bytes() for file in root.rglob("*.png")} == before
    convert.export(form, root, tmp_path / "again", class_names=NAMES)
    for file in filter(Path.is_file, out.rglob("*")):
        assert (tmp_path / "again" / file.relative_to(out)).read_bytes() == file.read_bytes()
    with pytest.raises(SegkitError, match="is there already"):
        convert.export(form, root, out)


def test_pycocotools_reads_run_lengths_boxes_and_areas(tmp_path):
    made = masks()
    convert.export("coco", write(tmp_path / "scans", made), tmp_path / "out", class_names=NAMES)
    coco = COCO(tmp_path / "out" / "annotations.json")
    names = {i: Path(one["file_name"]).stem for i, one in coco.imgs.items()}
    codes = [one for one in coco.anns.values() if isinstance(one["segmentation"], dict)]
    assert len(codes) > 3 and {one["iscrowd"] for one in codes} == {0, 1}
    for one in codes:
        inside = coco.annToMask(one).astype(bool)
        assert (made[names[one["image_id"]]][inside] == one["category_id"]).all()
        (rows, columns), (x, y, w, h) = np.nonzero(inside), one["bbox"]
        assert (x, y, x + w - 1, y + h - 1) == (
            columns.min(), rows.min(), columns.max(), rows.max(),
        )  # fmt: skip
        assert one["area"] == inside.sum()
    for one in coco.anns.values():
        assert one["iscrowd"] == (one["category_id"] == 255)


def test_black_and_white_masks_and_splits(tmp_path):
    mask = np.zeros((8, 9), np.uint8)
    mask[2:5, 3:7] = 255
    for split in ("train", "val"):
        write(tmp_path / "scans" / split, {split: mask})
    text = printed("data", "export", "coco", tmp_path / "scans", "--out", tmp_path / "out")
    assert "1 train, 1 val images with annotations of the classes background, " in text
    names = json.loads(
        printed("data", "export", "labelme", tmp_path / "scans", "-o", tmp_path / "b", "--json")
    )["class_names"]
    convert.convert("coco", tmp_path / "out", tmp_path / "back", class_names=names)
    back = np.array(Image.open(tmp_path / "back" / "val" / "masks" / "val.png"))
    np.testing.assert_array_equal(back, mask // 255)


def test_a_polygon_has_the_corners_of_the_object_alone(tmp_path):
    mask = np.zeros((40, 60), np.uint8)
    mask[5:35, 10:50] = 1
    convert.export("coco", write(tmp_path / "scans", {"a": mask}), tmp_path / "out")
    (one,) = json.loads((tmp_path / "out" / "annotations.json").read_text())["annotations"]
    assert len(one["segmentation"][0]) == 2 * 8  # each corner is cut by half a pixel


def test_values_are_named_on_the_way_out_and_the_way_back_is_printed(tmp_path):
    mask = np.zeros((8, 9), np.uint8)
    mask[2:5, 3:7], mask[0] = 128, 7
    root, values = write(tmp_path / "scans", {"a": mask}), "0=background,128=disc,7=ignore"
    text = printed("data", "export", "coco", root, "-o", tmp_path / "out", "--values", values)
    back = shlex.split(text.split("segkit ")[1])
    call(*back[:-1], tmp_path / "back")
    found = np.array(Image.open(tmp_path / "back" / "masks" / "a.png"))
    np.testing.assert_array_equal(found, np.where(mask == 128, 1, np.where(mask == 7, 255, 0)))


@pytest.mark.parametrize("form", ["coco", "labelme"])
def test_folders_inside_come_back_as_well(form, tmp_path):
    made = {"x/a": masks()["touch"], "y/a": masks()["lines"]}
    for name, mask in made.items():
        for part in ("images", "masks"):
            file = tmp_path / "scans" / part / f"{name}.png"
            file.parent.mkdir(parents=True)
            Image.fromarray(mask).save(file)
    convert.export(form, tmp_path / "scans", tmp_path / "out", class_names=NAMES)
    back = read_back(form, tmp_path / "out", made)
    for name, mask in made.items():
        np.testing.assert_array_equal(back[name.replace("/", "_")], mask)


def test_what_cannot_be_exported_writes_nothing(tmp_path):
    root = write(tmp_path / "scans", masks())
    with pytest.raises(SegkitError, match="there are: coco, labelme, geojson"):
        call("data", "export", "svg", root, "--out", tmp_path / "out")
    (root / "masks" / "lines.png").write_bytes(b"no picture")
    with pytest.raises(SegkitError, match=r"lines\.png"):
        call("data", "export", "coco", root, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif("SEGKIT_REAL_DATA" not in os.environ, reason="needs real data")
@pytest.mark.parametrize("form", ["coco", "labelme", "geojson"])
def test_real_masks_come_back_exactly(form, tmp_path):
    real = Path(os.environ["SEGKIT_REAL_DATA"])
    files = sorted(real.glob("oxford-iiit-pet/**/trimaps/[!.]*.png"))
    nuclei = sorted(real.glob("nuclei/masks/[!.]*.png"))
    if not files or not nuclei:
        pytest.skip("no trimaps, or no nuclei")
    change = np.array([0, 1, 0, 255], np.uint8)
    made = {file.stem: change[np.array(Image.open(file))] for file in files[:1]}
    made |= {file.stem: (np.array(Image.open(file)) > 0).astype(np.uint8) for file in nuclei[:3]}
    root = write(tmp_path / "scans", made)
    convert.export(form, root, tmp_path / "out", class_names=("background", "pet"))
    back = read_back(form, tmp_path / "out", made, ("background", "pet"))
    for name, mask in made.items():
        np.testing.assert_array_equal(back[name], mask, err_msg=name)
