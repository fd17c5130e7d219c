"""How often a model is right, and by how much quantised weights differ."""
