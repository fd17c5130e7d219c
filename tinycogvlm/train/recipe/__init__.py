"""How the bundled model was trained, stage by stage."""
