"""README's tables from the results that are committed: python -m experiments.readme

With `results=outputs/eval` those of an evaluation come first: results.json as `kept`, and its picture beside that.
"""

from pathlib import Path

from experiments.cli import run
from experiments.config import Readme, load
from hdb.evaluation.readme import filled, read_results
from hdb.files import read_text, write_files, write_json


def main(argv: list[str]) -> None:
    config = load(Readme, argv)
    readme, kept = Path(config.readme), Path(config.kept)
    if not readme.is_file():
        raise ValueError(f"no file {readme}: expected the text whose tables are to be written")
    if config.results is not None:
        folder = Path(config.results)
        found = read_results(folder / "results.json")
        picture = (folder / config.picture).read_bytes()
        write_json(kept, found)
        write_files({kept.with_suffix(".png"): picture})
    before = read_text(readme)
    after = filled(before, root=readme.parent)
    if after != before:
        write_files({readme: after.encode()})
    print(f"{readme} {'has new' if after != before else 'had these'} tables")


if __name__ == "__main__":
    run(main)
