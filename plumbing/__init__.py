"""Nothing of the paper: a run's folder, flags, the language model, the machine, files of ratings, the demo's world.

You need not read it to understand the method; open it when you change a dataset, a model or a machine.
"""
