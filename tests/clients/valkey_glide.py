"""Drives a server with valkey-glide's synchronous client: valkey_glide.py PORT [PASSWORD]. Fails at the first surprise."""

import sys

from glide_sync import (
    Batch,
    GlideClient,
    GlideClientConfiguration,
    GlideError,
    Logger,
    LogLevel,
    NodeAddress,
    ProtocolVersion,
    ServerCredentials,
)

PORT = int(sys.argv[1])
PASSWORD = sys.argv[2] if len(sys.argv) > 2 else None


def connect(password=PASSWORD, **options):
    return GlideClient.create(
        GlideClientConfiguration(
            [NodeAddress("127.0.0.1", PORT)],
            credentials=ServerCredentials(password) if password else None,
            request_timeout=10_000,
            **options,
        )
    )


def expect(saw, wanted):
    assert saw == wanted, f"saw {saw!r:.300} instead of {wanted!r:.300}"


def refused(act):
    """The message of the error that `act` must end in."""
    try:
        saw = act()
    except GlideError as error:
        return str(error)
    raise AssertionError(f"saw {saw!r} instead of an error")


def everyday(client):
    expect(client.flushall(), "OK")
    expect(client.ping(), b"PONG")
    expect(client.set("name", "Dylan"), "OK")
    expect(client.get("name"), b"Dylan")
    expect(client.get("nobody"), None)
    value = bytes(range(256)) * 16_384
    expect(client.set(b"by\0tes\r\n", value), "OK")
    expect(client.get(b"by\0tes\r\n"), value)
    expect(client.mset({"a": "1", "b": "2"}), "OK")
    expect(client.mget(["a", "nobody", "b"]), [b"1", None, b"2"])
    expect(client.exists(["a", "b", "nobody"]), 2)
    expect(client.dbsize(), 4)
    expect(client.delete(["a", "nobody"]), 1)
    expect(client.client_getname(), b"tester")
    expect(b"role:master" in client.info(), True)


def wrong_and_pipelined(client):
    # An error is no value, and the next reply is that of the next command.
    expect("unknown command" in refused(lambda: client.custom_command(["NONSENSE", "a"])).lower(), True)
    expect(client.get("name"), b"Dylan")

    pipeline = Batch(is_atomic=False)
    for number in range(1000):
        pipeline.set(f"key{number}", str(number)).get(f"key{number}").get("nobody")
    wanted = [reply for number in range(1000) for reply in ("OK", b"%d" % number, None)]
    expect(client.exec(pipeline, raise_on_error=True), wanted)

    # A transaction fails and changes nothing.
    transaction = Batch(is_atomic=True).set("never", "x").delete(["name"])
    message = refused(lambda: client.exec(transaction, raise_on_error=True))
    expect("Transaction discarded: " in message, True)
    expect(client.mget(["never", "name"]), [None, b"Dylan"])


# It would write its warnings to stdout.
Logger.set_logger_config(LogLevel.OFF)
for version in (ProtocolVersion.RESP2, ProtocolVersion.RESP3):
    client = connect(protocol=version, client_name="tester")
    everyday(client)
    wrong_and_pipelined(client)
    client.close()
    if PASSWORD:
        for wrong in ("wrong", None):
            message = refused(lambda: connect(wrong, protocol=version).get("name"))
            expect("WRONGPASS" in message or "uthenticat" in message or "NOAUTH" in message, True)
print("ok")
