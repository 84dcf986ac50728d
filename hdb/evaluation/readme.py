"""README's tables, written from results.json: between two marks stands what the results say, and nothing by hand.

<!-- scores: path/of/results.json -->
...
<!-- end -->
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hdb.evaluation.tables import Table, difference_table, paper_tables, score_table, share_table

KINDS: dict[str, Callable[[Mapping[str, Any]], list[Table]]] = {
    "scores": lambda results: [score_table(results)],
    "differences": lambda results: [difference_table(results)],
    "shares": lambda results: [share_table(results)],
    "paper": paper_tables,
}
END = "<!-- end -->"
_MARK = re.compile(r"^<!-- (\w+): (\S+) -->$", re.MULTILINE)


def filled(text: str, *, root: Path) -> str:
    """A text with the tables of its marks as the results have them now.

    Args:
        root: that the paths in the marks are relative to.

    Raises:
        ValueError: there is no mark, one of an unknown kind, one without an end, or no such results.
    """
    marks = list(_MARK.finditer(text))
    if not marks:
        raise ValueError(f"there is no mark for a table, expected one of the kind <!-- {next(iter(KINDS))}: path -->")
    written, at = [], 0
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        kind, path = mark.groups()
        if kind not in KINDS:
            raise ValueError(f"{mark[0]} asks for {kind!r}, expected one of {', '.join(KINDS)}")
        end = text.find(END, mark.end())
        if end < 0 or (following and following.start() < end):
            raise ValueError(f"{mark[0]} has no end, expected {END}")
        tables = KINDS[kind](read_results(root / path))
        titled = (f"{table.title}\n\n{table.markdown()}" if len(tables) > 1 else table.markdown() for table in tables)
        written += [text[at : mark.end()], "\n", "\n\n".join(titled), "\n"]
        at = end
    return "".join([*written, text[at:]])


def read_results(path: Path) -> dict[str, Any]:
    """What an evaluation wrote.

    Raises:
        ValueError: there is no such file, or it is another one's.
    """
    if not path.is_file():
        raise ValueError(f"no results in {path}: expected the results.json of an evaluation")
    try:
        results = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    expected = ("protocol", "scale", "methods", "paired")
    if not isinstance(results, dict) or (lacks := [name for name in expected if name not in results]):
        given = f"lacks {lacks[0]}" if isinstance(results, dict) else f"holds a {type(results).__name__}"
        raise ValueError(f"{path} {given}, expected the results.json of an evaluation: {', '.join(expected)}")
    return results
