"""A picture that ends the process which reads it, as one does that fills the memory."""

import os

from hdb.faces.picture import StoredPicture


class DeadlyPicture(StoredPicture):
    """Has a name, and kills who asks for more; a module of its own, so that a spawned process finds it."""

    def __getattribute__(self, name: str) -> object:
        if name == "data":
            os._exit(1)
        return super().__getattribute__(name)
