"""Draws figures/overview.png, the picture in the README: `.venv/bin/python figures/overview.py`.

Three data sets, and what two networks see in pictures they were not trained on. Takes about five
minutes on two cores.
"""

from pathlib import Path

from segkit import data, models, plot
from segkit.train import fit

SIZE, EPOCHS = 96, 12
SETS = {"toy-pets": 2, "toy-xray": 2, "toy-embryo": 2}  # name: how many pictures are shown


def trained(name: str, train: data.SegmentationDataset, val: data.SegmentationDataset, **options):
    """Return a network after its training on `train`."""
    model = models.build(name, train.channels, train.classes, **options)
    fit(model, train, val, epochs=EPOCHS, lr=3e-3)
    return model


def main() -> None:
    """Train both networks on each set and draw one row of pictures per set."""
    columns = ["image", "truth", "DumbNet", "U-Net"]
    fig, axes = plot.grid(len(SETS), 8, cell=1.4, row_titles=list(SETS))
    for row, (name, shown) in zip(axes, SETS.items(), strict=True):
        train = data.load(name, "train", SIZE, border="pet", count=256, transform="geometric")
        test = data.load(name, "test", SIZE, border="pet", count=12)
        seen = [
            plot.predict_masks(trained(network, train, test, **options), test, range(shown))
            for network, options in (("dumbnet", {}), ("unet", {"width": 12}))
        ]
        for i in range(shown):
            image, mask = test.raw(i)
            pictures = [plot.rgb(image), *map(plot.colours, (mask, seen[0][i], seen[1][i]))]
            for ax, picture, title in zip(row[4 * i :], pictures, columns, strict=False):
                ax.imshow(picture, interpolation="nearest")
                if name == "toy-pets":
                    ax.set_title(title, loc="center")
    fig.savefig(Path(__file__).with_name("overview.png"), dpi=100)


if __name__ == "__main__":
    main()
