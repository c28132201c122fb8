"""The README's table of lessons, made from the lessons themselves."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from segkit import paths
from segkit.course import CourseError, Lesson
from segkit.files import write_text

BEGIN, END = "<!-- lessons: made by `make refresh` -->", "<!-- end of lessons -->"
HEAD = "| lesson | what you can do after it | to read |"  # of what `row` returns
WIDTH = 240  # pixels of a thumbnail


def pictures(lesson: Lesson) -> list[bytes]:
    """Return a lesson's PNG outputs; those of cells tagged `thumbnail` come first."""
    code = [cell for cell in lesson.cells if cell["cell_type"] == "code"]
    code.sort(key=lambda cell: "thumbnail" not in cell["metadata"].get("tags", []))
    return [
        base64.b64decode(output["data"]["image/png"])
        for cell in code
        for output in cell["outputs"]
        if "image/png" in output.get("data", {})
    ]


def thumbnail(lesson: Lesson, folder: Path) -> None:
    """Write the lesson's small picture `NN.png` into `folder`; a lesson without pictures has none.

    A picture that shows the same as before is not written again.
    """
    found = pictures(lesson)
    if not found:
        return
    picture = Image.open(io.BytesIO(found[0])).convert("RGB")
    picture.thumbnail((WIDTH, WIDTH))
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{lesson.number}.png"
    small = io.BytesIO()
    picture.quantize(128).save(small, format="png", optimize=True)
    if not target.exists() or target.read_bytes() != small.getvalue():
        target.write_bytes(small.getvalue())


def row(lesson: Lesson, folder: str) -> str:
    """Return a lesson's row of a Markdown table: a link into `folder`, promise, minutes."""
    link = f"[{lesson.title}]({folder}/{lesson.path.name})"
    return f"| {link} | {lesson.promise} | {lesson.minutes:.0f} min |"


def table(lessons: Sequence[Lesson]) -> str:
    """Return the Markdown table: picture, lesson, promise, minutes to read."""
    lines = [f"| {HEAD}", "|---|---|---|---|"]
    for lesson in lessons:
        picture = f'<img src="figures/lessons/{lesson.number}.png" width="120" alt="A picture from'
        lines.append(f'| {picture} lesson {lesson.number}."> {row(lesson, "notebooks")}')
    return "\n".join(lines)


def with_table(text: str, lessons: Sequence[Lesson]) -> str:
    """Return the README's text with the table between its two marks made anew."""
    if BEGIN not in text or END not in text:
        raise CourseError(f"README.md lost the marks around its table: {BEGIN} and {END}")
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{table(lessons)}\n{END}{rest.split(END, 1)[1]}"


def update(lessons: Sequence[Lesson]) -> None:
    """Write the thumbnails and the README's table of `lessons`, which are all of the course."""
    root = paths.root()
    for lesson in lessons:
        thumbnail(lesson, root / "figures" / "lessons")
    readme = root / "README.md"
    write_text(readme, with_table(readme.read_text(encoding="utf-8"), lessons))
