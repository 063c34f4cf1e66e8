"""The stages of a run, by the name that ``--only`` takes."""
