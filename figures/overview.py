"""Draws figures/overview.png, the picture in the README: `.venv/bin/python figures/overview.py`.

Three photographs that come with scikit-image, and what the course's model "pets" predicts.
"""

from pathlib import Path

from segkit import plot
from segkit.data import photos
from segkit.predict import Predictor

TITLES = {"chelsea": "a cat", "coffee": "no pet", "astronaut": "no pet"}


def main() -> None:
    """Predict a mask for each photograph, and draw both side by side."""
    predictor = Predictor.load("pets", device="cpu")
    fig, axes = plot.grid(1, 2 * len(TITLES), cell=2.2)
    for k, (name, title) in enumerate(TITLES.items()):
        photo = photos.load(name)
        mask = predictor.mask(photo)
        for ax, image in zip(axes[0, 2 * k :], (photo, plot.overlay(photo, mask)), strict=False):
            ax.imshow(image)
            ax.set_anchor("N")
        axes[0, 2 * k].set_title(title)
        axes[0, 2 * k + 1].set_title("predicted as pet")
    fig.savefig(Path(__file__).with_name("overview.png"), dpi=100)


if __name__ == "__main__":
    main()
