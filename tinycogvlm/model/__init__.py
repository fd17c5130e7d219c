"""CogVLM itself: the files to read."""
