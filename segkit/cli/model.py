"""`segkit train`, `evaluate`, `predict` and `export`: a model file, and what it is for."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, BadParameter, Exit, Option

from segkit.cli import options
from segkit.cli.options import (
    AsJson,
    Batch,
    Border,
    Data,
    Device,
    ImageSuffix,
    Intensity,
    MaskSuffix,
    Values,
    print_json,
    stoppable,
)

if TYPE_CHECKING:
    from segkit.config import Trained
    from segkit.predict import Outcome

_Model = Annotated[Path, Argument(help="Model file, as OUT/model.safetensors of train.")]
_Threshold = Annotated[
    float | None, Option(help="Of probability. Default: the one in the model file.")
]


def train(
    config: Annotated[Path | None, Argument(help="YAML or JSON: data, model, fit.")] = None,
    data: Data = None,
    border: Border = None,
    values: Values = None,
    image_suffix: ImageSuffix = "",
    mask_suffix: MaskSuffix = "",
    intensity: Intensity = None,
    size: Annotated[int | None, Option(min=1, help="Side of the images, in pixels.")] = None,
    augment: Annotated[str | None, Option(help="In training: light, geometric, medium.")] = None,
    network: Annotated[str | None, Option("--network", "-n", help="Default: unet.")] = None,
    epochs: Annotated[int | None, Option(min=1, help="Passes over the images.")] = None,
    batch_size: Batch = None,
    lr: Annotated[float | None, Option(help="Learning rate.")] = None,
    seed: Annotated[int | None, Option(help="Of data, weights, order and augmentation.")] = None,
    out: Annotated[
        Path | None, Option("--out", "-o", help="Run folder. Default: runs/DATA-NETWORK.")
    ] = None,
    resume: Annotated[bool, Option("--resume", help="Continue the run in the folder.")] = False,
    device: Device = None,
    precision: Annotated[str | None, Option(help="auto, fp32, tf32, bf16 or fp16.")] = None,
    threshold: Annotated[
        float | None, Option(help="Of probability. Default: chosen on validation images.")
    ] = None,
    entries: Annotated[
        list[str] | None,
        Option("--set", "-s", metavar="PART.KEY=VALUE", help="Another entry of the config."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a network and leave a model file that predict, evaluate and export work from.

    The settings come from a config file, from options, or from both: options override the file.
    The run folder gets model.safetensors, train.yaml (all settings), history.csv, config.json
    (the machine too) and checkpoints. On several processes:
    torchrun --nproc_per_node=2 -m segkit train config.yaml.
    """
    from segkit import config as configs
    from segkit.train import distributed

    settings = configs.read(config) if config else {}
    if data:
        settings["data"] = configs.source(data)
    asked = {
        "data.image_suffix": image_suffix or None, "data.mask_suffix": mask_suffix or None,
        "data.values": options.value_map(values),
        "data.intensity": options.intensity(intensity),
        "data.border": border, "data.size": size, "data.transform": augment, "data.seed": seed,
        "model.name": network, "model.seed": seed, "threshold": threshold,
        "fit.epochs": epochs, "fit.batch_size": batch_size, "fit.lr": lr, "fit.seed": seed,
        "fit.out": out and str(out), "fit.resume": resume or None,
        "fit.device": device, "fit.precision": precision,
    }  # fmt: skip
    given = {name: value for name, value in asked.items() if value is not None}
    settings = configs.checked(configs.apply_overrides(settings, given, options.values(entries)))
    folder = Path(settings["data"].get("data_dir") or "").expanduser().resolve().name
    own = settings["data"]["name"] in ("folder", "labelme") and folder
    names = own or settings["data"]["name"], settings["model"]["name"]
    settings["fit"]["out"] = settings["fit"].get("out") or str(Path("runs", "-".join(names)))
    with stoppable():
        log = partial(print, file=sys.stderr if as_json else sys.stdout, flush=True)
        result = configs.from_config(settings, log)
    if result.metadata:
        _print_training(result, as_json)
    if result.history.stopped.startswith("interrupted"):
        raise Exit(130)
    distributed.leave()


def _print_training(result: "Trained", as_json: bool) -> None:
    history, metadata = result.history, result.metadata
    best, last = (history.best, history.last) if len(history) else (None, None)
    chosen = metadata.notes["threshold chosen"]
    if as_json:
        about = {"model": result.file, "epochs": len(history), "stopped": history.stopped}
        about |= {"best": best, "last": last, "threshold": metadata.threshold}
        print_json(about | {"threshold_chosen": chosen})
        return
    if history.stopped:
        print(f"Stopped: {history.stopped}")
    if best:
        name = history.monitor
        print(f"Best {name} {best[name]:.4f}, in epoch {best['epoch']} of {len(history)}")
    print(f"Threshold {metadata.threshold:g} ({chosen})\nModel: {result.file}")


