"""Integers and arrays to bytes and back: parametric models and entropy coders, one file each."""
