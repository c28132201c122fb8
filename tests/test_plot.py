import numpy as np
import pytest
import torch

from segkit import data, plot


@pytest.fixture
def pets():
    return data.load("toy-pets", "train", 32, border="ignore", count=4)


class Everything(torch.nn.Module):
    """Sees the foreground everywhere, or, with several classes, class 2."""

    def __init__(self, classes):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(classes))
        with torch.no_grad():
            self.bias[-1] = 1.0

    def forward(self, x):
        return self.bias[None, :, None, None].expand(len(x), -1, *x.shape[2:])


class Columns:
    """A history as `curves` reads it."""

    def __init__(self, columns):
        self.columns = columns

    def __getitem__(self, name):
        return self.columns[name]


def test_colours_tell_classes_and_ignore_apart():
    shown = plot.colours(np.array([[0, 1, 2, 255]]))[0]
    assert len({tuple(c) for c in shown}) == 4
    assert (shown[3] == plot.IGNORE_COLOUR).all()


def test_overlay_leaves_the_background_as_it_is(pets):
    image, mask = pets.raw(0)
    laid = plot.overlay(image, mask)
    assert (laid[mask == 0] == image[mask == 0]).all()
    assert (laid[mask == 1] != image[mask == 1]).any(axis=1).mean() > 0.9
    assert plot.overlay(image[..., 0], mask).shape == image.shape


def test_predictions_come_from_the_model_and_leave_its_mode(pets):
    model = Everything(1).train()
    assert (plot.predict_masks(model, pets, [0, 1]) == 1).all() and model.training
    assert (plot.predict_masks(Everything(3), pets, [0]) == 2).all()


def test_predictions_mark_what_is_wrong(pets):
    fig = plot.predictions(Everything(1), pets, 2)
    error = fig.axes[6].images[0].get_array()  # the fourth row of two columns
    _, mask = pets.raw(0)
    red = (np.asarray(error) == (213, 94, 0)).all(axis=2)
    assert (red == (mask == 0)).all()


def test_samples_and_curves_draw(pets):
    assert len(plot.samples(pets, 3).axes) == 9
    columns = {"epoch": [1, 2], "train_loss": [1.0, 0.5], "val_loss": [1.1, 0.7]}
    history = Columns(columns | {"val_iou": [0.2, 0.6]})
    fig = plot.curves({"a": history, "b": history})
    assert [line.get_label() for line in fig.axes[1].lines] == ["a", "b"]
    no_val = Columns(columns | {"val_loss": [None, None], "val_iou": [None, None]})
    assert len(plot.curves(no_val).axes[0].lines) == 1


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
    with pytest.raises(ValueError, match="say in alt"):
        plot.show(plot.figure()[0], alt=" ")
