"""The game's market. A package of its own in the `template` namespace, beside the shipped ones."""
