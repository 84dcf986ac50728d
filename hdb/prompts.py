"""The words of the paper: the identifier, the prompts that describe everybody, lists of prompts in a file."""

from pathlib import Path

IDENTIFIER = "[V]"
INSTANCE_PROMPT = f"a {IDENTIFIER} face"
CLASS_PROMPT = "a face"


def without_identifier(prompt: str) -> str:
    """What a prompt means to somebody who does not know the identifier, CLIP say.

    >>> without_identifier("a photo of a [V] face")
    'a photo of a face'
    """
    return " ".join(prompt.replace(IDENTIFIER, " ").split())


def read_prompts(path: str | Path, *, num: int) -> list[str]:
    """The first prompts of a text file, one per line.

    Raises:
        ValueError: no such file, or fewer prompts than asked for.
    """
    if not Path(path).is_file():
        raise ValueError(f"no prompts in {path}: expected a text file with one prompt per line")
    prompts = [line.strip() for line in Path(path).read_text().splitlines() if line.strip()]
    if not 1 <= num <= len(prompts):
        raise ValueError(f"num_prompts is {num}, expected 1 to {len(prompts)}, as many as {path} has")
    return prompts[:num]
