"""The pages link to what is there, and the index names each of them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
KINDS = ("start", "how-to", "reference", "explanation")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def links(page: str) -> list[str]:
    """The targets of a page's links that are not addresses on the web."""
    return [target for target in LINK.findall(CODE.sub("", page)) if not re.match(r"[a-z]+:", target)]


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = HEADING.findall(re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere."""
    found = []
    for link in links(page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_heading_of_it(page: Path) -> None:
    """Links to other sites are not followed."""
    assert broken(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    """A missing file, a missing heading of this page and a missing heading of another."""
    (tmp_path / "other.md").write_text("# Other\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n[a](gone.md) [b](#gone) [c](other.md#gone) [d](other.md#other) [e](#page) `[f](code.md)`\n"
    )
    assert broken(page) == ["gone.md", "#gone", "other.md#gone"]


def test_the_index_names_every_page() -> None:
    """Each page of the four kinds stands in docs/README.md."""
    named = {(DOCS / link).resolve() for link in links((DOCS / "README.md").read_text())}
    pages = {page for kind in KINDS for page in (DOCS / kind).rglob("*.md")}
    assert pages - named == set()
