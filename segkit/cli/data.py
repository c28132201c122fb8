"""`segkit data`: check data before a network learns it, split it, and convert it."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option, Typer

from segkit.cli import options
from segkit.cli.options import (
    AsJson,
    ImageSuffix,
    Intensity,
    MaskSuffix,
    Values,
    example,
    print_json,
    stoppable,
    value_map,
)

data = Typer(help="Your own data: check, split, convert, export.", no_args_is_help=True)

_Names = Annotated[
    str | None, Option("--classes", help="Class names in the order of ids, as background,bone.")
]
_GroupBy = Annotated[
    str | None, Option(help="Regular expression on file names; what it finds is not split apart.")
]
_Three = tuple[float, float, float]


@data.command("check", epilog=example("segkit data check scans --html check.html --fix fixed"))
def _check(
    folder: Annotated[Path, Argument(help="images/ and masks/, LabelMe files, or pets.")],
    classes: _Names = None,
    values: Values = None,
    group_by: _GroupBy = None,
    image_suffix: ImageSuffix = "",
    mask_suffix: MaskSuffix = "",
    intensity: Intensity = None,
    html: Annotated[Path | None, Option(help="Write a page with thumbnails too.")] = None,
    fix: Annotated[Path | None, Option(help="New folder for a corrected copy.")] = None,
    as_json: AsJson = False,
) -> None:
    """Look at every file for what would train or score a wrong model.

    The originals stay as they are. Exit code 1: there is an error among the issues.
    """
    from segkit import doctor

    with stoppable():
        settings = {"image_suffix": image_suffix, "mask_suffix": mask_suffix}
        settings["values"] = value_map(values) or "auto"
        settings["intensity"] = options.intensity(intensity)
        report = doctor.check(folder, class_names=_names(classes), group_by=group_by, **settings)
        if not as_json:
            report.print()
        if html:
            report.write_html(html)
        fixes = doctor.fix(report, fix) if fix else []
    if as_json:
        print_json(report.to_dict() | ({"fixes": [vars(one) for one in fixes]} if fix else {}))
    else:
        for one in fixes:
            print(f"{one.file}: {one.what if one.written else f'left out, {one.what}'}")
        for place in filter(None, (html, fix)):
            print(f"Written: {place}")
        if fix and report.table:
            _print_next(fix, [one["name"] for one in report.statistics["classes"]])
    raise Exit(0 if report.ok else 1)


@data.command("split", epilog=example("segkit data split scans --out splits --group-by 'p[0-9]+'"))
def _split(
    folder: Annotated[Path, Argument(help="Folder with images/ and masks/.")],
    out: Annotated[Path, Option("--out", "-o", help="New folder, or a .csv or .json list.")],
    fractions: Annotated[_Three, Option(help="Of train, val and test.")] = (0.7, 0.15, 0.15),
    seed: Annotated[int, Option(help="The same seed gives the same split.")] = 0,
    group_by: _GroupBy = None,
    stratify_by: Annotated[
        str | None, Option(help="The same mix in all splits: a regular expression, or: classes.")
    ] = None,
    image_suffix: ImageSuffix = "",
    mask_suffix: MaskSuffix = "",
    as_json: AsJson = False,
) -> None:
    """Split a folder into train, val and test: at random, by whole groups, or with the same mix.

    Nothing is moved or changed: OUT gets copies, or a list. A split that would put the same image
    into two parts is refused. Near-duplicates are found by: segkit data check OUT.
    """
    from segkit import convert
    from segkit.data.folder import shared_stems
    from segkit.issues import issue

    with stoppable():
        rule = group_by, stratify_by
        found = convert.split(folder, fractions, seed, *rule, image_suffix, mask_suffix)
        listed = out.suffix.lower() in (".csv", ".json")
        (convert.write_list if listed else convert.write_folders)(found, out)
    if as_json:
        about = {"out": out, "rule": found.rule, "seed": seed, "counts": found.counts()}
        print_json(about | {"items": found.rows()})
    else:
        counts = ", ".join(f"{count} {split}" for split, count in found.counts().items())
        print(f"{out}: {counts}; {found.rule}, seed {seed}; no image is in two splits")
        if stems := {} if group_by else shared_stems(row["name"] for row in found.rows()):
            print(issue("shared-stems", folder, f"{len(stems)} such names, as {min(stems)}"))


_EXAMPLE = "segkit data convert coco annotations.json --images photos --out scans"


@data.command("convert", epilog=example(_EXAMPLE))
def _convert(
    form: Annotated[
        str,
        Argument(metavar="FORMAT", help="labelme, coco, labelstudio, voc, camvid or cityscapes."),
    ],
    source: Annotated[Path, Argument(help="File or folder of annotations.")],
    out: Annotated[Path, Option("--out", "-o", help="New folder for images and masks.")],
    images: Annotated[Path | None, Option(help="Folder of the images, if elsewhere.")] = None,
    classes: _Names = None,
    others: Annotated[
        str | None, Option(help="What labels not among --classes become: background or ignore.")
    ] = None,
    line_width: Annotated[
        float, Option(min=0, help="Draw lines and points so wide, in pixels.")
    ] = 0,
    skip: Annotated[bool, Option("--skip", help="Leave out shapes that are no region.")] = False,
    instances: Annotated[
        bool, Option("--instances", help="Write instances/ too: a number for each object.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Turn annotations into masks: OUT/images, OUT/masks and OUT/classes.txt.

    Folders train, val and test are kept. What no shape covers is background, and crowds of COCO
    and what LabelMe labels __ignore__ is 255. If something cannot be used, all issues are listed
    and nothing is written.
    """
    from segkit import convert
    from segkit.data.shapes import Rules

    rules = Rules(line_width, set() if skip else None)
    with stoppable():
        settings = {"images": images, "others": others, "instances": instances, "rules": rules}
        names, counts = convert.convert(form, source, out, class_names=_names(classes), **settings)
    skipped = sorted(rules.skipped or ())
    if as_json:
        print_json({"out": out, "class_names": names, "counts": counts, "skipped": skipped})
        return
    for shape in skipped[:5]:
        print(f"Left out: {shape}")
    if len(skipped) > 5:
        print(f"and {len(skipped) - 5} more shapes")
    parts = ", ".join(f"{count} {split}".rstrip() for split, count in counts.items())
    print(f"{out}: {parts} images and masks of the classes {', '.join(names)}")
    _print_next(out, names)


