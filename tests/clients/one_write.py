"""Writes once, and prints what it is told: one_write.py LIBRARY PORT [default]. With `default`, as the library comes;
without, set so that it repeats nothing."""

import sys

LIBRARY, PORT = sys.argv[1], int(sys.argv[2])
IS_DEFAULT = len(sys.argv) > 3


def redis_py():
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    options = {} if IS_DEFAULT else {"retry": Retry(NoBackoff(), 0)}
    Redis(port=PORT, **options).set("key", "value")


def valkey_glide():
    from glide_sync import GlideClient, GlideClientConfiguration, NodeAddress

    address = NodeAddress("127.0.0.1", PORT)
    GlideClient.create(GlideClientConfiguration([address], request_timeout=10_000)).set("key", "value")


try:
    {"redis_py": redis_py, "valkey_glide": valkey_glide}[LIBRARY]()
    print("OK")
except Exception as error:
    print("error:", error)
