// Drives a server with node-redis: node node_redis.mjs PORT [PASSWORD], started in the folder that holds
// node_modules. Fails at the first surprise.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const { createClient } = createRequire(`${process.cwd()}/`)("redis");
const [port, password] = process.argv.slice(2);

function client(options = {}) {
  const made = createClient({
    socket: { port: Number(port), connectTimeout: 10_000, reconnectStrategy: false },
    ...(password && { password }),
    ...options,
  });
  made.on("error", () => {}); // The promises tell.
  return made;
}

// Connects, works and leaves.
async function using(options, work) {
  const connected = await client(options).connect();
  try {
    await work(connected);
  } finally {
    await connected.close();
  }
}

async function everyday(redis) {
  await redis.flushAll();
  assert.equal(await redis.ping(), "PONG");
  assert.equal(await redis.set("name", "Dylan"), "OK");
  assert.equal(await redis.get("name"), "Dylan");
  assert.equal(await redis.get("nobody"), null);
  assert.equal(await redis.mSet({ a: "1", b: "2" }), "OK");
  assert.deepEqual(await redis.mGet(["a", "nobody", "b"]), ["1", null, "2"]);
  assert.equal(await redis.exists(["a", "b", "nobody"]), 2);
  const keys = [];
  for await (const some of redis.scanIterator({ MATCH: "*a*" })) keys.push(...some);
  assert.deepEqual(keys.sort(), ["a", "name"]);
  assert.equal(await redis.del(["a", "b", "nobody"]), 2);
  assert.equal(await redis.dbSize(), 1);
}

async function aboutTheConnection(redis) {
  assert.equal(await redis.clientGetName(), "tester");
  assert.ok((await redis.clientId()) > 0);
  assert.match(await redis.info(), /role:master/);
  assert.equal((await redis.configGet("save")).save, "");
}

async function pipelines(redis) {
  // What is sent in one turn of the event loop leaves in one piece.
  const numbers = [...Array(1000).keys()];
  await Promise.all(numbers.map((number) => redis.set(`key${number}`, `${number}`)));
  const values = await Promise.all(numbers.map((number) => redis.get(`key${number}`)));
  assert.deepEqual(values, numbers.map(String));
  const replies = await redis.multi().set("k", "v").get("k").get("nobody").execAsPipeline();
  assert.deepEqual(replies, ["OK", "v", null]);

  // A transaction must fail, and change nothing.
  await assert.rejects(redis.multi().set("never", "x").del("k").exec(), /EXECABORT Transaction discarded/);
  assert.deepEqual(await redis.mGet(["never", "k"]), [null, "v"]);
}

// RESP3 is its default.
for (const options of [{}, { RESP: 2 }, { RESP: 3 }]) {
  await using({ ...options, name: "tester" }, async (redis) => {
    await everyday(redis);
    await aboutTheConnection(redis);
    await pipelines(redis);
  });
  if (password) {
    await assert.rejects(client({ ...options, password: "wrong" }).connect(), /WRONGPASS/);
    await assert.rejects(
      using({ ...options, password: undefined }, (redis) => redis.get("name")),
      /NOAUTH/,
    );
  }
}
console.log("ok");
