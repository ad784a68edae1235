"""Codecs: a float32 vector becomes one byte string, whose length is the bill."""
