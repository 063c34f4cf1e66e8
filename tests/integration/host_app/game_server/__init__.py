"""A game server that mounts the chat template in its own aiohttp app, beside its own market."""
