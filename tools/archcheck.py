"""The rules that no linter knows: the import picture, one clock, and documents that name what exists.

Each check takes the root of a tree and returns its violations as "file:line: sentence"; tests/arch runs them over this
repository and over small trees with a planted violation.
"""
from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

GROUND = ("common", "ring")
CONTROL_SERVICES = ("identity", "image", "blockvol", "compute", "network")
SERVICES = ("object", "container", "account", *CONTROL_SERVICES)
TOP = ("bench", "node", "cli")                  # bench knows a system only from outside, by HTTP and /proc
PACKAGES = (*GROUND, *SERVICES, "proxy", "control", *TOP)
SEAMS = ("client", "wire")                     # all that one service sees of another

_BELOW = {                                     # package -> packages it may import whole, besides itself
    "common": (), "ring": ("common",), "proxy": GROUND, "control": GROUND,
    **dict.fromkeys(SERVICES, GROUND), **dict.fromkeys(CONTROL_SERVICES, (*GROUND, "control")),
    "bench": GROUND, "node": tuple(name for name in PACKAGES if name not in ("bench", "cli")), "cli": PACKAGES,
}
_FORBIDDEN = {"proxy": ("aiohttp",)}           # the data path has an HTTP front of its own
_CLOCK_CALLS = {("time", name) for name in ("time", "time_ns", "monotonic", "monotonic_ns")} | {
    ("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"), ("date", "today")}
_CLOCK_HOME = "common/clock.py"
_DOC_WORD = re.compile(r"`([^`\s]+)`")
_DOC_LINK = re.compile(r"\]\(([^)#\s:]+)(?:#[^)]*)?\)")               # [text](relative/path#anchor)
_FILE_WORD = re.compile(r"(?:[\w.-]+/)+[\w.-]+\.(?:py|md|toml|sh|patch|json)")
_NAME_WORD = re.compile(r"[a-z_]+(?:\.[A-Za-z_]\w*)+")
_CHECKED_FOLDERS = (*PACKAGES, "docs", "tests", "tools")


def check_imports(root: Path) -> list[str]:
    """Imports point to the ground; another service is seen only through its client and wire."""
    return [f"{where}: {reason}" for path in _sources(root, PACKAGES) for where, reason in _import_problems(root, path)]


def check_builtin_object(root: Path) -> list[str]:
    """`import object` and `import object.store` rebind a builtin, in tests as well."""
    out = []
    for path in _sources(root, (*PACKAGES, "tests", "tools")):
        for node in ast.walk(_parse(path)):
            if isinstance(node, ast.Import) and any(_top(alias.name) == "object" and alias.asname is None for alias in node.names):
                out.append(f"{_where(root, path, node)}: rebinds the builtin object; write from object.x import Y")
    return out


def check_clock(root: Path) -> list[str]:
    """Time is read in common/clock.py only, so that the simulation can stop it."""
    out = []
    for path in _sources(root, PACKAGES):
        if path.relative_to(root).as_posix() == _CLOCK_HOME:
            continue
        out += [f"{_where(root, path, node)}: reads the clock; take a common.clock.Clock" for node in _clock_reads(_parse(path))]
    return out


def check_documents(root: Path) -> list[str]:
    """What stands in backticks and looks like a file or a name of ours exists, and so does what a relative link points to."""
    out = []
    for path in sorted([*root.glob("*.md"), *root.glob("docs/**/*.md")]):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for word in _DOC_WORD.findall(line):
                if reason := _word_problem(root, word.removesuffix("()")):
                    out.append(f"{path.relative_to(root)}:{number}: {reason}")
            out += [f"{path.relative_to(root)}:{number}: the link {target} leads nowhere"
                    for target in _DOC_LINK.findall(line) if not (path.parent / target).exists()]
    return out


def _import_problems(root: Path, path: Path) -> Iterator[tuple[str, str]]:
    package = path.relative_to(root).parts[0]
    for node, module in _imported_modules(_parse(path)):
        top, *rest = module.split(".")
        if top in _FORBIDDEN.get(package, ()):
            yield _where(root, path, node), f"{package} must not import {top}"
        if top not in PACKAGES or top == package or top in _BELOW[package]:
            continue
        if top in SERVICES and package not in GROUND and rest and rest[0] in SEAMS:
            continue
        allowed = f" beyond {' and '.join(SEAMS)}" if top in SERVICES and package not in GROUND else ""
        yield _where(root, path, node), f"{package} must not import {module}{allowed}"


def _imported_modules(tree: ast.Module) -> Iterator[tuple[ast.stmt, str]]:
    """Each imported module by its full name; `from object import store` counts as object.store. Relative imports stay inside."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if "." in node.module:
                yield node, node.module
            else:
                yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def _clock_reads(tree: ast.Module) -> Iterator[ast.stmt | ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            if (owner, node.attr) in _CLOCK_CALLS:
                yield node
        elif isinstance(node, ast.ImportFrom) and any((node.module, alias.name) in _CLOCK_CALLS for alias in node.names):
            yield node


def _word_problem(root: Path, word: str) -> str | None:
    word = word.removeprefix("./")
    if _FILE_WORD.fullmatch(word) and _top(word, "/") in _CHECKED_FOLDERS:
        return None if (root / word).exists() else f"there is no file {word}"
    if _NAME_WORD.fullmatch(word) and _top(word) in PACKAGES and not word.endswith((".py", ".md", ".toml")):
        return None if _name_exists(root, word.split(".")) else f"there is no {word}"
    return None


def _name_exists(root: Path, parts: list[str]) -> bool:
    """package.module, package.module.Name, package.module.Class.member."""
    at = root
    for position, part in enumerate(parts):
        if (at / part).is_dir():
            at = at / part
            continue
        module = at / f"{part}.py"
        if module.is_file():
            return _defines(_parse(module).body, parts[position + 1:])
        init = at / "__init__.py"
        return position > 0 and init.is_file() and _defines(_parse(init).body, parts[position:])
    return True


def _defines(body: list[ast.stmt], parts: list[str]) -> bool:
    if not parts:
        return True
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name == parts[0]:
            inner = [statement for found in ast.walk(node) if isinstance(found, ast.FunctionDef) for statement in found.body]
            return _defines(node.body, parts[1:]) or _sets_attribute(inner, parts[1:])
        if parts[0] in _bound_names(node):
            return len(parts) == 1
    return False


def _bound_names(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {found.id for target in targets for found in ast.walk(target) if isinstance(found, ast.Name)}


def _sets_attribute(body: list[ast.stmt], parts: list[str]) -> bool:
    """self.x = ... in a method."""
    return len(parts) == 1 and any(isinstance(found, ast.Attribute) and found.attr == parts[0] and isinstance(found.ctx, ast.Store)
                                   for node in body for found in ast.walk(node))


def _sources(root: Path, folders: tuple[str, ...]) -> list[Path]:
    return sorted(path for folder in folders for path in (root / folder).rglob("*.py"))


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def _top(name: str, separator: str = ".") -> str:
    return name.split(separator, 1)[0]


def _where(root: Path, path: Path, node: ast.stmt | ast.expr) -> str:
    return f"{path.relative_to(root)}:{node.lineno}"
