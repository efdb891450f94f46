"""The page: self-contained, escaped, legible to a screen reader, and no id twice."""

from __future__ import annotations

import html.parser
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from models.page import Grid, Page, Section, between, draw, number, write_whole

pytestmark = pytest.mark.unit


class Collector(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href"):
                self.links.append(value or "")


def page_of(*names: str) -> str:
    plots = tuple(
        draw(name, f"Title of {name}", 'a "quoted" & caption', lambda axes: axes.plot([0, 1], [1, 0], "o-"))
        for name in names
    )
    grid = Grid("A <table>", ("name", "value"), (("a & b", "1"),))
    return Page("Title", ("Lead",), (Section("Part", ("Text <b>",), (grid,), plots),)).html()


def test_a_page_needs_nothing_but_itself() -> None:
    text = page_of("one", "two")
    seen = Collector()
    seen.feed(text)
    assert "script" not in seen.tags
    assert all(link.startswith("#") for link in seen.links)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert len(seen.ids) == len(set(seen.ids))
    assert {link.removeprefix("#") for link in seen.links} <= set(seen.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(seen.ids)


def test_what_is_written_is_escaped() -> None:
    text = page_of("one")
    assert "A &lt;table&gt;" in text
    assert "a &amp; b" in text
    assert "Text &lt;b&gt;" in text


def test_a_plot_is_wellformed_of_any_width_and_says_what_it_shows() -> None:
    plot = draw("name", 'A "title"', "what & why <here>", lambda axes: axes.plot([0, 1]))
    head = ET.fromstring(plot.svg).attrib  # noqa: S314
    assert head["aria-label"] == 'A "title". what & why <here>'
    assert head["role"] == "img"
    assert "viewBox" in head
    assert "width" not in head
    assert plot.svg == draw("name", 'A "title"', "what & why <here>", lambda axes: axes.plot([0, 1])).svg


def test_numbers_are_for_people() -> None:
    assert number(None) == "-"
    assert number(0.035721) == "0.03572"
    assert number(123456.0) == "123,456"
    assert between(None) == "-"
    assert between((0.1, 0.25)) == "0.100 to 0.250"


def test_a_table_in_markdown() -> None:
    grid = Grid("Title", ("name", "value"), (("  part", "1"),))
    assert grid.markdown() == "Title\n\n| name | value |\n| --- | --- |\n| part | 1 |\n"


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "a" / "b.txt", "one")
    write_whole(tmp_path / "a" / "b.txt", "two")
    assert (tmp_path / "a" / "b.txt").read_text() == "two"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.txt"]
