"""What others have claimed, what tests it here, and the rule of the verdict."""

from dataclasses import dataclass

from segkit.experiments import exact
from segkit.experiments.evidence import (
    EPOCHS,
    FAILS,
    HOLDS,
    LAST_LOSS,
    MEMORY,
    OPEN,
    SECONDS,
    UNTESTABLE,
    Check,
    Evidence,
    Finding,
    Target,
    compare,
    main_effect,
    pairs,
    reaches,
)

ABI = "[abi2024](https://github.com/abi2024/UNet-Segmentation)"
AJAY = "[ajaystar8](https://github.com/ajaystar8/PDRUNet-PyTorch)"
DEB = "[Mayukh Deb](https://mayukhdeb.github.io/blog/)"
GREY = "[greysweater42](https://greysweater42.github.io/unet)"
NYCU = "NYCU deep-learning lab report"
PDR = "[Shen et al. 2021](https://doi.org/10.3934/ipi.2020057)"
RONNEBERGER = "[Ronneberger et al. 2015](https://arxiv.org/abs/1505.04597)"
SMP = "[segmentation-models-pytorch](https://github.com/qubvel-org/segmentation_models.pytorch)"

BOTH, FULL, ALWAYS, RACE = ("quick", "full"), ("full",), ("always",), ("quality",)
BONES = [("pdr_unet", "unet"), ("pdr_unet", "fusionnet")]


@dataclass(frozen=True)
class Claim:
    """One sentence of somebody, and how it is tested.

    key: its name, for prose that refers to it. conditions: the source's own, as far as known.
    test: what is measured here. design: whose runs it takes, or "" for none. profiles: at which
    sizes; "always" needs no runs of its own.
    """

    key: str
    who: str
    what: str
    conditions: str
    test: str
    check: Check
    design: str = ""
    profiles: tuple[str, ...] = BOTH


def untestable(why: str) -> Check:
    """Return the check of a claim that nothing could decide."""
    return lambda _: Finding(UNTESTABLE, why)


def matters(design: str, a: str, b: str, score: str, least: float) -> Check:
    """Return the check that two cells differ by `least` or more, whichever way."""

    def check(evidence: Evidence) -> Finding:
        found = compare(design, pairs((a, b)), score)(evidence)
        gap = next(iter(found.figures.values()))
        away = max(gap.low, -gap.high)
        near = max(abs(gap.low), abs(gap.high)) < least
        told = HOLDS if away >= least else FAILS if near else OPEN
        return Finding(told, f"by the interval, against {least:g} either way", found.figures)

    return check


def _abi() -> list[Claim]:
    own = "Oxford-IIIT Pet, 128 px, 15 epochs, Adam 1e-3, border is background, last names validate"
    design = "its three choices in all eight combinations, official split, test set"
    steps = pairs(("1", "3"), ("2", "3"), ("3", "4"))
    corners = pairs(
        ("maxpool + transposed + bce", "strided + transposed + bce"),
        ("maxpool + transposed + dice", "strided + transposed + bce"),
        ("strided + transposed + bce", "strided + nearest + dice"),
    )

    def factor(name: str, what: str | Target, more: bool = True) -> Check:
        return compare("abi2024", main_effect(name), what, more)

    return [
        Claim("abi-order-own", ABI,
              "Experiments 1 and 2 (93.45 %, 93.32 %) beat 3 (91.60 %), and 3 beats 4 (90.42 %).",
              own, "validation accuracy under the same rules, three seeds",
              compare("abi2024 own", steps, "val accuracy"), "abi2024 own"),
        Claim("abi-order-clean", ABI, "The same order of the four experiments.", own, design,
              compare("abi2024", corners, "test accuracy"), "abi2024"),
        Claim("abi-figure", ABI, "Experiment 1 reaches 93.45 % validation accuracy.", own,
              "the same, with three seeds, within half a point",
              reaches("abi2024 own", "1", "val accuracy", 0.9295, 0.9395), "abi2024 own", FULL),
        Claim("abi-dice-loss", ABI, "Dice loss is best, for its validation loss is the lowest.",
              own, "nothing", untestable("values of different losses have no common scale"),
              profiles=ALWAYS),
        Claim("abi-dice-overlap", ABI, "Dice loss serves overlap better than weighted BCE.",
              own, f"IoU: {design}", factor("loss", "test IoU"), "abi2024"),
        Claim("abi-dice-boundary", ABI, "Dice loss gives sharper boundaries than weighted BCE.",
              own, f"boundary IoU: {design}", factor("loss", "test boundary IoU"), "abi2024"),
        Claim("abi-dice-speed", ABI, "Dice loss converges faster than weighted BCE.", own,
              "epochs to 90 % of the design's mean best validation IoU, all eight combinations",
              factor("loss", EPOCHS, False), "abi2024"),
        Claim("abi-maxpool", ABI, "Max-pooling beats strided convolution.", own,
              f"accuracy: {design}", factor("down", "test accuracy", False), "abi2024"),
        Claim("abi-maxpool-iou", ABI, "Max-pooling beats strided convolution.", own,
              f"IoU: {design}", factor("down", "test IoU", False), "abi2024"),
        Claim("abi-strided-weights", ABI, "Strided convolutions add parameters.", own,
              "parameters of both at full width", exact.strided_adds, profiles=ALWAYS),
        Claim("abi-transposed", ABI,
              "Transposed convolution gives smoother edges than nearest upsampling.", own,
              f"boundary IoU: {design}", factor("up", "test boundary IoU", False), "abi2024"),
    ]  # fmt: skip


