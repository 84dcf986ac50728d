"""Which people of the world are for training, validation and test."""

from collections.abc import Mapping
from types import MappingProxyType

SPLITS: Mapping[str, range] = MappingProxyType(
    {"train": range(2000), "val": range(2000, 2200), "test": range(2200, 2400)}
)
