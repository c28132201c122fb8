"""The report card: its numbers are the metrics', and its page needs no other file."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.metadata import version

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from segkit import data, metrics
from segkit.data.dataset import DataError, SegmentationDataset
from segkit.data.transforms import Pipeline
from segkit.evaluate import best_and_worst, by_image, evaluate, scores, summary
from segkit.model_file import ModelMetadata
from segkit.report_card import report_card
from segkit.train import predict_batches


class Brightness(nn.Module):
    """Logits from the grey value: one channel, or three that each prefer a level of grey."""

    def __init__(self, classes=1):
        super().__init__()
        self.levels = nn.Parameter(torch.tensor([0.5] if classes == 1 else [-1.0, 0.0, 1.2]))

    def forward(self, x):
        levels = self.levels[:, None, None]
        return 3 * (x - levels) if len(levels) == 1 else -4 * (x - levels).square()


def a_set(classes=1, n=24, **options):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (n, 24, 32), dtype=np.uint8)
    blurred = images + random.normal(0, 30, images.shape)
    masks = np.digitize(blurred, [150] if classes == 1 else [70, 190]).astype(np.uint8)
    masks[:, :2] = 255
    names = ("background", "grey", "white")[: max(2, classes)]
    transform = Pipeline([], 1, (0.5,), (0.25,))
    return SegmentationDataset(images, masks, names, transform=transform, **options)


def metadata_of(dataset, threshold=0.5):
    return ModelMetadata.of(dataset, "unet", threshold=threshold, notes={"seed": 7})


@pytest.fixture(params=[1, 3])
def case(request):
    dataset = a_set(request.param)
    return Brightness(request.param), metadata_of(dataset, 0.4), dataset


def all_logits(model, dataset):
    logits, masks = zip(*predict_batches(model, dataset, 5), strict=True)
    return torch.cat(logits), torch.cat(masks)


def test_an_evaluation_counts_what_the_metrics_count(case):
    model, metadata, dataset = case
    logits, masks = all_logits(model, dataset)
    found = evaluate(model, metadata, dataset, batch_size=7)
    expected = metrics.counts(logits, masks, 0.4)
    assert torch.equal(found.counts.stacked(), expected.stacked())
    near = metrics.boundary_counts(logits, masks, 0.4)
    assert torch.equal(found.boundary.stacked(), near.stacked())
    error = metrics.calibration(logits, masks).error()
    assert float(found.calibration.error()) == pytest.approx(float(error))
    if metadata.classes == 1:
        swept = metrics.sweep(logits, masks)
        assert torch.equal(found.sweep.stacked(), swept.stacked())
    else:
        assert found.sweep is None


def test_scores_have_intervals_around_the_counted_value(case):
    model, metadata, dataset = case
    found = evaluate(model, metadata, dataset)
    intervals = scores(found, resamples=300)
    name = "IoU" if metadata.classes == 1 else "mean IoU"
    expected = found.counts.iou("macro", include_background=False)
    assert next(iter(intervals)) == name
    assert intervals[name].value == pytest.approx(float(expected))
    assert all(s.low < s.value < s.high for s in intervals.values())
    assert scores(found, resamples=300) == intervals


def test_rows_of_classes_are_counted_by_hand(case):
    model, metadata, dataset = case
    logits, masks = all_logits(model, dataset)
    if metadata.classes == 1:
        pred = (logits[:, 0] > metrics.logit(0.4)).long()
    else:
        pred = logits.argmax(1)
    valid = masks != 255
    rows = summary(evaluate(model, metadata, dataset))["classes"]
    assert [row["class"] for row in rows] == list(dataset.class_names)
    for label, row in enumerate(rows):
        mine, true = (pred == label) & valid, masks == label
        both = (mine & true).sum()
        assert row["IoU"] == pytest.approx(float(both / (mine | true).sum()))
        assert row["Dice"] == pytest.approx(float(2 * both / (mine.sum() + true.sum())))
        assert row["precision"] == pytest.approx(float(both / mine.sum()))
        assert row["recall"] == pytest.approx(float(both / true.sum()))
        assert row["pixels"] == pytest.approx(float(true.sum() / valid.sum()))
        assert row["images"] == true.any(-1).any(-1).sum()


def test_worst_and_best_are_in_order_and_blank_images_in_neither():
    dataset = a_set()
    dataset.images[3], dataset.masks[3] = 0, 0  # nothing there, nothing found
    dataset.masks[5] = 0  # nothing there, something found
    found = evaluate(Brightness(), metadata_of(dataset), dataset)
    ious = by_image(found)
    assert ious[3].isnan() and ious[5] == 0
    best, worst = best_and_worst(found, 6)
    order = sorted((i for i in range(24) if i != 3), key=lambda i: float(ious[i]))
    assert worst == order[:6] and best == order[::-1][:6]
    few, fewer = best_and_worst(found, 99)
    assert len(few) == len(fewer) == 11 and not {*few} & {*fewer}


def test_images_are_normalised_as_in_training():
    dataset = a_set()
    metadata = metadata_of(dataset)
    wanted = evaluate(Brightness(), metadata, dataset).counts
    other = dataset.with_transform(data.transforms.build("medium", 1))
    assert torch.equal(evaluate(Brightness(), metadata, other).counts.tp, wanted.tp)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": ("background", "bone")}, "class names .*bone"),
        ({"size": (32, 24)}, "size"),
        ({"in_channels": 3, "mean": (0.5,) * 3, "std": (0.2,) * 3}, "channels 3"),
    ],
)
def test_data_of_another_kind_are_refused(change, message):
    dataset = a_set()
    with pytest.raises(DataError, match=message):
        evaluate(Brightness(), replace(metadata_of(dataset), **change), dataset)


class Reader(HTMLParser):
    """Collects what the tests ask of a page; fails on tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.links, self.text, self.headings = [], [], [], [], []
        self.feed(text)
        assert self.open == ["html"]

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [v for k, v in attrs.items() if k in ("src", "href") and v]
        self.images += [attrs] if tag == "img" else []
        self.headings += [int(tag[1])] if re.fullmatch(r"h\d", tag) else []
        self.open += [tag] if tag not in ("meta", "img") else []

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag != "html":
            assert self.open.pop() == tag

    def handle_data(self, text):
        self.text.append(text)


