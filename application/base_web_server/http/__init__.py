"""HTTP: the aiohttp application, its routes and middlewares."""
