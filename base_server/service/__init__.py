"""Services: Redis, databases, queues, locks, jobs and language models, each an ordinary object."""
