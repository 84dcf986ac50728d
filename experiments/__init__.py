"""One file per experiment: reads a config, builds the objects by plain calls, runs them, writes under `outputs/`."""
