"""`segkit data`: what it passes on, what it prints, and its exit codes."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from calls import call, main, printed
from labelme_files import annotate, shape
from PIL import Image


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SEGKIT_DATA", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / "scans" / part).mkdir(parents=True)
    for i in range(20):
        mask = np.zeros((64, 64), np.uint8)
        mask[8 + i : 30, 9:40] = 1
        Image.fromarray(mask).save(tmp_path / "scans" / "masks" / f"p{i // 4}_{i:02}.png")
        noise = Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).resize((64, 64))
        noise.save(tmp_path / "scans" / "images" / f"p{i // 4}_{i:02}.png")
    return tmp_path / "scans"


def state(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_split_copies_or_lists(folder):
    before = state(folder)
    words = ("--fractions", 0.6, 0.2, 0.2, "--seed", 3, "--group-by", r"p\d", "--json")
    copied = json.loads(printed("data", "split", folder, "--out", "cut", *words))
    listed = json.loads(printed("data", "split", folder, "--out", "cut.csv", *words))
    assert copied["counts"] == {"train": 12, "val": 4, "test": 4}
    assert copied["items"] == listed["items"] and copied["rule"] == r"grouped by p\d"
    assert len(list(Path("cut").rglob("*.png"))) == 40
    assert Path("cut.csv").read_text().count("\n") == 21
    code, text = call("data", "split", folder, "--out", "more.json", "--stratify-by", r"p\d")
    assert code == 0 and r"14 train, 3 val, 3 test; stratified by p\d, seed 0" in text
    assert state(folder) == before


def test_names_that_look_like_groups_are_noticed_and_the_rule_proposed_works(folder):
    for check in ("scans", "cut"):
        code, text = call("data", "check", check)
        assert code == 0 and "note shared-stems" in text and "(p0: 4 images)" in text
        proposed = re.search(r"--group-by '(.+)'", text)[1]
        if check == "scans":
            code, text = call("data", "split", check, "--out", "cut")
            assert "5 such names, as p0" in text
    _, text = call("data", "split", folder, "--out", "whole", "--group-by", proposed)
    assert "such names" not in text
    assert "shared-stems" not in call("data", "check", "whole")[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["split", "nowhere", "--out", "x"], "there is no such folder"),
        (["split", "scans", "--out", "scans/x"], "lies inside scans"),
        (["split", "scans", "--out", "x", "--group-by", "("], "--group-by '(' is no regular"),
        (["split", "scans", "--out", "x", "--group-by", "q"], "is found in 0 of 20 names"),
        (["split", "scans", "--out", "x", "--fractions", "1", "1", "1"], "add up to 1"),
        (["from-labelme", "scans", "--out", "x"], "holds no LabelMe files"),
        (["check", "nowhere"], "nowhere"),
    ],
)
def test_wrong_input_is_one_message(folder, monkeypatch, capsys, words, message):
    assert main(monkeypatch, "data", *words) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not Path("x").exists()


def test_from_labelme_writes_what_train_reads(folder):
    drawn = Path("drawn")
    annotate(drawn, "a", [shape("bone")])
    printed_json = json.loads(printed("data", "from-labelme", drawn, "--out", "out", "--json"))
    about = {"out": "out", "class_names": ["background", "bone"], "counts": {"": 1}, "skipped": []}
    assert printed_json == about
    code, text = call("data", "from-labelme", drawn, "-o", "more", "--classes", "sky, bone")
    assert code == 0 and """-s 'data.class_names=["sky", "bone"]\'""" in text


def test_check_reports_and_corrects(folder):
    code, text = call("data", "check", "scans")
    assert code == 0 and "20 pairs" in text
    assert "fixes" not in json.loads(printed("data", "check", folder, "--json"))
    with Image.open(folder / "masks" / "p0_00.png") as mask:
        mask.resize((32, 32)).save(folder / "masks" / "p0_00.png")
    before = state(folder)
    code, text = call("data", "check", folder, "--html", "check.html", "--fix", "fixed")
    assert code == 1 and "p0_00.png: left out" in text
    assert "Written: check.html" in text and "<html" in Path("check.html").read_text()
    assert len(list(Path("fixed").rglob("*.png"))) == 38
    assert state(folder) == before


