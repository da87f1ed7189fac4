/** The path of the program: of `CONSUL_SIM`, or of the package for this machine. */
export function findProgram(): string;

/** The options of a fault; docs/consul-sim.md of the project has their meaning. */
export interface Fault {
  clients?: string[];
  latency_ms?: number;
  jitter_ms?: number;
  drop_before?: number;
  drop_after?: number;
  status?: number;
  status_chance?: number;
  partition?: boolean;
  no_leader?: boolean;
  isolated_leader?: boolean;
}

export interface Stats {
  /** The agent's time in seconds since its start. */
  now: number;
  requests: number;
  index: number;
  keys: number;
  sessions: number;
  waiting: number;
}

/** A running consul-sim. */
export class Agent {
  private constructor();
  /** Starts one with flags of `consul agent`, on free ports unless a flag says otherwise. */
  static start(...flags: string[]): Promise<Agent>;
  /** The URL of the agent's HTTP API. */
  readonly url: string;
  /** Moves the time forward: `"20s"`, or seconds as a number. */
  advance(by: string | number): Promise<void>;
  /** Adds a fault. It lasts until `heal()` or `reset()`. */
  fault(options: Fault): Promise<void>;
  /** Removes all faults. */
  heal(): Promise<void>;
  /** Closes all connections. It keeps its data, all but its sessions, or nothing. */
  restart(options?: { lose_sessions?: boolean; wipe?: boolean }): Promise<void>;
  /** Begins again as at the start, without faults. */
  reset(options?: { seed?: number }): Promise<void>;
  stats(): Promise<Stats>;
  /** Ends it. It may be called again. */
  stop(): Promise<void>;
}