@data.command("export", epilog=example("segkit data export coco scans --out annotated"))
def _export(
    form: Annotated[str, Argument(metavar="FORMAT", help="coco, labelme or geojson.")],
    folder: Annotated[Path, Argument(help="Folder with images/ and masks/.")],
    out: Annotated[Path, Option("--out", "-o", help="New folder for images and annotations.")],
    classes: _Names = None,
    values: Values = None,
    image_suffix: ImageSuffix = "",
    mask_suffix: MaskSuffix = "",
    as_json: AsJson = False,
) -> None:
    """Turn masks into annotations that other programs open: the opposite of convert.

    Each connected component of a class becomes an object, with its holes; 255 becomes __ignore__,
    in COCO a crowd.
    """
    from segkit import convert

    with stoppable():
        settings = {"image_suffix": image_suffix, "mask_suffix": mask_suffix}
        settings["values"] = value_map(values) or "auto"
        names, counts = convert.export(form, folder, out, class_names=_names(classes), **settings)
    if as_json:
        print_json({"out": out, "class_names": names, "counts": counts})
        return
    parts = ", ".join(f"{count} {split}".rstrip() for split, count in counts.items())
    print(f"{out}: {parts} images with annotations of the classes {', '.join(names)}")
    if form in ("coco", "labelme"):
        order = shlex.quote(",".join(names))
        back = f"segkit data convert {form} {shlex.quote(str(out))} --classes {order}"
        print(f"Back, with ids in this order: {back} --out NEW")


@data.command("from-labelme", epilog=example("segkit data from-labelme drawn --out scans"))
def _from_labelme(
    folder: Annotated[Path, Argument(help="Folder of LabelMe's .json files.")],
    out: Annotated[Path, Option("--out", "-o", help="New folder for images and masks.")],
    classes: _Names = None,
    as_json: AsJson = False,
) -> None:
    """Do what `segkit data convert labelme` does."""
    _convert("labelme", folder, out, classes=classes, as_json=as_json)


def _print_next(out: Path, names: Sequence[str]) -> None:
    classes = shlex.quote(f"data.class_names={json.dumps(names, ensure_ascii=False)}")
    print(f"Next: segkit train --data {shlex.quote(str(out))} -s {classes} --values ids")


def _names(classes: str | None) -> list[str] | None:
    return [name.strip() for name in classes.split(",")] if classes else None
