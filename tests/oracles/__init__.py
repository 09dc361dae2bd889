"""Literal versions of published algorithms, slow and obvious, to test the fast ones against."""
