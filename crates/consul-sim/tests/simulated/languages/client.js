// What a program in Node.js sees of the Consul at CONSUL_HTTP_ADDR, by the client consul.
const Consul = require("consul");

const patience = 300_000;
const [host, port] = process.env.CONSUL_HTTP_ADDR.split(":");
const c = new Consul({ host, port });

/// JSON with the keys of objects in order.
function sorted(key, value) {
  const isObject = value && typeof value === "object" && !Array.isArray(value);
  return isObject ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1))) : value;
}

function say(what, ...seen) {
  console.log([`${what}:`, ...seen.map((one) => JSON.stringify(one, sorted) ?? "nothing")].join(" "));
}

async function refused(what, promise) {
  try {
    say(what, "was not refused", await promise);
  } catch (error) {
    say(what, error.message, error.statusCode);
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/// Asks until the answer is as wanted, or for long enough, and returns the last answer.
async function until(wanted, ask) {
  const end = Date.now() + patience;
  for (;;) {
    const seen = await ask();
    if (wanted(seen) || Date.now() > end) return seen;
    await pause(20);
  }
}

async function keys() {
  for (const name of ["b", "a", "dir/one", "dir/deep/two", "ä ?&=+%"]) {
    say("put", await c.kv.set({ key: `kv/${name}`, value: `value of ${name}`, flags: name.length }));
  }
  const one = await c.kv.get("kv/a");
  say("a key", one, await c.kv.get("kv/ä ?&=+%"));
  say("no key", await c.kv.get("kv/none"));
  say("all", await c.kv.get({ key: "kv/", recurse: true }));
  say("names", await c.kv.keys("kv/"), await c.kv.keys({ key: "kv/", separator: "/" }));
  const cas = (key, cas) => c.kv.set({ key, value: "new", cas });
  say("cas", await cas("kv/a", one.ModifyIndex), await cas("kv/a", one.ModifyIndex), await c.kv.get("kv/a"));
  say("cas of a new key", await cas("kv/new", 0), await cas("kv/a", 0));
  say("an empty value", await c.kv.set("kv/empty", ""), await c.kv.get("kv/empty"));
  say("deleted", await c.kv.del("kv/a"), await c.kv.del("kv/none"), await c.kv.get("kv/a"));
  say("deleted with cas", await c.kv.del({ key: "kv/b", cas: 1 }), await c.kv.keys("kv/"));
  await refused("too large", c.kv.set("kv/big", "x".repeat(512 * 1024 + 1)));
  say("deleted all", await c.kv.del({ key: "kv/", recurse: true }));
  await refused("no names", c.kv.keys("kv/"));
}

async function transactions() {
  const operation = (Verb, key, others) => ({ KV: { Verb, Key: `txn/${key}`, ...others } });
  const value = (text) => Buffer.from(text).toString("base64");
  const written = [
    operation("set", "a", { Value: value("1"), Flags: 7 }),
    operation("cas", "b", { Value: value("2"), Index: 0 }),
  ];
  say("written", await c.transaction.create(written));
  say("read", await c.transaction.create([operation("get", "a"), operation("get-tree", "")]));
  const checked = [operation("delete", "a"), operation("check-index", "b", { Index: 1 })];
  await refused("not as expected", c.transaction.create(checked));
  await refused("unknown verb", c.transaction.create([operation("fly", "a")]));
  say("unchanged", await c.kv.keys("txn/"), await c.kv.del({ key: "txn/", recurse: true }));
}

async function sessions() {
  const { ID: mine } = await c.session.create({ name: "mine", ttl: "30s", behavior: "delete", lockdelay: "1ms" });
  const { ID: other } = await c.session.create({ name: "other", lockdelay: "1ms" });
  say("a session", await c.session.info(mine), await c.session.renew(mine));
  say("all", (await c.session.list()).map((one) => one.Name).sort());
  const acquire = (session) => c.kv.set({ key: "lock", value: "held", acquire: session });
  const release = (session) => c.kv.set({ key: "lock", value: "free", release: session });
  say("acquired", await acquire(mine), await acquire(mine), await acquire(other), await c.kv.get("lock"));
  say("released", await release(other), await release(mine), await c.kv.get("lock"));
  say("handed over", await acquire(other), await c.kv.get("lock"));
  await c.session.destroy(other);
  say("destroyed", await c.kv.get("lock"));
  say("acquired again", await until((held) => held, () => acquire(mine)));
  await c.session.destroy(mine);
  say("deleted with its session", await c.kv.get("lock"), await c.session.info(mine));
  await refused("acquired by none", acquire(mine));
  await refused("renewed without one", c.session.renew(mine));
  await refused("a short TTL", c.session.create({ ttl: "1s" }));
}

async function services() {
  const { service, check } = c.agent;
  await service.register({
    name: "web", id: "web-1", address: "192.0.2.1", port: 8080, tags: ["v1", "blue"], meta: { version: "1" },
    check: { ttl: "60s", notes: "says so itself" },
  });
  const instances = (others) => c.health.service({ service: "web", ...others });
  const own = (instance) => instance.Checks.find((one) => one.ServiceID);
  /// The one instance, once it has this status.
  const health = (status) =>
    until((seen) => seen.length === 1 && own(seen[0]).Status === status, () => instances());
  say("at first", await health("critical"), await instances({ passing: true }));
  await check.pass({ id: "service:web-1", note: "alive" });
  say("passing", await health("passing"), (await instances({ passing: true })).length);
  say("by tag", (await instances({ tag: "blue" })).length, (await instances({ tag: "green" })).length);
  say("the agent's", await service.list(), await check.list());
  await check.warn({ id: "service:web-1", note: "slow" });
  say("warning", await health("warning"), await c.health.state("warning"), await c.health.checks("web"));
  say("in the catalog", await c.catalog.service.nodes("web"));

  let waits = true;
  const woken = new Promise((resolve, reject) => {
    const watch = c.watch({ method: c.health.service, options: { service: "web", wait: "20s" } });
    watch.on("error", reject);
    watch.on("change", (seen) => {
      if (own(seen[0]).Status !== "critical") return;
      waits = false;
      watch.end();
      resolve(seen);
    });
  });
  await pause(300);
  say("waits", waits);
  await check.fail({ id: "service:web-1", note: "ill" });
  say("woken", await woken);
  await service.maintenance({ id: "web-1", enable: true, reason: "moving" });
  const checks = (count) => until((seen) => seen.length === count, () => c.health.checks("web"));
  say("in maintenance", await checks(2));
  await service.maintenance({ id: "web-1", enable: false });
  say("and out of it", await checks(1));
  await service.deregister("web-1");
  say("deregistered", await until((seen) => !seen.length, () => c.catalog.service.nodes("web")));
  await refused("no such check", check.pass("none"));
  await refused("no such service", service.deregister("none"));
}

async function catalog() {
  say("registered", await c.catalog.register({
    Node: "db-node", Address: "192.0.2.9", NodeMeta: { rack: "r1" },
    Service: { Service: "db", ID: "db-1", Tags: ["main"], Port: 5432 },
    Check: { Name: "up", CheckID: "db-up", ServiceID: "db-1", Status: "passing" },
  }));
  say("nodes", await c.catalog.node.list(), await c.catalog.node.list({ "node-meta": "rack:r1" }));
  say("of a node", await c.catalog.node.services("db-node"), await c.catalog.node.services("none"));
  say("services", await c.catalog.service.list(), await c.catalog.service.nodes("db"));
  say("healthy", await c.health.service({ service: "db", passing: true }), await c.health.node("db-node"));
  say("datacenters", await c.catalog.datacenters());
  await refused("another datacenter", c.catalog.node.list({ dc: "elsewhere" }));
  await c.catalog.deregister({ node: "db-node" });
  say("deregistered", await c.catalog.service.nodes("db"));
}

(async () => {
  for (const chapter of [keys, transactions, sessions, services, catalog]) {
    console.log(`\n# ${chapter.name}`);
    await chapter();
  }
  console.log("\nthe end");
})();
