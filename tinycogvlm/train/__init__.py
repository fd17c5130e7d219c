"""Training: scenes drawn by a program (world), words about them, the optimiser, and the run that ties them together."""
