"""Claims of CogVLM's relatives, each seen in minutes on one core: python -m tinycogvlm.train.miniatures NAME

A miniature is a file here that says what is claimed, which runs show it, and how one run learns and is measured; it
trains the code of relatives/ itself. miniature.py does the runs, pictures.py draws what most of them look at.
"""
