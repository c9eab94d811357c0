"""Whether this container's Ray node lives: exit code 0 or 1.

Every node, head or worker, has an agent that answers for it without a token. RAY_HEALTH_URL names another.
"""

import os
import sys
import urllib.error
import urllib.request

URL = "http://127.0.0.1:52365/api/healthz"
_TIMEOUT_S = 4


def healthy(url: str) -> bool:
    """Whether `url` answers with success in time."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=_TIMEOUT_S) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    sys.exit(0 if healthy(os.environ.get("RAY_HEALTH_URL", URL)) else 1)
