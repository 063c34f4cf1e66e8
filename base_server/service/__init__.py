"""Services: Redis, databases, queues, locks, jobs and language models, each an ordinary object."""

from base_server.bare_names import give_alias

if __name__ == "service":
    give_alias(__name__)
