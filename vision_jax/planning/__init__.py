"""Plans: what the compiled train step of a config needs of devices that need not be there."""
