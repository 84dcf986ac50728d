"""Writes the tables of README and docs from the results that are committed: python -m experiments.readme

With `results=outputs/eval` those of an evaluation come first: results.json as `kept`, and its picture beside that.
"""

from pathlib import Path

from experiments.cli import run
from experiments.config import Readme, load


def main(argv: list[str]) -> None:
    config = load(Readme, argv)
    documents = [Path(name) for name in config.readme]
    for document in documents:
        if not document.is_file():
            raise ValueError(f"no file {document}: expected a text whose tables are to be written")
    if config.results is not None:
        keep_results(Path(config.results), kept=Path(config.kept), picture=config.picture)
    fill_documents(documents)


def keep_results(folder: Path, *, kept: Path, picture: str) -> None:
    """Copies the results of an evaluation and a picture of it to where they are committed."""
    from hdb.evaluation.readme import read_results
    from hdb.files import write_files, write_json

    results = read_results(folder / "results.json")
    content = (folder / picture).read_bytes()
    write_json(kept, results)
    write_files({kept.with_suffix(Path(picture).suffix): content})


def fill_documents(documents: list[Path]) -> None:
    """Writes the tables of all documents, or of none if one of them cannot be filled."""
    from hdb.evaluation.readme import fill_tables
    from hdb.files import read_text, write_files

    before = {document: read_text(document) for document in documents}
    after = {document: fill_tables(text, root=Path()) for document, text in before.items()}
    for document in documents:
        has_changed = after[document] != before[document]
        if has_changed:
            write_files({document: after[document].encode()})
        print(f"{document} {'has new' if has_changed else 'had these'} tables")


if __name__ == "__main__":
    run(main)
