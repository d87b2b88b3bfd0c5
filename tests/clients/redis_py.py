"""Drives a server with redis-py: redis_py.py PORT [PASSWORD]. Fails at the first surprise."""

import sys

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

PORT = int(sys.argv[1])
PASSWORD = sys.argv[2] if len(sys.argv) > 2 else None


def connect(password=PASSWORD, **options):
    # By default it tries a refused password again, for many seconds.
    once = Retry(NoBackoff(), 0)
    return redis.Redis(port=PORT, password=password, socket_timeout=10, retry=once, **options)


def expect(saw, wanted):
    assert saw == wanted, f"saw {saw!r} instead of {wanted!r}"


def refused(kind, act):
    """The message of the error of this kind that `act` must end in."""
    try:
        saw = act()
    except kind as error:
        return str(error)
    raise AssertionError(f"saw {saw!r} instead of {kind.__name__}")


def everyday(client):
    client.flushall()
    expect(client.ping(), True)
    expect(client.echo("hello"), b"hello")
    expect(client.set("name", "Dylan"), True)
    expect(client.get("name"), b"Dylan")
    expect(client.get("nobody"), None)
    value = bytes(range(256)) * 1000
    expect(client.set("bytes", value), True)
    expect(client.get("bytes"), value)
    expect(client.strlen("bytes"), len(value))
    expect(client.mset({"a": "1", "b": "2"}), True)
    expect(client.mget("a", "nobody", "b"), [b"1", None, b"2"])
    expect(client.exists("a", "b", "nobody"), 2)
    expect(client.type("a"), b"string")
    expect(client.dbsize(), 4)
    expect(sorted(client.keys("?")), [b"a", b"b"])
    expect(sorted(client.scan_iter(match="*a*", count=1)), [b"a", b"name"])
    expect(client.delete("a", "nobody"), 1)
    expect(client.unlink("b"), 1)
    expect(client.exists("a", "b"), 0)


def about_the_connection(client):
    expect(client.client_getname() in (b"tester", "tester"), True)
    expect(client.client_id() > 0, True)
    expect(client.info()["role"], "master")
    expect(client.info("keyspace")["db0"]["keys"], client.dbsize())
    expect(client.config_get("save"), {"save": ""})
    expect(client.command_count() > 20, True)
    expect("GET" in {name.upper() for name in client.command()}, True)


def pipelines(client):
    pipeline = client.pipeline(transaction=False)
    for number in range(1000):
        pipeline.set(f"key{number}", number).get(f"key{number}").get("nobody")
    wanted = [reply for number in range(1000) for reply in (True, b"%d" % number, None)]
    expect(pipeline.execute(), wanted)

    # The default is a transaction: it must fail, and change nothing.
    before = client.dbsize()
    message = refused(
        redis.ResponseError, lambda: client.pipeline().set("never", "x").delete("key1").execute()
    )
    expect("Transaction discarded: this server executes no transactions" in message, True)
    expect((client.get("never"), client.get("key1")), (None, b"1"))
    expect(client.dbsize(), before)


for options in ({}, {"protocol": 2}, {"protocol": 3}):
    client = connect(client_name="tester", **options)
    everyday(client)
    about_the_connection(client)
    pipelines(client)
    if PASSWORD:
        wrong = refused(redis.AuthenticationError, lambda: connect("wrong", **options).get("name"))
        expect("invalid username-password pair" in wrong, True)
        none = refused(redis.AuthenticationError, lambda: connect(None, **options).get("name"))
        expect("uthenticat" in none, True)

# RESP3 is what it speaks unless told otherwise, so the first round was one.
with connect().client() as single:
    expect(single.execute_command("HELLO")[b"proto"], 3)
print("ok")
