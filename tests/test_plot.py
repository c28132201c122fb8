"""The pictures of the course show what they are given."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from segkit import data, plot


@pytest.fixture
def pets():
    return data.load("toy-pets", "train", 32, border="ignore", count=4)


class Everything(torch.nn.Module):
    """Sees the foreground everywhere, or, with several classes, class 2."""

    def __init__(self, classes=1):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.eye(classes)[-1])

    def forward(self, x):
        return 0 * x[:, :1] + self.bias[:, None, None]


def test_colours_tell_classes_and_ignore_apart():
    shown = plot.colours(np.array([[0, 1, 2, 8, 255]]))[0]
    assert len({tuple(c) for c in shown}) == 5
    assert (shown[4] == (190, 190, 190)).all()


def test_overlay_leaves_the_background_as_it_is(pets):
    image, mask = pets.raw(0)
    laid = plot.overlay(image, mask)
    assert (laid[mask == 0] == image[mask == 0]).all()
    assert (laid[mask == 1] != image[mask == 1]).any(axis=1).mean() > 0.9
    assert plot.overlay(image[..., 0], mask).shape == image.shape


def test_predictions_come_from_the_model_and_leave_its_mode(pets):
    model = Everything().train()
    assert (plot.predict_masks(model, pets, [0, 1]) == 1).all() and model.training
    assert (plot.predict_masks(Everything(3), pets, [0]) == 2).all()
    for threshold, expected in ((0.5, 1), (0.7, 1), (0.75, 0)):  # the sigmoid of 1 is 0.731
        assert (plot.predict_masks(model, pets, [0], threshold) == expected).all()


def test_predictions_mark_what_is_wrong(pets):
    _, mask = pets.raw(0)
    for threshold, wrong in ((0.5, mask == 0), (0.75, mask == 1)):
        fig = plot.predictions(Everything(), pets, 2, threshold=threshold)
        error = fig.axes[6].images[0].get_array()  # the fourth row of two columns
        assert ((np.asarray(error) == (213, 94, 0)).all(axis=2) == wrong).all()
    missed = plot.error_map(mask, mask, 0 * mask, binary=True)
    assert ((missed == (86, 180, 233)).all(axis=2) == (mask == 1)).all()


def test_names_with_dollar_signs_are_no_formulas(pets):
    names = ("price_$5_$6", "$^$", *pets.names[2:])
    pets = replace(pets, names=names, class_names=("$a_$", "b$^$"))
    for fig in (plot.samples(pets, 2), plot.predictions(Everything(), pets, 2)):
        fig.canvas.draw()
        assert fig.axes[0].get_title() == "price_$5_$6"
        plt.close(fig)


def test_a_strip_has_its_panels_beside_each_other():
    panels = [np.full((10, 20, 3), value, np.uint8) for value in (10, 200)]
    for side, size in ((40, (86, 20)), (5, (16, 2))):
        picture = plot.strip(panels, side)
        assert picture.size == size
        colours = [picture.getpixel((x, 1))[0] for x in (0, side + 1, size[0] - 1)]
        assert colours == [10, 255, 200]


def test_samples_and_curves_draw(pets):
    assert len(plot.samples(pets, 3).axes) == 9
    history = {"epoch": [1, 2], "train_loss": [1.0, 0.5], "val_loss": [1.1, 0.7]}
    history["val_iou"] = [0.2, 0.6]
    fig = plot.curves({"a": history, "b": history})
    assert [line.get_label() for line in fig.axes[1].lines] == ["a", "b"]
    without = history | {"val_loss": [None, None], "val_iou": [None, None]}
    assert len(plot.curves({"": without}).axes[0].lines) == 1


def test_show_carries_the_alternative_text(monkeypatch):
    import IPython.display

    sent = {}
    monkeypatch.setattr(
        IPython.display, "display", lambda content, metadata, raw: sent.update(content, m=metadata)
    )
    fig, _ = plot.figure()
    plot.show(fig, alt="An empty plot.")
    assert sent["m"]["image/png"]["alt"] == sent["text/plain"] == "An empty plot."
    assert sent["image/png"].startswith("iVBOR")
    with pytest.raises(ValueError, match="alt is empty"):
        plot.show(plot.figure()[0], alt=" ")
