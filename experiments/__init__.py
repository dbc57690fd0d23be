"""What one does with the method: each file a command (`python -m experiments.NAME`) or, in objectives.py, other losses.

Open what you want to try; nothing of the four scripts above needs it.
"""
