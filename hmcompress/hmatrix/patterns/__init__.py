"""Codecs for matrices that a tree describes badly: codes, lists, tiles, smooth grids, short floats; and a trellis."""
