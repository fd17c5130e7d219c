"""Drawn scenes and what is true of them: the data set of the bundled model."""
