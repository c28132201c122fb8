"""What segkit is made of, read from its source: modules, imports, public names and their users.

`python tests/structure.py [ROOT]` prints the counts.
"""

import ast
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent


class Use(NamedTuple):
    """A name of a module of segkit that a file uses; name: None for the module as a whole."""

    module: str
    name: str | None


class Package:
    """segkit under `root`: its modules by dotted name, without the leading "segkit."."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.files = {self._dotted(file): file for file in sorted((root / "segkit").rglob("*.py"))}
        self.trees = {name: ast.parse(file.read_text("utf-8")) for name, file in self.files.items()}

    def _dotted(self, file: Path) -> str:
        parts = file.relative_to(self.root / "segkit").with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def lines(self, module: str) -> int:
        """Return the lines of a module, blank ones and docstrings included."""
        return len(self.files[module].read_text("utf-8").splitlines())

    def public(self, module: str) -> set[str]:
        """Return the names without underscore that a module defines at its top level."""
        found = set()
        for node in self.trees[module].body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = (n for target in targets for n in ast.walk(target))
                found |= {n.id for n in names if isinstance(n, ast.Name)}
        return {name for name in found if not name.startswith("_")}

    def uses(self, tree: ast.AST) -> Iterator[Use]:
        """Yield the names of segkit that a file uses, also inside functions and in strings."""
        modules: dict[str, str] = {}  # a local name, and the module that it stands for
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "segkit":
                base = node.module.removeprefix("segkit").removeprefix(".")
                for alias in node.names:
                    whole = f"{base}.{alias.name}".removeprefix(".")
                    if whole in self.files:
                        modules[alias.asname or alias.name] = whole
                        yield Use(whole, None)
                    else:
                        yield Use(base, alias.name)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.split(".")[0] == "segkit":
                        modules[alias.asname or "segkit"] = (
                            alias.name.removeprefix("segkit").removeprefix(".")
                            if alias.asname
                            else ""
                        )
                        yield Use(alias.name.removeprefix("segkit").removeprefix("."), None)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                yield from self._attribute(node, modules)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                module, _, name = node.value.removeprefix("segkit.").partition(":")
                if module in self.files and name.isidentifier():
                    yield Use(module, name)

    def _attribute(self, node: ast.Attribute, modules: dict[str, str]) -> Iterator[Use]:
        chain = [node.attr]
        while isinstance(node.value, ast.Attribute):
            node = node.value
            chain.append(node.attr)
        if not isinstance(node.value, ast.Name) or node.value.id not in modules:
            return
        module = modules[node.value.id]
        for attr in reversed(chain):
            whole = f"{module}.{attr}".removeprefix(".")
            if whole not in self.files:
                yield Use(module, attr)
                return
            module = whole

    def imports(self, module: str) -> set[str]:
        """Return the modules of segkit that a module imports, wherever in its text."""
        return {use.module for use in self.uses(self.trees[module])} - {module}

    def used(self, *groups: str) -> dict[str, set[Use]]:
        """Return the uses by group of files: "segkit", "cli", "notebooks", "docs", "tests"."""
        found: dict[str, set[Use]] = {group: set() for group in groups}
        for group in groups:
            for where, tree in self._trees_of(group):
                found[group] |= {use for use in self.uses(tree) if use.module != where}
        return found

    def _trees_of(self, group: str) -> Iterator[tuple[str | None, ast.AST]]:
        if group in ("segkit", "cli"):
            for name, tree in self.trees.items():
                if (name.split(".")[0] == "cli") == (group == "cli"):
                    yield name, tree
        elif group == "notebooks":
            for file in sorted((self.root / "notebooks").glob("*.ipynb")):
                cells = json.loads(file.read_text("utf-8"))["cells"]
                code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
                lines = [line for cell in code for line in cell.splitlines()]
                yield (
                    None,
                    ast.parse("\n".join(x for x in lines if not x.lstrip().startswith(("%", "!")))),
                )
            for file in sorted((self.root / "notebooks").rglob("*.py")):
                yield None, ast.parse(file.read_text("utf-8"))
        else:
            folders = {"docs": ("docs", "figures"), "tests": ("tests",)}[group]
            for file in (f for folder in folders for f in (self.root / folder).rglob("*.py")):
                yield None, ast.parse(file.read_text("utf-8"))

    def exported(self, module: str) -> set[str]:
        """Return the names in a module's `__all__`."""
        for node in self.trees[module].body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                return set(ast.literal_eval(node.value))
        return set()


def main(root: Path) -> None:
    """Print lines, files and who uses the public names."""
    package = Package(root)
    lines = Counter()
    for module in package.files:
        lines[module.split(".")[0]] += package.lines(module)
    for part, count in sorted(lines.items()):
        print(f"{part or '__init__':16}{count:>7,}")
    print(f"{'all':16}{sum(lines.values()):>7,} lines in {len(package.files)} files")
    used = package.used("notebooks", "segkit", "cli", "docs", "tests")
    public = {Use(m, n) for m in package.files for n in package.public(m)}
    left = set(public)
    print(f"{len(public)} public names, used by")
    for group, uses in used.items():
        print(f"  {group:12}{len(left & uses):>5}")
        left -= uses
    print(f"  {'nobody else':12}{len(left):>5}")
    nodes = [node for tree in package.trees.values() for node in ast.walk(tree)]
    sizes = sorted(
        node.end_lineno - node.lineno + 1
        for node in nodes
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    )
    classes = sum(isinstance(node, ast.ClassDef) for node in nodes)
    print(f"{len(sizes)} functions: median {sizes[len(sizes) // 2]} lines, longest {sizes[-1]}")
    print(f"{classes} classes")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
