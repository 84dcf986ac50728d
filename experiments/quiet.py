"""What libraries say that is not about us."""

import logging
import warnings


def quieten() -> None:
    """Has libraries keep to themselves what is not about us; again once loaded, for then they set their levels."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for library in ("diffusers", "transformers"):  # tables of odd tensors, which we say in a sentence
        logging.getLogger(library).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")  # advice about num_workers and log intervals
