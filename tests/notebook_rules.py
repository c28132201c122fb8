"""The conventions every lesson keeps. A rule yields what is wrong, in words for the author."""

import ast
import json
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

from segkit.course import CourseError, Lesson

MAX_BYTES = 1_000_000
MAX_LINES, LONG, LONG_CELLS = 16, 12, 9  # code only; so many cells may exceed LONG
CELLS = range(10, 23)  # without parameters, hidden margins and exercises
MAX_IGNORED = 0.4
MIN_ALT = 15  # characters
INTRODUCTION = ("You will", "Time", "Before")
SECTIONS = ("What usually goes wrong", "Exercises", "Recap", "Sources")
IGNORED = ("nbval-ignore-output", "nbval-skip")
VOLATILE = ("papermill", "execution", "ExecuteTime", "lines_to_next_cell")
ROOTS = "home|Users|tmp|root|work|var/folders"
PLACE = re.compile(rf"(?<![\w.])/(?:{ROOTS})/\w|[A-Z]:\\\w|site-packages")
TIMING = re.compile(r"\d\s?(?:s|ms|µs|us|sec|seconds?|min|minutes?|(?:images|it|steps)/s)\b")
ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)[^)]*\)")

Problems = Iterator[str]


class Notebook:
    """A lesson as the rules look at it. files: names beside it, as "solutions/01_x.py"."""

    def __init__(self, path: Path, content: dict, size: int, files: set[str]):
        self.path, self.size, self.files = path, size, files
        self.cells, self.metadata = content["cells"], content["metadata"]
        self.code = [cell for cell in self.cells if cell["cell_type"] == "code"]
        self.text = [cell for cell in self.cells if cell["cell_type"] == "markdown"]
        self.lessons = sorted(name for name in files if Lesson(Path(name)).number)
        self.lesson = Lesson(path)
        self.lesson.__dict__["cells"] = self.cells  # what is tested may exist in memory only

    def outputs(self) -> Iterator[tuple[dict, dict]]:
        """Each output, after its cell."""
        return ((cell, output) for cell in self.code for output in cell["outputs"])

    def headings(self) -> list[tuple[int, str]]:
        """Level and text of every heading."""
        prose = "\n".join(re.sub(r"```.*?```", "", c["source"], flags=re.S) for c in self.text)
        return [(len(m[1]), m[2]) for m in re.finditer(r"^(#+) +(.+?)\s*$", prose, re.M)]

    def label(self, cell: dict) -> str:
        """A cell's name in a message: its number and first line."""
        first = cell["source"].strip().partition("\n")[0]
        return f"cell {self.cells.index(cell)} ({first[:40]})"


def read(path: Path) -> Notebook:
    """Open a lesson on disk."""
    import nbformat

    files = {str(f.relative_to(path.parent)) for f in path.parent.rglob("*") if f.is_file()}
    return Notebook(path, nbformat.read(path, as_version=4), path.stat().st_size, files)


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def data(output: dict) -> dict:
    return output.get("data", {})


def words(output: dict) -> str:
    """The text of an output that a reader sees and nbval compares."""
    return output.get("text", "") + data(output).get("text/plain", "")


def name(notebook: Notebook) -> Problems:
    if not Lesson(notebook.path).number:
        yield f"{notebook.path.name}: a lesson is called NN_name.ipynb, in small letters"
    elif not notebook.lesson.title.startswith(f"{notebook.lesson.number} · "):
        yield f"the title must start with `# {notebook.lesson.number} · `"


def parameters(notebook: Notebook) -> Problems:
    tagged = [cell for cell in notebook.code if "parameters" in tags(cell)]
    if len(tagged) != 1 or notebook.code[0] is not tagged[0]:
        yield "one cell, the first with code, is tagged `parameters`; papermill puts values there"
        return
    try:
        declared = notebook.lesson.parameters
    except CourseError as error:
        yield str(error)
        return
    if declared.get("profile") != "quick" or not isinstance(declared.get("seed"), int):
        yield 'the parameters cell must hold `profile = "quick"` and `seed = ` a whole number'
    if ("dataset" in declared) != ("data_dir" in declared):
        yield "a lesson with `dataset` also takes `data_dir`, where real data lie"


def kernel(notebook: Notebook) -> Problems:
    spec = notebook.metadata.get("kernelspec", {})
    if spec.get("name") != "python3" or spec.get("language") != "python":
        yield "the kernelspec must be python3, language python: others have no other"
    if notebook.metadata.get("language_info", {}).get("name") != "python":
        yield "language_info is missing; run: segkit course refresh"


