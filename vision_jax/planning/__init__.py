"""Plans: what a config's compiled train step needs on devices, which need not be present."""
