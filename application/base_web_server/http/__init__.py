"""HTTP: the aiohttp application, its routes and what stands around them."""