def _lab() -> list[Claim]:
    own = "Oxford-IIIT Pet, 256 px, Adam, BCE, one run each"
    order = pairs(("resnet34_unet", "unet"))
    scratch = "test Dice, plain networks from scratch, three seeds"
    return [
        Claim("nycu-order-train", NYCU,
              "ResNet34-UNet ends with a higher training Dice than U-Net (0.90, 0.86).", own,
              "Dice on the training images", compare("nycu", order, "train Dice"), "nycu"),
        Claim("nycu-order-loss", NYCU,
              "ResNet34-UNet ends with a lower training loss than U-Net (0.25, 0.30).", own,
              "loss of the last epoch", compare("nycu", order, LAST_LOSS, False), "nycu"),
        Claim("nycu-order-test", NYCU, "ResNet34-UNet performs better than U-Net.", own,
              "Dice on the test set", compare("nycu", order, "test Dice"), "nycu"),
        Claim("nycu-encoder", NYCU, "ResNet34-UNet has more parameters in its encoder.", own,
              "parameters of both encoders", exact.encoder_weights, profiles=ALWAYS),
        Claim("nycu-range-unet", "other reports of that lab", "U-Net: test Dice 0.88 to 0.915.",
              own, scratch, reaches("nycu", "unet", "test Dice", 0.88, 0.915), "nycu", FULL),
        Claim("nycu-range-resnet", "other reports of that lab",
              "ResNet34-UNet: test Dice 0.89 to 0.917.", own, scratch,
              reaches("nycu", "resnet34_unet", "test Dice", 0.89, 0.917), "nycu", FULL),
        Claim("nycu-imagenet", "another report of that lab",
              "ImageNet weights, attention and flips: test Dice 0.927.", own,
              "the same without attention, 0.917 or more",
              reaches("nycu imagenet", "nycu imagenet", "test Dice", 0.917), "nycu imagenet",
              FULL),
        Claim("nycu-blind", "another report of that lab", "Test Dice 0.95.", own,
              "its score for a mask of ones", exact.blind_dice, profiles=ALWAYS),
    ]  # fmt: skip


