"""Settings of a run's log. Apart from the logger, which loads W&B and Lightning."""

from dataclasses import dataclass

from hdb.limits import choice_field

MODES = ("online", "offline", "disabled", "shared", "run", "dryrun")  # the last two are old names of the first two


@dataclass
class WandbOptions:
    """The run's place in Weights & Biases; null leaves a setting to its environment variables.

    Without those, `project` is hdb and `mode` online if there is a login, else offline. `name` is that of the run.
    """

    project: str | None = None
    name: str | None = None
    mode: str | None = choice_field(None, MODES)


@dataclass
class PersonalWandbOptions(WandbOptions):
    """The same for a person's photo: losses, times and sizes are logged, and nothing that tells who it is.

    `share_subject` true adds pictures, names and the file itself.
    """

    share_subject: bool = False
