"""The report card: its numbers are the metrics', and its page needs no other file."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.metadata import version

import pytest
import torch
from pictures import Brightness, grey_set
from PIL import Image

from segkit import data, metrics
from segkit.errors import DataError
from segkit.evaluate import best_and_worst, by_image, evaluate, scores, summary
from segkit.image_ops import logits_to_mask
from segkit.model_file import ModelMetadata
from segkit.report_card import report_card
from segkit.train import predict_batches


def metadata_of(dataset, threshold=0.5):
    return ModelMetadata.of(dataset, "unet", threshold=threshold, notes={"seed": 7})


@pytest.fixture(params=[1, 3])
def case(request):
    dataset = grey_set(request.param)
    model = Brightness() if request.param == 1 else Brightness(-1.0, 0.0, 1.2)
    return model, metadata_of(dataset, 0.4), dataset


def test_an_evaluation_counts_what_the_metrics_count(case):
    model, metadata, dataset = case
    ((logits, masks),) = predict_batches(model, dataset, len(dataset))
    found = evaluate(model, metadata, dataset, batch_size=7)
    counted = {"counts": metrics.counts(logits, masks, 0.4)}
    counted["boundary"] = metrics.boundary_counts(logits, masks, 0.4)
    if metadata.classes == 1:
        counted["sweep"] = metrics.sweep(logits, masks)
    for name, expected in counted.items():
        assert torch.equal(getattr(found, name).stacked(), expected.stacked())
    assert (found.sweep is None) == (metadata.classes > 1)
    error = metrics.calibration(logits, masks).error()
    assert float(found.calibration.error()) == pytest.approx(float(error))


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
    ((logits, masks),) = predict_batches(model, dataset, len(dataset))
    pred = torch.from_numpy(logits_to_mask(logits.numpy(), 0.4)).long()
    rows = summary(evaluate(model, metadata, dataset))["classes"]
    assert [row.pop("class") for row in rows] == list(dataset.class_names)
    for label, row in enumerate(rows):
        found, target = (pred == label) & (masks != 255), masks == label
        correct = float((found & target).sum())
        assert row == pytest.approx(
            {
                "IoU": correct / float((found | target).sum()),
                "Dice": 2 * correct / float(found.sum() + target.sum()),
                "precision": correct / float(found.sum()),
                "recall": correct / float(target.sum()),
                "pixels": float(target.sum() / (masks != 255).sum()),
                "images": int(target.any(-1).any(-1).sum()),
            }
        )


def test_worst_and_best_are_in_order_and_blank_images_in_neither():
    dataset = grey_set()
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


def test_images_are_normalised_as_in_training_and_data_of_another_kind_refused():
    dataset = grey_set()
    metadata = metadata_of(dataset)
    wanted = evaluate(Brightness(), metadata, dataset).counts
    other = dataset.with_transform(data.transforms.build("medium", 1))
    assert torch.equal(evaluate(Brightness(), metadata, other).counts.tp, wanted.tp)
    colour = {"in_channels": 3, "mean": (0.5,) * 3, "std": (0.2,) * 3}
    for change, message in (
        ({"class_names": ("background", "bone")}, "class names .*bone"),
        ({"size": (32, 24)}, "size"),
        (colour, "channels 3"),
    ):
        with pytest.raises(DataError, match=message):
            evaluate(Brightness(), replace(metadata, **change), dataset)


def test_images_that_training_or_selection_has_used_are_named():
    dataset = grey_set()
    train, val = dataset.subset(range(6)), dataset.subset(range(6, 9))
    metadata = ModelMetadata.of(train, "unet", validation=val)
    renamed = replace(dataset.subset([20, 3, 7, 21]), names=["w", "x", "y", "z"])
    trained, chosen = summary(evaluate(Brightness(), metadata, renamed))["warnings"]
    assert trained.startswith("1 of these 4 images (x) were used to train the model: ")
    assert chosen.startswith("1 of these 4 images (y) were used to choose its epoch or threshold: ")
    changed = renamed.subset([1])
    changed.images = changed.images ^ 1
    assert summary(evaluate(Brightness(), metadata, changed))["warnings"] == []


def test_one_image_has_scores_and_no_interval(tmp_path):
    dataset = grey_set()
    found = evaluate(Brightness(), metadata_of(dataset), dataset.subset([0]))
    score = summary(found)["scores"]["IoU"]
    assert score == {"value": pytest.approx(float(found.counts.iou())), "low": None, "high": None}
    report_card(tmp_path / "card.html", Brightness(), metadata_of(dataset), dataset.subset([0]))
    assert "(95 % interval: –) on 1 images" in (tmp_path / "card.html").read_text()


class Reader(HTMLParser):
    """Collects what the tests ask of a page; fails on tags that do not match."""

    def __init__(self, file):
        super().__init__()
        self.open, self.images, self.links, self.words, self.headings = [], [], [], [], []
        self.source = file.read_text("utf-8")
        self.feed(self.source)
        self.text = " ".join("".join(self.words).split())
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href") and value]
        self.images += [dict(attrs)] if tag == "img" else []
        self.headings += [tag] if re.fullmatch(r"h\d", tag) else []
        self.open += [tag] if tag not in ("meta", "img", "html") else []

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert tag == "html" or self.open.pop() == tag

    def handle_data(self, text):
        self.words.append(text)


@pytest.fixture
def card(tmp_path):
    """Return a function that writes a report card, and returns its numbers and its page."""

    def write(model, metadata, dataset, **options):
        numbers = report_card(tmp_path / "card.html", model, metadata, dataset, **options)
        assert [p.name for p in tmp_path.iterdir()] == ["card.html"]
        json.dumps(numbers, allow_nan=False)
        return numbers, Reader(tmp_path / "card.html")

    return write


def test_the_page_stands_alone(case, card):
    numbers, page = card(*case, cases=4)
    assert all(link.startswith("data:image/") for link in page.links)
    assert not any(word in page.source for word in ("url(", "@import", "<script"))
    assert len(page.images) == 8 + (3 if case[1].classes == 1 else 2)
    for image in page.images:
        assert len(image["alt"]) > 10 and int(image["width"]) > 0
        Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1]))).verify()
    assert page.headings[0] == "h1" and set(page.headings[1:]) == {"h2"}
    for name, score in numbers["scores"].items():
        assert f"{name} {score['value']:.3f} {score['low']:.3f} to {score['high']:.3f}" in page.text
    for entry in ("unet", "32×24", "background", "0.25", "seed 7", f"torch {version('torch')}"):
        assert entry in page.text, entry


def test_what_others_wrote_is_text_on_the_page(card):
    evil = '<script>alert("&")</script>'
    names = [f"{evil}{k}" for k in range(24)]
    dataset = replace(grey_set(names=names), class_names=("background", evil), info={evil: evil})
    _, page = card(Brightness(), metadata_of(dataset), dataset, title=evil)
    assert "<script" not in page.source and page.text.count(evil) > 10


def test_validation_has_a_curve_of_its_own(card):
    dataset, other = grey_set(), grey_set(n=6)
    given = Brightness(), metadata_of(dataset), dataset
    cards = [card(*given, validation=v, cases=0)[1].images for v in (None, other)]
    assert [a["src"] == b["src"] for a, b in zip(*cards, strict=True)] == [False, True, True]


def test_what_is_nowhere_has_no_score(card):
    dataset = grey_set(3)
    dataset.masks[dataset.masks == 2] = 1
    numbers, _ = card(Brightness(-1.0, 0.0, 99.0), metadata_of(dataset), dataset)
    assert numbers["classes"][2]["IoU"] is None and numbers["classes"][2]["images"] == 0
    dataset, finds_nothing = grey_set(), Brightness(99.0)
    scores = card(finds_nothing, metadata_of(dataset), dataset)[0]["scores"]
    assert scores["IoU"]["value"] == 0 and scores["precision"]["value"] is None
    dataset.masks[:] = 0
    scores = card(finds_nothing, metadata_of(dataset), dataset)[0]["scores"]
    assert scores["IoU"] == {"value": None, "low": None, "high": None}