def test_suffixes_are_options_wherever_a_folder_is_opened(folder, monkeypatch, capsys):
    for file in list((folder / "masks").iterdir()):
        file.rename(file.with_stem(f"{file.stem}_mask"))
    for file in list((folder / "images").iterdir()):
        file.rename(file.with_stem(f"{file.stem}-rgb"))
    before = state(folder)
    code, text = call("data", "check", folder)
    assert code == 1
    words = re.search(r"\(20 images pair if you add (.+)\)", text)[1].split()
    assert words == ["--image-suffix", "-rgb", "--mask-suffix", "_mask"]
    code, text = call("data", "check", folder, *words, "--fix", "fixed")
    assert code == 0 and "scans (folder): 20 pairs: 1 note" in text
    printed("data", "split", folder, *words, "--out", "cut")
    printed("data", "export", "coco", folder, *words, "--out", "drawn")
    for copy in ("fixed", "cut"):
        assert "20 pairs" in call("data", "check", copy)[1]
    train = {file.stem for file in Path("cut/train/images").iterdir()}
    assert train == {file.stem for file in Path("cut/train/masks").iterdir()}
    assert all(re.fullmatch(r"p\d_\d\d", name) for name in train)
    listed = json.loads(Path("drawn/annotations.json").read_text())["images"]
    assert (Path("drawn/images") / listed[0]["file_name"]).is_file()
    assert listed[0]["file_name"] == "p0_00.png"
    tiny = ("--size", 16, "-n", "dumbnet", "-s", "model.width=2", "--epochs", 1, "--out", "run")
    assert "Read as" not in printed("train", "--data", folder, *words, *tiny)
    model = Path("run/model.safetensors")
    by_run = json.loads(printed("evaluate", model, "--json"))
    by_hand = json.loads(printed("evaluate", model, "--data", folder, *words, "--json"))
    assert by_hand["scores"] == by_run["scores"] and by_run["images"] == 3
    assert main(monkeypatch, "evaluate", model, "--data", folder) == 2
    assert "if you add --image-suffix -rgb --mask-suffix _mask" in capsys.readouterr().err
    assert main(monkeypatch, "data", "check", folder, "--mask-suffix", "_mask.png") == 2
    assert "--mask-suffix _mask.png: give the end" in capsys.readouterr().err
    assert state(folder) == before


def test_what_was_recognised_is_said(folder):
    (folder / "images").rename(folder / "imgs")
    (folder / "masks").rename(folder / "labels")
    code, text = call("data", "check", folder, "--html", "check.html")
    assert code == 0 and re.search("folders +imgs/ and labels/\n", text)
    assert "imgs/ and labels/" in Path("check.html").read_text()
    tiny = ("--size", 16, "-n", "dumbnet", "-s", "model.width=2", "--epochs", 1, "--out", "run")
    assert printed("train", "--data", folder, *tiny).startswith("Read as imgs/ and labels/\n")
    assert "folders imgs/ and labels/" in printed("evaluate", "run/model.safetensors")


def test_folders_inside_stay_in_copies(folder):
    for sub in ("cat", "dog"):
        for part in ("images", "masks"):
            (folder / part / sub).mkdir()
            for k, file in enumerate(sorted((folder / part).glob("*.png"))[:10]):
                file.rename(folder / part / sub / f"{k}.png")
    images = {p.read_bytes() for p in folder.rglob("images/*/*.png")}
    code, text = call("data", "check", folder, "--fix", "fixed")
    assert code == 0
    printed("data", "split", folder, "--out", "cut")
    printed("data", "export", "coco", folder, "--out", "coco")
    printed("data", "export", "labelme", folder, "--out", "labelme")
    for copy, pattern in (("fixed", "images/*/*.png"), ("cut", "*/images/*/*.png"),
                          ("coco", "images/*/*.png"), ("labelme", "*.png")):  # fmt: skip
        assert {p.read_bytes() for p in Path(copy).glob(pattern)} == images
    listed = json.loads(Path("coco/annotations.json").read_text())["images"]
    assert {"cat/0.png", "dog/0.png"} <= {one["file_name"] for one in listed}
    drawn = json.loads(Path("labelme/cat_0.json").read_text())
    assert drawn["imagePath"] == "cat_0.png"
    code, text = call("data", "check", "fixed", "--json")
    assert json.loads(text)["statistics"]["pairs"] == {"": 20}


def test_values_are_an_option_and_corrected_copies_hold_ids(folder, monkeypatch, capsys):
    for file in (folder / "masks").iterdir():
        mask = np.array(Image.open(file)) * 128
        mask[50:60, 50:60] = 255
        Image.fromarray(mask).save(file)
    before = state(folder)
    assert "--values 0=background,128=disc" in call("data", "check", folder)[1]
    values = ("--values", "0=background, 128=disc,255 = cup")
    code, text = call("data", "check", folder, *values, "--fix", "fixed")
    assert code == 0 and "class 2, cup" in text and "values became ids" in text
    command = re.search(r"Next: segkit (train --data fixed -s .* --values ids)", text)[1]
    tiny = ("--size", 16, "-n", "dumbnet", "-s", "model.width=2", "--epochs", 1)
    printed(*shlex.split(command), *tiny, "--out", "second")
    assert "Next" not in call("data", "check", "fixed", "--fix", "more")[1]
    printed("train", "--data", folder, *values, *tiny, "--out", "first")
    model, copy = (Path(run, "model.safetensors") for run in ("first", "second"))
    scores = [json.loads(printed("evaluate", file, "--json"))["scores"] for file in (model, copy)]
    assert scores[0] == scores[1]
    by_hand = json.loads(printed("evaluate", model, "--data", folder, *values, "--json"))
    assert by_hand["scores"] == scores[0]
    assert by_hand["data"]["values"] == {"0": "background", "128": "disc", "255": "cup"}
    wrong = ("--values", "0=background,128=disc")
    assert main(monkeypatch, "train", "--data", folder, *wrong, "--out", "third") == 2
    assert "p0_00.png" in (error := capsys.readouterr().err) and "(it holds 255)" in error
    for text, message in (("0=a,0=b", "names a value twice"), ("0=a,b", "is not NAME=VALUE")):
        code, shown = call("data", "check", folder, "--values", text)
        assert code == 2 and message in shown
    assert state(folder) == before
