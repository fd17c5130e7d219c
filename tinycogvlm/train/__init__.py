"""Training: scenes drawn by a program (world), words about them (words), the optimiser, and runs that tie them together."""
