"""Templates: features of the server, each with a table of endpoints and a lifecycle."""

from base_server.bare_names import give_alias

if __name__ == "template":
    give_alias(__name__)
