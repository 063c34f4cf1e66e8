"""The image's health check: exit code 0 while the process is alive (/livez)."""

import os
import sys
from http.client import HTTPConnection

connection = HTTPConnection(
    "127.0.0.1", int(os.environ["BASE_SERVER__NETCONFIG__ADMIN_PORT"]), timeout=2
)
connection.request("GET", "/livez")
sys.exit(connection.getresponse().status != 200)
