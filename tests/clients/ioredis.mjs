// Drives a server with ioredis: node ioredis.mjs PORT [PASSWORD], started in the folder that holds
// node_modules. Fails at the first surprise.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const { Redis } = createRequire(`${process.cwd()}/`)("ioredis");
const [port, password] = process.argv.slice(2);

function client(options = {}) {
  const made = new Redis({
    port: Number(port),
    password,
    connectTimeout: 10_000,
    maxRetriesPerRequest: 0,
    retryStrategy: null,
    lazyConnect: true,
    ...options,
  });
  made.on("error", () => {}); // The promises tell.
  return made;
}

// Connects, works and leaves.
async function using(options, work) {
  const redis = client(options);
  try {
    await redis.connect();
    await work(redis);
  } finally {
    redis.disconnect();
  }
}

async function everyday(redis) {
  await redis.flushall();
  assert.equal(await redis.ping(), "PONG");
  assert.equal(await redis.set("name", "Dylan"), "OK");
  assert.equal(await redis.get("name"), "Dylan");
  assert.equal(await redis.get("nobody"), null);
  const bytes = Buffer.from([...Array(256).keys()]);
  assert.equal(await redis.set("bytes", bytes), "OK");
  assert.deepEqual(await redis.getBuffer("bytes"), bytes);
  assert.equal(await redis.mset({ a: "1", b: "2" }), "OK");
  assert.deepEqual(await redis.mget("a", "nobody", "b"), ["1", null, "2"]);
  const keys = [];
  for await (const some of redis.scanStream({ match: "*a*" })) keys.push(...some);
  assert.deepEqual(keys.sort(), ["a", "name"]);
  assert.equal(await redis.del("a", "b", "nobody"), 2);
  assert.equal(await redis.dbsize(), 2);
}

async function aboutTheConnection(redis) {
  assert.equal(await redis.client("GETNAME"), "tester");
  assert.ok((await redis.client("ID")) > 0);
  assert.match(await redis.info(), /role:master/);
}

async function pipelines(redis) {
  const pipeline = redis.pipeline();
  const wanted = [];
  for (let number = 0; number < 1000; number++) {
    pipeline.set(`key${number}`, number).get(`key${number}`).get("nobody");
    wanted.push([null, "OK"], [null, `${number}`], [null, null]);
  }
  assert.deepEqual(await pipeline.exec(), wanted);

  // A transaction must fail, and change nothing.
  await assert.rejects(redis.multi().set("never", "x").del("key1").exec(), /EXECABORT Transaction discarded/);
  assert.deepEqual(await redis.mget("never", "key1"), [null, "1"]);
}

for (const options of [{}, { protocol: 2 }, { protocol: 3 }]) {
  await using({ ...options, connectionName: "tester" }, async (redis) => {
    await everyday(redis);
    await aboutTheConnection(redis);
    await pipelines(redis);
  });
  if (password) {
    for (const given of ["wrong", undefined]) {
      await assert.rejects(
        using({ ...options, password: given }, (redis) => redis.get("name")),
        /NOAUTH|WRONGPASS|Connection is closed/,
      );
    }
  }
}
console.log("ok");