def _cells_and_bones() -> list[Claim]:
    bones, post = "X-rays of femur and tibia; its data are not public", "grey embryo images"
    quicker = compare("pdr-unet", pairs(*BONES), EPOCHS, False)
    return [
        Claim("deb-iou", DEB, "A ResNet18 encoder reaches an IoU just above 0.7 in 24 epochs.",
              f"{post}, ImageNet weights, Dice loss",
              "test IoU; quick: toy embryos, from scratch; full: nuclei, ImageNet weights",
              reaches("deb", "deb", "test IoU", 0.7), "deb"),
        Claim("deb-bilinear", DEB, "Bilinear resizing alters the values of a mask, nearest not.",
              post, "values of 64 toy masks at half the size", exact.bilinear_invents,
              profiles=ALWAYS),
        Claim("deb-override", DEB, "Setting all but 0 to 255 afterwards makes the mask as before.",
              f"{post}; he found himself that it was not enough",
              "the foreground's share of 64 toy masks", exact.override_restores,
              profiles=ALWAYS),
        Claim("pdr-weights", PDR, "PDR-UNet has fewer parameters than U-Net and FusionNet.", bones,
              "parameters at full width", exact.fewer_weights, profiles=ALWAYS),
        Claim("pdr-accuracy", PDR, "PDR-UNet is more accurate than U-Net and FusionNet.", bones,
              "test Dice; quick: toy X-rays; full: dental X-rays",
              compare("pdr-unet", pairs(*BONES), "test Dice"), "pdr-unet"),
        Claim("pdr-speed", PDR, "PDR-UNet converges faster than U-Net and FusionNet.", bones,
              "epochs to 90 % of the design's mean best validation IoU, the same data", quicker,
              "pdr-unet"),
        Claim("pdr-size", PDR, "PDR-UNet has 0.36 million parameters.", bones,
              "parameters, 1 channel and 2 classes", exact.paper_weights, profiles=ALWAYS),
        Claim("pdr-view", PDR, "Its first eight blocks see 5, 13, … 509 pixels.", bones,
              "receptive fields of our network", exact.paper_view, profiles=ALWAYS),
        Claim("ajay-optimizer", AJAY, "The choice of the optimizer can matter hugely.",
              "a subset of MURA; no figure given",
              "Adam 1e-3 against SGD 1e-2 (momentum 0.9), test IoU; hugely is 0.05",
              matters("optimizer", "adam", "sgd", "test IoU", 0.05), "optimizer"),
    ]  # fmt: skip


def _general() -> list[Claim]:
    gpu, half = "a GPU; no figure given", pairs(("mixed", "full"))
    pets = "Oxford-IIIT Pet, 256 px, border is pet, ImageNet weights, 10 epochs"
    race = "714-pet subset, 128 px, border is pet, from scratch, the same epochs"
    ours = "test IoU of our recipe less that of its Unet(resnet34) with its notebook's"
    return [
        Claim("grey-f1", GREY, "Dice is the same as F1.", "none",
              "both, on every test image of the eight combinations", exact.dice_is_f1, "abi2024"),
        Claim("grey-iou", GREY, "IoU differs only slightly from Dice.", "none",
              "both, on the same images; slightly is 0.05", exact.iou_near_dice, "abi2024"),
        Claim("grey-amp-fast", GREY, "Mixed precision makes training faster (usually).", gpu,
              "time of the fastest epoch; quick: bf16 on a CPU; full: fp16 on a GPU",
              compare("amp", half, SECONDS, False), "amp"),
        Claim("grey-amp-light", GREY, "Mixed precision makes training lighter (usually).", gpu,
              "memory that training adds, the same runs", compare("amp", half, MEMORY, False),
              "amp"),
        Claim("unet-size", RONNEBERGER, "Unpadded, 572 pixels become 388.", "the paper's figure 1",
              "size of our network's output", exact.paper_size, profiles=ALWAYS),
        Claim("smp-dataset", SMP, "Its pets notebook: test IoU 0.9144 over the data set.", pets,
              "the same, three seeds, within a point",
              reaches("smp notebook", "smp notebook", "test IoU", 0.9044, 0.9244),
              "smp notebook", FULL),
        Claim("smp-image", SMP, "Its pets notebook: test IoU 0.9075 per image.", pets,
              "the same, three seeds, within a point",
              reaches("smp notebook", "smp notebook", "test IoU per image", 0.8975, 0.9175),
              "smp notebook", FULL),
        *(
            Claim(f"quality-{name}-{short}", "segkit", f"Our {name} recipe beats smp's, {how}.",
                  race, f"{ours}, {how}", compare("quality", pairs((cell, "smp unet")), score),
                  "quality", RACE)
            for name, cell in (("U-Net", "unet"), ("ResNet34-UNet", "resnet34_unet"))
            for short, how, score in (
                ("dataset", "over the data set", "test IoU"),
                ("image", "per image", "test IoU per image"),
            )
        ),
    ]  # fmt: skip


def claims() -> list[Claim]:
    """Return all claims, source by source."""
    return [*_abi(), *_lab(), *_cells_and_bones(), *_general()]