def counts(notebook: Notebook) -> Problems:
    numbers = [cell["execution_count"] for cell in notebook.code if cell["source"].strip()]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"execution counts are {numbers}, not 1, 2, 3 …; run: segkit course refresh"
    with_output = sum(bool(cell["outputs"]) for cell in notebook.code)
    if with_output < len(notebook.code) / 2:
        yield f"only {with_output} of {len(notebook.code)} code cells show anything"


def errors(notebook: Notebook) -> Problems:
    for cell, output in notebook.outputs():
        if output["output_type"] == "error":
            yield f"{notebook.label(cell)} ended in {output['ename']}"
        elif output.get("name") == "stderr":
            yield f"{notebook.label(cell)} wrote to stderr: {output['text'][:60]!r}"


def places(notebook: Notebook) -> Problems:
    for cell in notebook.cells:
        texts = [cell["source"], *map(words, cell.get("outputs", []))]
        texts += [str(data(output).get("text/html", "")) for output in cell.get("outputs", [])]
        for found in PLACE.finditer("\n".join(texts)):
            yield f"{notebook.label(cell)} holds the absolute path {found[0]!r}…"


def size(notebook: Notebook) -> Problems:
    if notebook.size >= MAX_BYTES:
        yield f"{notebook.size:,} bytes; less than {MAX_BYTES:,} are allowed: smaller pictures"


def lengths(notebook: Notebook) -> Problems:
    lines = {}
    for cell in notebook.code:
        code = [line for line in cell["source"].splitlines() if re.match(r"\s*[^\s#]", line)]
        lines[notebook.label(cell)] = len(code)
    for label, count in lines.items():
        if count > MAX_LINES:
            yield f"{label} has {count} lines of code, more than {MAX_LINES}: one idea a cell"
    long = [label for label, count in lines.items() if count > LONG]
    if len(long) > LONG_CELLS:
        yield f"{len(long)} cells exceed {LONG} lines of code: {', '.join(long)}"


def amount(notebook: Notebook) -> Problems:
    taught = 0
    for cell in notebook.cells:
        if cell["cell_type"] == "markdown" and re.search(r"^## Exercises", cell["source"], re.M):
            break
        taught += cell["cell_type"] == "code" and not {"parameters", "hide-cell"} & {*tags(cell)}
    if taught not in CELLS:
        yield f"{taught} code cells before the exercises; a lesson has {CELLS[0]} to {CELLS[-1]}"


def alternatives(notebook: Notebook) -> Problems:
    for cell, output in notebook.outputs():
        for kind in data(output):
            alt = output["metadata"].get(kind, {}).get("alt", "")
            if kind.startswith("image/") and len(alt.strip()) < MIN_ALT:
                yield f"{notebook.label(cell)}: no words for a picture; plot.show(fig, alt)"
    for cell in notebook.text:
        for mark, alt, target in LINK.findall(cell["source"]):
            if mark and len(alt.strip()) < MIN_ALT:
                yield f"the picture {target} has no alternative text: ![what it shows]({target})"
        for image in re.findall(r"<img\b[^>]*>", cell["source"]):
            if not re.search(r'\balt="[^"]+"', image):
                yield f"no alternative text in {image}"


def neighbours(notebook: Notebook) -> Problems:
    there = notebook.lessons
    if notebook.path.name not in there:
        return
    here = there.index(notebook.path.name)
    recap = "\n".join(cell["source"] for cell in notebook.text).partition("\n## Recap")[2]
    linked = {target for _, _, target in LINK.findall(recap)}
    for neighbour in (there[here - 1] if here else None, *there[here + 1 : here + 2]):
        if neighbour and neighbour not in linked:
            yield f"the recap must link to its neighbour {neighbour}"


def frame(notebook: Notebook) -> Problems:
    for word in INTRODUCTION:
        if f"**{word}**" not in notebook.lesson.introduction:
            yield f"the text above the parameters must have **{word}**"
    if notebook.lesson.minutes is None:
        yield "after **Time** must stand a number of minutes"
    if not notebook.lesson.promise:
        yield "under the title must stand what the lesson promises"
    wanted = [s for s in SECTIONS if not (s == "Exercises" and notebook.lesson.number == "00")]
    found = [text for level, text in notebook.headings() if level == 2 and text in wanted]
    if found != wanted:
        yield f"the sections {', '.join(wanted)} must close the lesson; found {found}"


def headings(notebook: Notebook) -> Problems:
    levels = [level for level, _ in notebook.headings()]
    if levels[:1] != [1] or levels.count(1) != 1:
        yield "one `# heading`, the first, is the title"
    for (before, _), (level, text) in pairwise(notebook.headings()):
        if level > before + 1:
            yield f"the heading {text!r} skips a level"


