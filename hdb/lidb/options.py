"""The options of LiDB, in a file without torch so that `hdb inspect` starts quickly."""

from dataclasses import dataclass

from hdb.limits import number_field, seed_field


@dataclass
class LiDBOptions:
    """The size of personal weights. Paper: r = 1, a = 100 on the input side, b = 50 on the output side.

    `a` is the number of basis vectors of a layer's input. `b` is the number of basis vectors of its output. `rank` is
    the rank of the residual within these bases. `seed` draws the bases.
    """

    a: int = number_field(100, ge=1)
    b: int = number_field(50, ge=1)
    rank: int = number_field(1, ge=1)
    seed: int = seed_field()
