"""The words of the paper: the identifier, the prompts that describe everybody, lists of prompts in a file.

[V] stands for the person in every prompt of this project. What a text encoder reads in its place is a setting of
pretraining: [V] itself as in the paper, or a plain rare word, which user interfaces do not take for markup.
"""

import re
from pathlib import Path

from hdb.files import read_text

IDENTIFIER = "[V]"
INSTANCE_PROMPT = f"a {IDENTIFIER} face"
CLASS_PROMPT = "a face"

_IDENTIFIER = re.compile(re.escape(IDENTIFIER), re.IGNORECASE)  # text encoders do not tell [v] from [V]


def has_identifier(prompt: str, identifier: str = IDENTIFIER) -> bool:
    """Whether a prompt has [V] in it, in either case, or the word that is read in its place."""
    return _IDENTIFIER.search(prompt) is not None or identifier.lower() in prompt.lower().split()


def replace_identifier(prompt: str, identifier: str) -> str:
    """A prompt as a text encoder reads it: the identifier in the place of [V].

    >>> replace_identifier("a photo of a [V] face", "sks")
    'a photo of a sks face'
    """
    return _IDENTIFIER.sub(lambda found: identifier, prompt) if identifier != IDENTIFIER else prompt


def escape_brackets(prompt: str) -> str:
    r"""A prompt as one types it in A1111, to which brackets are markup: [x] is x at a strength of 1 / 1.1.

    >>> print(escape_brackets("a [V] face"))
    a \[V\] face
    """
    return re.sub(r"([\[\]()])", r"\\\1", prompt)


def remove_identifier(prompt: str) -> str:
    """What a prompt means to somebody who does not know the identifier, CLIP say.

    >>> remove_identifier("a photo of a [V] face")
    'a photo of a face'
    """
    return " ".join(_IDENTIFIER.sub(" ", prompt).split())


def read_prompts(path: str | Path, *, num: int) -> list[str]:
    """The first prompts of a text file, one per line.

    Raises:
        ValueError: no such file, no text, fewer prompts than asked for, or one that asks for nobody.
    """
    text = read_text(path) if Path(path).is_file() else ""
    prompts = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    if not prompts:
        raise ValueError(f"no prompts in {path}: expected a text file with one prompt per line")
    if not 1 <= num <= len(prompts):
        raise ValueError(f"num_prompts is {num}, expected 1 to {len(prompts)}, as many as {path} has")
    if nameless := next((prompt for prompt in prompts[:num] if not has_identifier(prompt)), None):
        raise ValueError(
            f"{path} asks for {nameless!r}, expected {IDENTIFIER} in every prompt, where the person stands"
        )
    return prompts[:num]
