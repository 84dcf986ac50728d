"""The shape of personal weights, apart from the networks: what is asked of a file alone need not load them."""

from dataclasses import dataclass

from hdb.limits import number_field, seed_field


@dataclass
class LiDBOptions:
    """The shape of personal weights. Paper: r = 1, a = 100 on the input side, b = 50 on the output side.

    `a` is how many directions of a layer's input a residual may use. `b` is how many of its output. `rank` is that of
    the residual within them. `seed` draws the directions.
    """

    a: int = number_field(100, ge=1)
    b: int = number_field(50, ge=1)
    rank: int = number_field(1, ge=1)
    seed: int = seed_field()