def import_weights(
    weights: Annotated[Path, Argument(help="State dict, as torch.save writes it: .pth or .pt.")],
    out: Annotated[Path, Option("--out", "-o", help="Model file to write.")],
    network: Annotated[str, Option("--network", "-n", help="As train has it.")],
    classes: Annotated[str, Option(help="Class names in the order of ids, as background,bone.")],
    size: Annotated[int, Option(min=1, help="Side of the images in training, in pixels.")],
    mean: Annotated[str, Option(help="By channel, of pixels in 0..1; 0,0,0 for none.")],
    std: Annotated[str, Option(help="By channel; 1,1,1 for none.")],
    threshold: Annotated[float, Option(help="Of probability.")] = 0.5,
    entries: Annotated[
        list[str] | None,
        Option("--set", "-s", metavar="KEY=VALUE", help="Another option of the network."),
    ] = None,
) -> None:
    """Make a model file of weights that were trained with PyTorch elsewhere.

    The network and how its images were normalised are what the training had. Two classes are one
    logit (sigmoid), or with -s classes=2 two (softmax). No code in the file runs. Where tensors are
    missing, unexpected or of another shape they are listed, and nothing is written.
    """
    from segkit.model_file import ModelMetadata, save_model
    from segkit.model_file import import_weights as read

    if out.exists():
        raise BadParameter(f"{out} is there already", param_hint="--out")
    try:
        scale = [tuple(map(float, text.split(","))) for text in (mean, std)]
    except ValueError as error:
        raise BadParameter(f"{error}: give numbers, as 0.5,0.5,0.5") from error
    names, chosen = tuple(name.strip() for name in classes.split(",")), options.values(entries)
    logits = chosen.pop("classes", len(names) if len(names) > 2 else 1)
    about = {"in_channels": len(scale[0]), "classes": logits, "options": chosen}
    metadata = ModelMetadata(network, names, *scale, (size, size), **about, threshold=threshold)
    found = read(weights, metadata)
    save_model(out, found, metadata)
    print(f"All {len(found.state_dict())} tensors match: {out}")


