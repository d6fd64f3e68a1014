"""The documentation: its links lead somewhere, and the reference names what the commands take."""

import ast
import re
from pathlib import Path

import pytest

from utils.paths import ROOT

PATTERNS = ("README.md", "*/README.md", "models/*/README.md", "docs/*.md", "docs/results/*.md")
PAGES = sorted(page for pattern in PATTERNS for page in ROOT.glob(pattern))
COMMANDS = sorted(
    path.stem for path in (ROOT / "scripts").glob("*.py") if "run_command(" in path.read_text()
)
OPTION = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")


def prose(page: Path) -> str:
    """A page without its code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", lambda code: code[0].strip("`").replace("](", "] ("), text)


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        name, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):  # of the web
            continue
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def definitions(file: Path) -> set[str]:
    """Names of the functions, classes and methods of a module."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            inner = node.body if isinstance(node, ast.ClassDef) else []
            methods = [item.name for item in inner if isinstance(item, ast.FunctionDef)]
            found |= {node.name, *(f"{node.name}.{method}" for method in methods)}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_code_name_what_is_defined_there(page: Path) -> None:
    links = re.findall(r"\[`([\w.]+)`\]\((\S+\.py)\)", page.read_text(encoding="utf-8"))
    for name, link in links:
        assert name in definitions(page.parent / link), link


def documented(command: str) -> set[str]:
    """The options in the tables of all sections that have a command in their heading."""
    text = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    options: set[str] = set()
    for section in re.split(r"^(?=## )", text, flags=re.M):
        heading, _, body = section.partition("\n")
        if f"`{command}.py`" in heading:
            cells = re.findall(r"^\| (`-.*?`) \|", body, re.M)
            options |= set(OPTION.findall(" ".join(cells)))
    return options


@pytest.mark.parametrize("name", COMMANDS)
def test_the_reference_names_every_option_of_a_command(command, name: str) -> None:
    finished = command(name, "--help")
    assert finished.code == 0
    usage = "\n".join(re.findall(r"^  (-.*?)(?:  |$)", finished.out, re.M))
    assert documented(name) == set(OPTION.findall(usage)) - {"-h", "--help"}
