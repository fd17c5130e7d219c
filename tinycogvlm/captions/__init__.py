"""Captions for whole data sets: shards of 64 pictures, each captioned once, whatever happens in between."""
