// A lock ends with its session, and the test does not sleep.
import assert from "node:assert";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";

async function call(method, url, body) {
  const answer = await fetch(url, { method, body: body && JSON.stringify(body) });
  assert(answer.ok, `${method} ${url}: ${answer.status}`);
  return answer.json();
}

const sim = spawn("consul-sim", ["agent", "-dev", "-http-port=0", "-sim-port=0"]);
try {
  const [line] = await once(createInterface(sim.stdout), "line");
  const [agent, control] = line.match(/http:\/\/\S+/g);
  const session = await call("PUT", `${agent}/v1/session/create`, { TTL: "10s" });
  assert.equal(await call("PUT", `${agent}/v1/kv/leader?acquire=${session.ID}`, "me"), true);
  await call("POST", `${control}/sim/advance`, { by: "20s" });
  const [key] = await call("GET", `${agent}/v1/kv/leader`);
  assert.equal(key.Session, undefined);
  console.log("the lock is free");
} finally {
  sim.kill();
}
