"""How fast, and how that was measured: `python -m bench`."""
