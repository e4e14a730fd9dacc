"""How a photo is labelled: passes, windows, the CRF, and the runtimes that compute the network."""