def evaluate(
    model: _Model,
    data: Data = None,
    split: Annotated[str, Option(help="train, val or test.")] = "test",
    border: Border = None,
    values: Values = None,
    image_suffix: ImageSuffix = "",
    mask_suffix: MaskSuffix = "",
    count: Annotated[int | None, Option(min=1, help="Only so many images.")] = None,
    threshold: _Threshold = None,
    batch_size: Batch = 16,
    device: Device = None,
    entries: Annotated[
        list[str] | None,
        Option("--set", "-s", metavar="KEY=VALUE", help="Another option of the data set."),
    ] = None,
    report: Annotated[Path | None, Option(help="Write the report card to this HTML file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score a model on held-out images, with 95 % intervals, and by class.

    Without --data it is the data the model was trained on, by the train.yaml beside it: the same
    split, so that its test set is one that training never used. Images are resized as for training.
    """
    from segkit import config as configs
    from segkit import evaluate as evaluation
    from segkit.model_file import load_model
    from segkit.report_card import report_card
    from segkit.train.distributed import pick_device

    network, metadata = load_model(model)
    if threshold is not None:
        metadata = replace(metadata, threshold=threshold)
    part = configs.source(data) if data else configs.of_run(model)
    asked = {"border": border, "image_suffix": image_suffix, "mask_suffix": mask_suffix}
    asked["values"] = options.value_map(values)
    part |= options.values(entries) | {name: value for name, value in asked.items() if value}
    part = configs.for_model(part, metadata, options.values(entries))
    with stoppable():
        options.progress(f"evaluating on {part['name']}, {split}")
        images = configs.open_split(part, split, count)
        network.to(pick_device(device))
        if report:
            found = report_card(report, network, metadata, images, batch_size=batch_size)
        else:
            counted = evaluation.evaluate(network, metadata, images, batch_size)
            found = evaluation.summary(counted)
    about = {"source": part["name"], "split": split} | images.info
    if as_json:
        named = {"model": model, "network": metadata.network, "data": about}
        print_json(named | found | {"report": report})
        return
    _print_scores(found, metadata.network, about)
    if report:
        print(f"Report card: {report}")


def _print_scores(found: dict[str, Any], network: str, data: dict[str, Any]) -> None:
    from segkit.files import text_table

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    rule = "the class of the largest logit"
    if found["threshold"] is not None:
        rule = f"foreground above the probability {found['threshold']:g}"
    origin = ", ".join(f"{name} {value}" for name, value in data.items())
    print(f"{network} on {found['images']} images: {origin}")
    print(f"Rule: {rule}; ignored pixels (255) do not count\n")
    for warning in found["warnings"]:
        print(f"Warning: {warning}.\n")

    def interval(low: float | None, high: float | None) -> str:
        return "–" if low is None else f"{low:.3f} to {high:.3f}"

    rows = [
        (name, number(score["value"]), interval(score["low"], score["high"]))
        for name, score in found["scores"].items()
    ]
    print(text_table(("Score", "value", "95 % interval"), rows), end="\n\n")
    ratios = ("IoU", "Dice", "precision", "recall")
    classes = [
        (row["class"], *(number(row[name]) for name in ratios))
        + (f"{100 * row['pixels']:.1f} %", row["images"])
        for row in found["classes"]
    ]
    print(text_table(("Class", *ratios, "true pixels", "images"), classes))


def predict(
    model: Annotated[Path, Argument(help="Model file, or a network exported as .onnx.")],
    pictures: Annotated[list[Path], Argument(help="Pictures, or folders of pictures.")],
    out: Annotated[Path, Option("--out", "-o", help="Folder for the masks.")],
    form: Annotated[str, Option(help="palette (a colour per class) or ids (grey).")] = "palette",
    overlay: Annotated[bool, Option("--overlay", help="Write NAME_overlay.jpg too.")] = False,
    tta: Annotated[
        str, Option(help="Test-time augmentation, the mean over flips: h, v or hv. 2, 2, 4 times.")
    ] = "",
    scale: Annotated[
        list[float] | None, Option(help="Average over sizes too, as --scale 1 --scale 1.25.")
    ] = None,
    tile: Annotated[
        int | None, Option(min=1, help="Slide a window of this side over the picture, full size.")
    ] = None,
    overlap: Annotated[float, Option(help="Of neighbouring windows, 0 to below 1.")] = 0.25,
    threshold: _Threshold = None,
    min_size: Annotated[int, Option(min=0, help="Remove smaller connected components.")] = 0,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace masks that exist.")] = False,
    batch_size: Batch = 4,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Write the mask of each picture as a PNG of the picture's own size.

    The pictures themselves are never written to. One that cannot be used is reported on stderr,
    the rest is done, and the exit code is 1.
    """
    from tqdm import tqdm

    from segkit.image_ops import allow_large
    from segkit.predict import Predictor, find_pictures, predict_folder

    if tile:
        allow_large()
    settings = {"window": tile, "overlap": overlap, "batch_size": batch_size, "flips": tta}
    settings |= {"scales": scale or (1.0,), "min_size": min_size}
    predictor = Predictor.load(model, device, **settings)
    if threshold is not None:
        predictor.metadata = replace(predictor.metadata, threshold=threshold)
    total = len(find_pictures(pictures))
    with stoppable(), tqdm(total=total, unit="picture", disable=None) as bar:

        def watch(outcome: "Outcome") -> None:
            bar.update()
            if outcome.error:
                tqdm.write(outcome.error, file=sys.stderr)
            elif not as_json:
                shares = ", ".join(f"{k} {100 * v:.1f} %" for k, v in outcome.shares.items())
                tqdm.write(f"{outcome.mask}: {shares}")

        outcomes = predict_folder(
            predictor, pictures, out, form=form, overlays=overlay, overwrite=overwrite, watch=watch
        )
    failed = [outcome for outcome in outcomes if outcome.error]
    if as_json:
        print_json([vars(outcome) for outcome in outcomes])
    else:
        print(f"{len(outcomes) - len(failed)} of {len(outcomes)} masks are in {out}")
    raise Exit(1 if failed else 0)


def export(
    model: _Model,
    out: Annotated[Path, Argument(help="File to write: .onnx, or .pt2 for torch.export.")],
    size: Annotated[list[int] | None, Option(min=1, help="Side in the timing; repeatable.")] = None,
    batch: Annotated[int, Option(min=1, help="Images at a time, in the timing.")] = 1,
    repeats: Annotated[int, Option(min=2, help="Runs that are timed.")] = 20,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Write a model for use without segkit, after a check that it gives the same logits.

    OUT.onnx takes any batch, height and width; class names, normalisation and threshold are in
    it, and onnx_predictor.py, all that is needed to predict with it, lies beside it. The table
    shows how long PyTorch and onnxruntime take on this machine.
    """
    from segkit import environment
    from segkit import export as exports
    from segkit.model_file import load_model
    from segkit.train.distributed import pick_device

    if out.suffix.lower() not in (".onnx", ".pt2"):
        raise BadParameter(f"{out} ends neither in .onnx nor in .pt2", param_hint="OUT")
    network, metadata = load_model(model)
    if out.suffix.lower() == ".pt2":
        with stoppable():
            exports.save_program(out, network, metadata)
        print_json({"file": out}) if as_json else print(f"{out}: the program and its metadata")
        return
    missing = environment.lacks(environment.requirements()[1]["export"])
    if missing != "installed":
        raise exports.ExportError(f"ONNX {missing}: pip install 'segkit[export]'")
    with stoppable():
        options.progress("exporting and comparing")
        difference = exports.export_onnx(out, network, metadata)
        if not as_json:
            print(f"{out}: onnxruntime's logits are within {difference:.1e} of PyTorch's")
        options.progress("timing")
        sides = [(side, side) for side in size or []] or [metadata.size]
        shapes = [(batch, metadata.in_channels, *side) for side in sides]
        timed = exports.runners(network.to(pick_device(device)), out)
        rows = exports.latency(timed, shapes, repeats)
    if as_json:
        latency = [vars(row) for row in rows]
        print_json({"file": out, "difference": difference, "latency": latency})
    else:
        print(exports.table(rows))
