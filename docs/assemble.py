"""Puts together what the site is built from: the pages here, the committed lessons, figures.

`python docs/assemble.py FOLDER`; `make site` calls it. Nothing is executed: the site shows the
outputs that the lessons were committed with. `python docs/assemble.py --readme`, of
`make refresh`, writes the table of lessons in README.md, and its thumbnails.
"""

import json
import re
import shutil
import sys
from pathlib import Path

from segkit import paths
from segkit.course import Lesson, lessons, pictures, thumbnail

DOCS = Path(__file__).parent
# The report.json that `make course` leaves in build/course, copied here.
BATCH = paths.root() / "figures" / "results" / "course.json"


def for_site(lesson: Lesson) -> dict:
    """Return the notebook with its pictures' words where MyST-NB looks for them: in the cell.

    Links to the ledger and to the model card lead to the pages that show them.
    """
    notebook = json.loads(lesson.path.read_text("utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            text = "".join(cell["source"])
            text = text.replace("../figures/results/ledger.md", "../results.md")
            cell["source"] = text.replace("../data/models/pets.md", "../pets.md")
        for output in cell.get("outputs", []):
            if alt := output.get("metadata", {}).get("image/png", {}).get("alt"):
                cell["metadata"]["mystnb"] = {"image": {"alt": alt}}
    return notebook


def batch_times() -> str:
    """Return seconds and memory of each lesson in the last recorded batch run."""
    if not BATCH.exists():
        return "Not yet measured."
    run = json.loads(BATCH.read_text("utf-8"))
    rows = ["| lesson | seconds | peak memory |", "|---|---|---|"]
    rows += [
        f"| {row['stem'][:2]} | {row['seconds']:.0f} | {row['memory'] / 2**20:,.0f} MiB |"
        for row in run["lessons"]
    ]
    machine = ", ".join(f"{name} {value}" for name, value in run["machine"].items())
    return "\n".join(rows) + f"\n\nMeasured by `make course`, one lesson at a time: {machine}."


def lesson_table(folder: str, thumbnails: str = "") -> str:
    """Return a Markdown table of the lessons: title, promise, minutes to read.

    Args:
        folder: where the links lead.
        thumbnails: the folder of the pictures in a first column; "" is no such column.
    """
    head = "| lesson | what you can do after it | to read |"
    lines = [f"| {head}", "|---|---|---|---|"] if thumbnails else [head, "|---|---|---|"]
    for lesson in lessons():
        alt = f"A picture from lesson {lesson.number}."
        image = f'| <img src="{thumbnails}/{lesson.number}.png" width="120" alt="{alt}"> '
        link = f"[{lesson.title}]({folder}/{lesson.path.name})"
        row = f"| {link} | {lesson.promise} | {lesson.minutes:.0f} min |"
        lines.append(image + row if thumbnails else row)
    return "\n".join(lines)


def with_table(readme: str) -> str:
    """Return the README's text with a new table of lessons between its two marks."""
    begin, end = "<!-- lessons: made by `make refresh` -->", "<!-- end of lessons -->"
    if begin not in readme or end not in readme:
        raise ValueError(f"README.md lost the marks of its table: {begin} and {end}")
    before, rest = readme.split(begin, 1)
    table = lesson_table("notebooks", "figures/lessons")
    return f"{before}{begin}\n{table}\n{end}{rest.split(end, 1)[1]}"


def update_readme() -> None:
    """Write the README's table of lessons and their thumbnails `figures/lessons/NN.png`."""
    for lesson in lessons():
        for png, _ in pictures(lesson)[:1]:
            small, _ = thumbnail(png, (240, 240))
            (paths.root() / "figures" / "lessons" / f"{lesson.number}.png").write_bytes(small)
    readme = paths.root() / "README.md"
    readme.write_text(with_table(readme.read_text("utf-8")), encoding="utf-8", newline="\n")


def assemble(folder: Path) -> None:
    """Write the site's sources into `folder`, which is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DOCS, folder, ignore=shutil.ignore_patterns("__pycache__", "assemble.py"))
    shutil.copytree(paths.root() / "figures", folder / "figures")
    shutil.copy(paths.root() / "data" / "models" / "pets.md", folder)
    ledger = folder / "figures" / "results" / "ledger.md"
    named = re.sub(r'<a id="([\w-]+)"></a>', r"(\1)=", ledger.read_text(encoding="utf-8"))
    ledger.write_text(named, encoding="utf-8")
    (folder / "lessons").mkdir()
    for lesson in lessons():
        content = json.dumps(for_site(lesson))
        (folder / "lessons" / lesson.path.name).write_text(content, encoding="utf-8")
    filled = {
        "<!-- lessons -->": lesson_table("lessons"),
        "<!-- batch times -->": batch_times(),
    }
    for page in folder.glob("*.md"):
        # in the repository, a page links to the notebook itself
        text = page.read_text(encoding="utf-8").replace("](../notebooks/", "](lessons/")
        for mark, words in filled.items():
            text = text.replace(mark, words)
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if sys.argv[1] == "--readme":
        update_readme()
    else:
        assemble(Path(sys.argv[1]))
