"""`segkit evaluate`, `predict` and `export`: what a model file is for."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segkit.cli.frame import (
    AsJson,
    Batch,
    Border,
    Data,
    Device,
    bar,
    print_json,
    print_table,
    stderr,
    stoppable,
    values,
)

if TYPE_CHECKING:
    from segkit.model_file import ModelMetadata
    from segkit.predict import Outcome

Model = Annotated[Path, typer.Argument(help="Model file, as OUT/model.safetensors of train.")]
Threshold = Annotated[
    float | None,
    typer.Option(help="Of probability. Default: the one in the model file."),
]


def evaluate(
    model: Model,
    data: Data = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    border: Border = None,
    count: Annotated[int | None, typer.Option(min=1, help="Only so many images.")] = None,
    threshold: Threshold = None,
    batch_size: Batch = 16,
    device: Device = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Any other option of the data set."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write the report card to this HTML file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a model on images it has not seen, with 95 % intervals, and by class.

    Without --data it is the data the model was trained on, by the train.yaml beside it: the same
    split, so that its test set is one that training never saw. Images are resized as for training.
    """
    from segkit import config as configs
    from segkit.evaluate import evaluate as evaluate_model
    from segkit.evaluate import summary
    from segkit.model_file import load_model
    from segkit.report_card import report_card
    from segkit.train.distributed import pick_device

    network, metadata = load_model(model)
    metadata = _at(threshold, metadata)
    part = configs.source(data) if data else configs.of_run(model)
    entries = values(options) | ({"border": border} if border else {})
    part = configs.for_model(part | entries, metadata)
    with stoppable(), stderr().status(f"evaluating on {part['name']}, {split}"):
        images = configs.open_split(part, split, count)
        network.to(pick_device(device))
        if report:
            found = report_card(report, network, metadata, images, batch_size=batch_size)
        else:
            found = summary(evaluate_model(network, metadata, images, batch_size))
    about = {"source": part["name"], "split": split} | images.info
    if as_json:
        named = {"model": model, "network": metadata.network, "data": about}
        print_json(named | found | {"report": report})
        return
    _tell_scores(found, metadata.network, about)
    if report:
        print(f"Report card: {report}")


def _at(threshold: float | None, metadata: "ModelMetadata") -> "ModelMetadata":
    """Return the metadata with another threshold, if there is one."""
    if threshold is None:
        return metadata
    if not 0 < threshold < 1:
        raise typer.BadParameter(f"{threshold} is not between 0 and 1", param_hint="--threshold")
    return replace(metadata, threshold=threshold)


