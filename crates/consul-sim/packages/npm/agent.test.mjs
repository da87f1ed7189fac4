// The installed package. Run in a folder that has it.
import assert from "node:assert";
import { spawnSync } from "node:child_process";
import { afterEach, beforeEach, test } from "node:test";
import { Agent, findProgram } from "consul-sim";

let agent;
beforeEach(async () => (agent = await Agent.start()));
afterEach(() => agent.stop());

async function call(method, path, body, on = agent) {
  const answer = await fetch(`${on.url}/v1/${path}`, { method, body });
  return { status: answer.status, value: answer.ok ? await answer.json() : undefined };
}

test("a lock ends with its session", async () => {
  const session = (await call("PUT", "session/create", '{"TTL": "10s"}')).value.ID;
  assert.equal((await call("PUT", `kv/leader?acquire=${session}`, "me")).value, true);
  await agent.advance("20s");
  assert.equal((await call("GET", "kv/leader")).value[0].Session, undefined);
});

test("faults begin and end", async () => {
  await agent.fault({ status: 503 });
  assert.equal((await call("GET", "status/leader")).status, 503);
  await agent.heal();
  assert.equal((await call("GET", "status/leader")).status, 200);
});

for (const [options, kept] of [[undefined, 1], [{ lose_sessions: true }, 1], [{ wipe: true }, 0]]) {
  test(`a restart with ${JSON.stringify(options)} keeps ${kept} keys`, async () => {
    await call("PUT", "kv/key", "value");
    await agent.restart(options);
    assert.equal((await agent.stats()).keys, kept);
  });
}

test("a reset has nothing of before", async () => {
  await call("PUT", "kv/key", "value");
  await agent.fault({ partition: true });
  await agent.reset();
  assert.equal((await call("GET", "kv/key")).status, 404);
});

test("a refused option is an error that names it", async () => {
  await assert.rejects(agent.fault({ statsu: 500 }), /statsu/);
});

test("an agent has flags and an end", async () => {
  const east = await Agent.start("-datacenter=east");
  assert.equal((await call("GET", "agent/self", undefined, east)).value.Config.Datacenter, "east");
  await east.stop();
  await east.stop();
  await assert.rejects(east.stats());
});

test("a wrong flag is an error that names it", async () => {
  await assert.rejects(Agent.start("-no-such-flag"), /no-such-flag/);
});

test("the command is the program", () => {
  const help = spawnSync("node_modules/.bin/consul-sim", ["--help"], { encoding: "utf8" });
  assert.equal(help.status, 0);
  assert.match(help.stdout, /consul-sim/);
  assert.ok(findProgram().includes("@consul-sim"));
});

test("an agent does not outlive its process", () => {
  const program = 'import { Agent } from "consul-sim"; console.log((await Agent.start()).url)';
  const child = spawnSync(process.execPath, ["--input-type=module", "-e", program], { encoding: "utf8", timeout: 300_000 });
  assert.equal(child.status, 0, child.stderr);
  assert.match(child.stdout, /^http:/);
});
