"""The schema of what looks at files. Apart from the others, which load the networks' libraries with their options."""

from dataclasses import dataclass, field

from hdb.lidb.options import LiDBOptions


@dataclass
class Inspect:
    """What a file of a person says of itself, or which slots a base has; a base needs its configuration only.

    `subject` is a file of one person. `base` is a folder, a hub id, or sd15-config: the published configuration of
    Stable Diffusion 1.5.
    """

    subject: str | None = None
    base: str | None = None
    lidb: LiDBOptions = field(default_factory=LiDBOptions)
