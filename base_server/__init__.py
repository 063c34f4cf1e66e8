"""The import root of all our code, so that it can live beside a host's own packages."""

from base_server.bare_names import install

install()
