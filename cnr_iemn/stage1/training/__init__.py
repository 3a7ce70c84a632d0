"""Lightning training of one network, and the folder of its run."""
