"""Fills the marked tables of README and docs from committed results.

Between two marks stands what a file of results says, and nothing written by hand:

    <!-- scores: path/of/results.json -->
    ...
    <!-- end -->
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hdb.evaluation.ablation import ablation_table
from hdb.evaluation.sheet import overview_prompts
from hdb.evaluation.tables import (
    Table,
    difference_table,
    paper_tables,
    relative_table,
    score_table,
    share_table,
    summary_table,
)

EVALUATION = ("protocol", "scale", "methods", "paired")  # what results.json of an evaluation has
END = "<!-- end -->"
_MARK = re.compile(r"^<!-- (\w+): (\S+) -->$", re.MULTILINE)


def titled_tables(tables: Sequence[Table]) -> str:
    """Several tables in Markdown, each below its title."""
    return "\n\n".join(f"{table.title}\n\n{table.markdown()}" for table in tables)


def overview_caption(results: Mapping[str, Any]) -> str:
    """What the rows of an evaluation's people.jpg show."""
    prompts = "; ".join(f"*{prompt}*" for prompt in overview_prompts(results["protocol"]["prompts"]))
    return f"Columns: people the networks never saw. Rows: the one photo; {prompts}."


# Kind of mark -> the function that turns a file of results into Markdown, and the keys that such a file has.
KINDS: dict[str, tuple[Callable[[Mapping[str, Any]], str], Sequence[str]]] = {
    "scores": (lambda results: score_table(results).markdown(), EVALUATION),
    "differences": (lambda results: difference_table(results).markdown(), EVALUATION),
    "shares": (lambda results: share_table(results).markdown(), EVALUATION),
    "relative": (lambda results: relative_table(results).markdown(), EVALUATION),
    "paper": (lambda results: titled_tables(paper_tables(results)), EVALUATION),
    "summary": (lambda results: summary_table(results).markdown(), EVALUATION),
    "caption": (overview_caption, EVALUATION),
    "ablations": (lambda results: ablation_table(results["variants"]).markdown(), ("variants",)),
}


def fill_tables(text: str, *, root: Path) -> str:
    """Returns a text with the content of its marks as the files of results have it now.

    Args:
        text: Markdown with at least one mark.
        root: folder that the paths in the marks are relative to.

    Raises:
        ValueError: there is no mark, one of an unknown kind, one without an end, or no such file of results.
    """
    marks = list(_MARK.finditer(text))
    if not marks:
        raise ValueError(f"there is no mark for a table, expected one of the kind <!-- {next(iter(KINDS))}: path -->")
    pieces = []
    start = 0
    for mark, next_mark in zip(marks, [*marks[1:], None], strict=True):
        kind, path = mark.groups()
        if kind not in KINDS:
            raise ValueError(f"{mark[0]} asks for {kind!r}, expected one of {', '.join(KINDS)}")
        end = text.find(END, mark.end())
        if end < 0 or (next_mark and next_mark.start() < end):
            raise ValueError(f"{mark[0]} has no end, expected {END}")
        to_markdown, expected_keys = KINDS[kind]
        content = to_markdown(read_results(root / path, expected_keys=expected_keys))
        pieces += [text[start : mark.end()], "\n", content, "\n"]
        start = end
    return "".join([*pieces, text[start:]])


def read_results(path: Path, *, expected_keys: Sequence[str] = EVALUATION) -> dict[str, Any]:
    """Reads the JSON that a command wrote.

    Raises:
        ValueError: there is no such file, or it lacks a key.
    """
    if not path.is_file():
        raise ValueError(f"no results in {path}: expected the results.json of an evaluation")
    try:
        results = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    expected = f"expected the results.json of an evaluation: {', '.join(expected_keys)}"
    if not isinstance(results, dict):
        raise ValueError(f"{path} holds a {type(results).__name__}, {expected}")
    missing = [name for name in expected_keys if name not in results]
    if missing:
        raise ValueError(f"{path} lacks {missing[0]}, {expected}")
    return results
