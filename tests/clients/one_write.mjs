// Writes once, and prints what it is told: one_write.mjs LIBRARY PORT [default], started in the folder that holds
// node_modules. With `default`, as the library comes; without, set so that it repeats nothing.
import { createRequire } from "node:module";

const require = createRequire(`${process.cwd()}/`);
const [library, port, isDefault] = process.argv.slice(2);

const libraries = {
  async ioredis() {
    const { Redis } = require("ioredis");
    const settings = { autoResendUnfulfilledCommands: false, maxRetriesPerRequest: 0 };
    const redis = new Redis({ port: Number(port), ...(isDefault ? {} : settings) });
    redis.on("error", () => {}); // The promise tells.
    await redis.set("key", "value");
  },
  async node_redis() {
    const { createClient } = require("redis");
    const redis = createClient({ socket: { port: Number(port) } });
    redis.on("error", () => {}); // The promise tells.
    await redis.connect();
    await redis.set("key", "value");
  },
};

try {
  await libraries[library]();
  console.log("OK");
} catch (error) {
  console.log("error:", error.message);
}
process.exit(0);
