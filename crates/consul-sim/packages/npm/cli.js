#!/usr/bin/env node
// The program, as a command.
import { spawnSync } from "node:child_process";
import { findProgram } from "./index.js";

const { status, signal, error } = spawnSync(findProgram(), process.argv.slice(2), { stdio: "inherit" });
if (error) throw error;
if (signal) process.kill(process.pid, signal);
process.exitCode = status ?? 1;
