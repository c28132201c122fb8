"""`segkit train`: from data to a model file."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segkit.cli.frame import AsJson, Batch, Border, Data, Device, print_json, stoppable, values

if TYPE_CHECKING:
    from segkit.config import Trained


def train(
    config: Annotated[
        Path | None, typer.Argument(help="YAML or JSON with the parts data, model, fit.")
    ] = None,
    data: Data = None,
    border: Border = None,
    size: Annotated[int | None, typer.Option(min=1, help="Side of the images, in pixels.")] = None,
    augment: Annotated[
        str | None, typer.Option(help="Of the training set: light, geometric or medium.")
    ] = None,
    network: Annotated[
        str | None, typer.Option("--network", "-n", help="As unet (the default) or pdr_unet.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the images.")] = None,
    batch_size: Batch = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of data, weights, order and augmentation.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run folder. Default: runs/DATA-NETWORK.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in the folder.")
    ] = False,
    device: Device = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32, tf32, bf16 or fp16.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Of probability. Default: chosen on validation.")
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="PART.KEY=VALUE", help="Any other entry of a config."),
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

    base: configs.Config = configs.read(config) if config else {}
    if data:
        base["data"] = configs.source(data)
    entries = {
        "data.border": border,
        "data.size": size,
        "data.transform": augment,
        "data.seed": seed,
        "model.name": network,
        "model.seed": seed,
        "fit.seed": seed,
        "fit.epochs": epochs,
        "fit.batch_size": batch_size,
        "fit.lr": lr,
        "fit.out": None if out is None else str(out),
        "fit.resume": resume or None,
        "fit.device": device,
        "fit.precision": precision,
        "threshold": threshold,
    }
    given = {name: value for name, value in entries.items() if value is not None}
    full = configs.apply_overrides(base, given, values(options))
    network = (full.get("model") or {}).get("name") or "unet"
    folder = str(Path("runs", f"{(full.get('data') or {}).get('name')}-{network}"))
    folder = (full.get("fit") or {}).get("out") or folder
    full = configs.apply_overrides(full, {"model.name": network, "fit.out": folder})
    with stoppable():
        result = configs.from_config(full, log=_to_stderr if as_json else print)
    if result.metadata:
        _print_result(result, as_json)
    if result.history.stopped.startswith("interrupted"):
        raise typer.Exit(130)
    distributed.leave()


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print_result(result: "Trained", as_json: bool) -> None:
    history, metadata = result.history, result.metadata
    if as_json:
        print_json(
            {
                "model": result.file,
                "epochs": len(history),
                "stopped": history.stopped,
                "best": history.best if len(history) else None,
                "last": history.last if len(history) else None,
                "threshold": metadata.threshold,
                "threshold_chosen": metadata.notes["threshold chosen"],
            }
        )
        return
    if history.stopped:
        print(f"Stopped: {history.stopped}")
    if len(history):
        best, name = history.best, history.monitor
        print(f"Best {name} {best[name]:.4f}, in epoch {best['epoch']} of {len(history)}")
    print(f"Threshold {metadata.threshold:g} ({metadata.notes['threshold chosen']})")
    print(f"Model: {result.file}")
