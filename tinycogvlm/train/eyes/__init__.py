"""Eyes for a language model that already speaks: an adapter by least squares, and self-distillation."""
