"""Prompts: the paper's identifier and standard prompts, and lists of prompts in text files.

Every prompt in this project refers to the person as [V]. The text encoder may read another word in its place, which is
a setting of pretraining: user interfaces such as A1111 take the brackets of [V] for markup, and no plain rare word.
"""

import re
from pathlib import Path

from hdb.files import read_text

IDENTIFIER = "[V]"
INSTANCE_PROMPT = f"a {IDENTIFIER} face"
CLASS_PROMPT = "a face"

_IDENTIFIER_PATTERN = re.compile(re.escape(IDENTIFIER), re.IGNORECASE)  # CLIP's tokenizer ignores case


def has_identifier(prompt: str, identifier: str = IDENTIFIER) -> bool:
    """Whether a prompt contains [V] in either case, or as a word the identifier that the base reads in its place."""
    return _IDENTIFIER_PATTERN.search(prompt) is not None or identifier.lower() in prompt.lower().split()


def replace_identifier(prompt: str, identifier: str) -> str:
    """Replaces [V] with the identifier that the text encoder reads.

    >>> replace_identifier("a photo of a [V] face", "sks")
    'a photo of a sks face'
    """
    if identifier == IDENTIFIER:
        return prompt
    return _IDENTIFIER_PATTERN.sub(lambda match: identifier, prompt)


def remove_identifier(prompt: str) -> str:
    """Removes [V], for models such as CLIP that were not trained with it.

    >>> remove_identifier("a photo of a [V] face")
    'a photo of a face'
    """
    return " ".join(_IDENTIFIER_PATTERN.sub(" ", prompt).split())


def escape_brackets(prompt: str) -> str:
    r"""Escapes brackets for A1111, where they are markup: [x] is x at a weight of 1 / 1.1.

    >>> print(escape_brackets("a [V] face"))
    a \[V\] face
    """
    return re.sub(r"([\[\]()])", r"\\\1", prompt)


def read_prompts(path: str | Path, *, num: int) -> list[str]:
    """Reads the first prompts of a text file with one prompt per line.

    Raises:
        ValueError: There is no such file, no text, fewer than `num` prompts, or one of these lacks [V].
    """
    text = read_text(path) if Path(path).is_file() else ""
    prompts = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    if not prompts:
        raise ValueError(f"no prompts in {path}: expected a text file with one prompt per line")
    if not 1 <= num <= len(prompts):
        raise ValueError(f"num_prompts is {num}, expected 1 to {len(prompts)}, as many as {path} has")
    for prompt in prompts[:num]:
        if not has_identifier(prompt):
            raise ValueError(
                f"{path} asks for {prompt!r}, expected {IDENTIFIER} in every prompt, where the person stands"
            )
    return prompts[:num]
