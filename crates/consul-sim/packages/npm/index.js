// Runs the program consul-sim, and moves its clock.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

/** The package with the program for this machine. */
function platform() {
  const glibc = process.report?.getReport?.().header?.glibcVersionRuntime;
  const libc = process.platform === "linux" && !glibc ? "-musl" : "";
  return `@consul-sim/${process.platform}-${process.arch}${libc}`;
}

/** The path of the program: of `CONSUL_SIM`, or of the package for this machine. */
export function findProgram() {
  if (process.env.CONSUL_SIM) return process.env.CONSUL_SIM;
  const name = platform();
  const file = process.platform === "win32" ? "consul-sim.exe" : "consul-sim";
  try {
    const path = createRequire(import.meta.url).resolve(`${name}/bin/${file}`);
    if (existsSync(path)) return path;
  } catch {
    // The message below says what is missing.
  }
  throw new Error(`consul-sim: the package ${name} is not installed; CONSUL_SIM can name the program`);
}

/** A running consul-sim: `await Agent.start("-datacenter=east")`, with flags of `consul agent`. */
export class Agent {
  #process;
  #control;

  static async start(...flags) {
    const isSet = (name) => flags.some((flag) => new RegExp(`^--?${name}(=|$)`).test(flag));
    const ports = ["http-port", "sim-port"].filter((name) => !isSet(name)).map((name) => `-${name}=0`);
    const child = spawn(findProgram(), ["agent", "-dev", ...ports, ...flags], { stdio: ["ignore", "pipe", "pipe"] });
    let errors = "";
    child.stderr.on("data", (text) => (errors += text));
    const lines = createInterface(child.stdout);
    const [line] = await Promise.race([once(lines, "line"), once(child, "close").then(() => [""])]);
    const urls = line.match(/https?:\/\/\S+/g) ?? [];
    if (urls.length < 2) {
      child.kill("SIGKILL");
      throw new Error(`consul-sim did not start: ${(line + errors).trim()}`);
    }
    // A process that waits for nothing else may end.
    child.unref();
    child.stdout.unref();
    child.stderr.unref();
    const stop = () => child.kill();
    process.once("exit", stop);
    child.once("exit", () => process.off("exit", stop));
    const agent = new Agent();
    agent.#process = child;
    agent.#control = urls.at(-1);
    agent.url = urls[0];
    return agent;
  }

  /** Moves the time forward: `"20s"`, or seconds as a number. */
  async advance(by) {
    await this.#call("POST", "advance", { by });
  }

  /** Adds a fault, as `{ status: 500 }`. It lasts until `heal()` or `reset()`. */
  async fault(options) {
    await this.#call("POST", "fault", options);
  }

  /** Removes all faults. */
  async heal() {
    await this.#call("DELETE", "fault");
  }

  /** Closes all connections. It keeps its data; with `{ lose_sessions: true }` all but its sessions, with `{ wipe: true }` nothing. */
  async restart(options) {
    await this.#call("POST", "restart", options);
  }

  /** Begins again as at the start, without faults. */
  async reset(options) {
    await this.#call("POST", "reset", options);
  }

  /** Its time in seconds, and counts of requests, keys, sessions and waiting requests. */
  async stats() {
    return this.#call("GET", "stats");
  }

  /** Ends it. It may be called again. */
  async stop() {
    const child = this.#process;
    if (child.exitCode === null && child.signalCode === null) {
      child.ref();
      child.kill();
      await once(child, "exit");
    }
  }

  async [Symbol.asyncDispose ?? Symbol.for("asyncDispose")]() {
    await this.stop();
  }

  async #call(method, name, body) {
    const answer = await fetch(`${this.#control}/sim/${name}`, { method, body: body && JSON.stringify(body) });
    const text = await answer.text();
    if (!answer.ok) {
      let message = text;
      try {
        message = JSON.parse(text).error ?? text;
      } catch {
        // It is not JSON: the text says what there is to say.
      }
      throw new Error(`${method} /sim/${name}: ${message}`);
    }
    return text ? JSON.parse(text) : undefined;
  }
}