def compared(notebook: Notebook) -> Problems:
    shown = [cell for cell in notebook.code if cell["outputs"]]
    ignored = [cell for cell in shown if set(tags(cell)) & set(IGNORED)]
    if len(ignored) > MAX_IGNORED * len(shown):
        yield f"nbval ignores {len(ignored)} of {len(shown)} outputs; {MAX_IGNORED:.0%} is the most"
    for cell in notebook.code:
        if "NBVAL_" in cell["source"]:
            yield f"{notebook.label(cell)}: use a tag, which no reader sees, not a comment"
        if "raises-exception" in tags(cell):
            yield f"{notebook.label(cell)}: papermill fails on raises-exception; catch and print"


def asserted(notebook: Notebook) -> Problems:
    for i, cell in enumerate(notebook.code):
        following = "\n".join(c["source"] for c in notebook.code[i : i + 3])
        shown = set(tags(cell)) & set(IGNORED) and cell["outputs"]
        if shown and not re.search(r"^\s*assert\b", following, re.M):
            rule = "it, or one of the next two cells, must assert what it shows, with a margin"
            yield f"{notebook.label(cell)} is not compared: {rule}"


def semicolons(notebook: Notebook) -> Problems:
    for cell in notebook.code:
        if cell["source"].rstrip().endswith(";"):
            yield f"{notebook.label(cell)} ends in `;`, which nbval does not honour: `_ = …`"


def kinds(notebook: Notebook) -> Problems:
    for cell, output in notebook.outputs():
        plain = data(output).get("text/plain", "")
        if "text/html" in data(output) and (not plain or plain.startswith("<IPython")):
            yield f"{notebook.label(cell)}: HTML without a text beside it; nbval skips HTML"
        for kind in {"image/svg+xml", "application/pdf"} & set(data(output)):
            yield f"{notebook.label(cell)}: {kind} differs on every run; use PNG"


def timings(notebook: Notebook) -> Problems:
    for cell, output in notebook.outputs():
        found = TIMING.search(words(output))
        if found and "image/png" not in data(output) and not set(tags(cell)) & set(IGNORED):
            yield f"{notebook.label(cell)} prints a time ({found[0]!r}): tag {IGNORED[0]}"


def drift(notebook: Notebook) -> Problems:
    for cell in notebook.cells:
        for key in set(VOLATILE) & set(cell["metadata"]):
            yield f"{notebook.label(cell)} has volatile metadata {key}; run: segkit course refresh"
    for cell, output in notebook.outputs():
        if ADDRESS.search(words(output)):
            yield f"{notebook.label(cell)} shows an object's address in memory"
    if "papermill" in notebook.metadata or "version" in notebook.metadata.get("language_info", {}):
        yield "the notebook's metadata hold what differs by machine; run: segkit course refresh"


def links(notebook: Notebook) -> Problems:
    numbers = {lesson[:2] for lesson in notebook.lessons}
    text = "\n".join(cell["source"] for cell in notebook.text)
    targets = [target for _, _, target in LINK.findall(text)]
    targets += re.findall(r"%load (\S+\.py)", text)
    for target in targets:
        file = target.partition("#")[0]
        planned = Lesson(Path(file)).number and file[:2] not in numbers  # while the course grows
        elsewhere = not file or re.match(r"(https?|mailto):", file)
        there = file in notebook.files or (notebook.path.parent / file).exists()
        if not (elsewhere or there or planned):
            yield f"a link leads nowhere: {target}"


def syntax(notebook: Notebook) -> Problems:
    for cell in notebook.code:
        try:
            ast.parse(cell["source"])
        except SyntaxError:  # a magic or a shell command
            yield f"{notebook.label(cell)} is not plain Python; say it in Python or in the prose"


RULES: tuple[Callable[[Notebook], Problems], ...] = (
    name, parameters, kernel, counts, errors, places, size, lengths, amount, alternatives,
    neighbours, frame, headings, compared, asserted, semicolons, kinds, timings, drift, links,
    syntax,
)  # fmt: skip


def problems(notebook: Notebook) -> dict[str, list[str]]:
    """Return what is wrong with a lesson, by rule; empty when nothing is."""
    found = {rule.__name__: list(rule(notebook)) for rule in RULES}
    return {rule: list(dict.fromkeys(said)) for rule, said in found.items() if said}


def explain(found: dict[str, list[str]]) -> str:
    """Return the problems as text, one a line."""
    return json.dumps(found, indent=1, ensure_ascii=False)