def test_the_page_stands_alone(case, tmp_path):
    model, metadata, dataset = case
    numbers = report_card(tmp_path / "card.html", model, metadata, dataset, cases=4)
    assert [p.name for p in tmp_path.iterdir()] == ["card.html"]
    text = (tmp_path / "card.html").read_text("utf-8")
    page = Reader(text)
    assert all(link.startswith("data:image/") for link in page.links)
    assert "url(" not in text and "@import" not in text and "<script" not in text
    assert len(page.images) == 8 + (3 if metadata.classes == 1 else 2)
    for image in page.images:
        assert len(image["alt"]) > 10 and int(image["width"]) > 0
        content = base64.b64decode(image["src"].split(",")[1])
        Image.open(io.BytesIO(content)).verify()
    assert page.headings[0] == 1 and set(page.headings[1:]) == {2}
    json.dumps(numbers, allow_nan=False)
    shown = " ".join(" ".join(page.text).split())
    for name, score in numbers["scores"].items():
        assert f"{name} {score['value']:.3f} {score['low']:.3f} to {score['high']:.3f}" in shown
    for entry in ("unet", "32×24", "background", "0.25", "seed 7", f"torch {version('torch')}"):
        assert entry in shown, entry


def test_what_others_wrote_is_text_on_the_page(tmp_path):
    evil = '<script>alert("&")</script>'
    names = [f"{evil}{k}" for k in range(24)]
    dataset = replace(a_set(names=names), class_names=("background", evil), info={evil: evil})
    report_card(tmp_path / "card.html", Brightness(), metadata_of(dataset), dataset, title=evil)
    text = (tmp_path / "card.html").read_text("utf-8")
    assert "<script" not in text
    assert "".join(Reader(text).text).count(evil) > 10


def test_validation_has_a_curve_of_its_own(tmp_path):
    dataset = a_set()
    cards = []
    for validation in (None, a_set(n=6)):
        path = tmp_path / "card.html"
        report_card(
            path, Brightness(), metadata_of(dataset), dataset, validation=validation, cases=0
        )
        cards.append([image["src"] for image in Reader(path.read_text("utf-8")).images])
    assert cards[0][0] != cards[1][0] and cards[0][1:] == cards[1][1:]


def test_a_class_that_is_nowhere_has_no_score(tmp_path):
    dataset = a_set(3)
    dataset.masks[dataset.masks == 2] = 1
    model = Brightness(3)
    with torch.no_grad():
        model.levels[2] = 99.0
    numbers = report_card(tmp_path / "card.html", model, metadata_of(dataset), dataset)
    assert numbers["classes"][2]["IoU"] is None and numbers["classes"][2]["images"] == 0
    json.dumps(numbers, allow_nan=False)
    Reader((tmp_path / "card.html").read_text("utf-8"))


def test_a_network_that_finds_nothing_gets_its_card_too(tmp_path):
    dataset = a_set()
    model = Brightness()
    with torch.no_grad():
        model.levels[0] = 99.0
    numbers = report_card(tmp_path / "card.html", model, metadata_of(dataset), dataset)
    assert numbers["scores"]["IoU"]["value"] == 0
    assert numbers["scores"]["precision"]["value"] is None
    dataset.masks[:] = 0
    numbers = report_card(tmp_path / "card.html", model, metadata_of(dataset), dataset)
    assert numbers["scores"]["IoU"] == {"value": None, "low": None, "high": None}
