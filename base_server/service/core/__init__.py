"""Ground floor: what every service uses and that uses no service."""
