"""Predict with an exported network, without PyTorch.

    python onnx_predictor.py model.onnx photo.jpg scan.png --out masks

`export_onnx` writes this module, with what it imports from segkit, as one file beside the model.
That file needs numpy, Pillow and onnxruntime, and nothing of segkit.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np

from segkit.errors import ArgumentError, SegkitError
from segkit.image_ops import (
    ImageError,
    allow_large,
    mask_files,
    normalise,
    predict_resized,
    read_image,
    sliding_window,
    stitch,
    write_mask,
)


class OnnxNetwork:
    """An exported network, which normalises a batch of images and returns logits.

    `metadata` are class names, mean, std, threshold … A file that is damaged, or that segkit did
    not export, raises ArgumentError. threads: of the CPU; 0 takes as many as there are cores.
    """

    def __init__(self, path: str | Path, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=onnxruntime.get_available_providers()
            )
            stored = self.session.get_modelmeta().custom_metadata_map.get("segkit")
        except Exception as error:  # onnxruntime's errors have no common base
            raise ArgumentError(f"{path}: no ONNX file, or a damaged one ({error})") from error
        if stored is None:
            raise ArgumentError(f"{path}: segkit did not export it; it lacks class names")
        try:
            self.metadata = json.loads(stored)
            self._check(**self.metadata)
        except (ValueError, TypeError, RecursionError) as error:
            raise ArgumentError(f"{path}: its metadata are damaged ({error})") from error

    def _check(self, mean, std, size, in_channels, classes, threshold, intensity=None, **_) -> None:
        (image,), (logits,) = self.session.get_inputs(), self.session.get_outputs()
        right = len(mean) == len(std) == in_channels == image.shape[1]
        right &= min(std) > 0 and math.isfinite(sum(mean) + sum(std)) and 0 < threshold < 1
        right &= intensity is None or len(intensity) in (1, in_channels)
        right &= len(size) == 2 and all(side in range(1, 16385) for side in size)
        if not right or classes != logits.shape[1]:
            raise ValueError("they do not describe the network")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return logits (N, K, H, W) for images (N, H, W[, C])."""
        batch = normalise(images, self.metadata["mean"], self.metadata["std"])
        return self.session.run(None, {"image": batch})[0]


def _main() -> int:
    """Predict the masks of the files on the command line; return 1 if one could not be used."""
    parser = argparse.ArgumentParser(description="Segment images with an exported network.")
    parser.add_argument("model", help="the .onnx file")
    parser.add_argument("images", nargs="+", type=Path, help="image files")
    parser.add_argument("--out", default="masks", help="folder for the masks")
    parser.add_argument("--window", type=int, help="side of a sliding window; default: resize")
    parser.add_argument("--threshold", type=float, help="default: the one in the model")
    chosen, failed = parser.parse_args(), 0
    images = list(dict.fromkeys(chosen.images))
    if chosen.window:
        allow_large()
    try:
        targets, network = mask_files(images, chosen.out), OnnxNetwork(chosen.model)
        threshold = network.metadata["threshold"] if chosen.threshold is None else chosen.threshold
        for file, target in zip(images, targets, strict=True):
            try:
                about = network.metadata
                image, orientation = read_image(
                    file, about["in_channels"], intensity=about.get("intensity")
                )
            except ImageError as error:
                print(error, file=sys.stderr)
                failed = 1
                continue
            if chosen.window is None:
                chunks = predict_resized(network, image, network.metadata["size"])
            else:
                chunks = sliding_window(network, image, chosen.window)
            write_mask(target, stitch(chunks, threshold), orientation)
            print(target)
    except SegkitError as error:
        parser.error(str(error))
    return failed


if __name__ == "__main__":
    sys.exit(_main())