def _tell_scores(found: dict[str, Any], network: str, data: dict[str, Any]) -> None:
    where = ", ".join(f"{name} {value}" for name, value in data.items())
    rule = "the largest logit decides"
    if found["threshold"] is not None:
        rule = f"foreground above the probability {found['threshold']:g}"
    print(f"{network} on {found['images']} images: {where}")
    print(f"Rule: {rule}; ignored pixels (255) are left out")
    print_table(
        ("Score", "value", "95 % interval"),
        [
            (name, _number(score["value"]), f"{_number(score['low'])} to {_number(score['high'])}")
            for name, score in found["scores"].items()
        ],
        numbers=True,
    )
    ratios = ("IoU", "Dice", "precision", "recall")
    print_table(
        ("Class", *ratios, "true pixels", "images"),
        [
            (
                row["class"],
                *(_number(row[name]) for name in ratios),
                f"{100 * row['pixels']:.1f} %",
                str(row["images"]),
            )
            for row in found["classes"]
        ],
        numbers=True,
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def predict(
    model: Annotated[Path, typer.Argument(help="Model file, or a network exported as .onnx.")],
    pictures: Annotated[list[Path], typer.Argument(help="Pictures, or folders of pictures.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the masks.")],
    form: Annotated[
        str, typer.Option(help="palette (each class in its colour) or ids (grey).")
    ] = "palette",
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Lay the mask over the picture, NAME_overlay.jpg.")
    ] = False,
    tta: Annotated[
        str,
        typer.Option(
            help="Test-time augmentation: average over flips h, v or hv. Takes 2, 2, 4 times."
        ),
    ] = "",
    scale: Annotated[
        list[float] | None,
        typer.Option(help="Average over sizes too, as --scale 1 --scale 1.25."),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(min=1, help="Slide a window of this side over the picture, full size."),
    ] = None,
    overlap: Annotated[float, typer.Option(help="Of neighbouring windows, 0 to below 1.")] = 0.25,
    threshold: Threshold = None,
    min_size: Annotated[
        int, typer.Option(min=0, help="Remove connected components of fewer pixels.")
    ] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace masks that are there already.")
    ] = False,
    batch_size: Batch = 4,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Write the mask of each picture as a PNG of the picture's own size.

    The pictures themselves are never written to. One that cannot be used is reported on stderr,
    the rest is done, and the exit code is 1.
    """
    from segkit.predict import Predictor, find_pictures, predict_folder

    how = {"window": tile, "overlap": overlap, "batch_size": batch_size, "flips": tta}
    how |= {"scales": scale or (1.0,), "min_size": min_size}
    predictor = Predictor.load(model, device, **how)
    predictor.metadata = _at(threshold, predictor.metadata)
    total = sum(len(find_pictures(place)) for place in pictures)
    with stoppable(), bar("predicting", total) as advance:

        def watch(outcome: "Outcome") -> None:
            advance()
            if outcome.error:
                print(outcome.error, file=sys.stderr)
            elif not as_json:
                shares = ", ".join(f"{k} {100 * v:.1f} %" for k, v in outcome.shares.items())
                print(f"{outcome.mask}: {shares}")

        outcomes = predict_folder(
            predictor, pictures, out, form=form, overlays=overlay, overwrite=overwrite, watch=watch
        )
    failed = [outcome for outcome in outcomes if outcome.error]
    if as_json:
        print_json([vars(outcome) for outcome in outcomes])
    else:
        print(f"{len(outcomes) - len(failed)} of {len(outcomes)} masks are in {out}")
    raise typer.Exit(1 if failed else 0)


def export(
    model: Model,
    out: Annotated[Path, typer.Argument(help="File to write: .onnx, or .pt2 for torch.export.")],
    size: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Side of the images to time, several times if you like."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time, in the timing.")] = 1,
    repeats: Annotated[int, typer.Option(min=2, help="Runs that are timed.")] = 20,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Write a model for use without segkit, once it is seen to give the same logits.

    OUT.onnx takes any batch, height and width; class names, normalisation and threshold are in
    it, and onnx_predictor.py, all that is needed to predict with it, lies beside it. The table
    says how long PyTorch and onnxruntime take on this machine.
    """
    from segkit import environment
    from segkit import export as exports
    from segkit.model_file import load_model
    from segkit.train.distributed import pick_device

    if out.suffix.lower() not in (".onnx", ".pt2"):
        raise typer.BadParameter(f"{out} ends neither in .onnx nor in .pt2", param_hint="OUT")
    network, metadata = load_model(model)
    if out.suffix.lower() == ".pt2":
        exports.save_program(out, network, metadata)
        print_json({"file": out}) if as_json else print(f"{out}: the program, with its metadata")
        return
    missing = environment.lacks(environment.requirements()[1]["export"])
    if missing != "installed":
        raise exports.ExportError(f"ONNX {missing}: pip install 'segkit[export]'")
    with stoppable(), stderr().status("exporting and comparing"):
        difference = exports.export_onnx(out, network, metadata)
    if not as_json:
        print(f"{out}: onnxruntime's logits are within {difference:.1e} of PyTorch's")
    sides = [(side, side) for side in size or []] or [metadata.size]
    shapes = [(batch, metadata.in_channels, *side) for side in sides]
    with stoppable(), stderr().status("timing"):
        runners = exports.runners(network.to(pick_device(device)), out)
        rows = exports.latency(runners, shapes, repeats)
    if as_json:
        about = {"file": out, "difference": difference}
        print_json(about | {"latency": [vars(row) for row in rows]})
    else:
        print(exports.table(rows))
