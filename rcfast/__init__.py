"""rcfast: majority votes over a region around an input, made fast, and what they are worth."""

__version__ = "0.1.0"
