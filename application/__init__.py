from base_server.bare_names import give_alias

if __name__ == "application":
    give_alias(__name__)
