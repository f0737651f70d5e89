// Starts the real binary for a test, with its own configuration and its own copies of the plugins.
//
// A server is ready when it has said so, and stopped when it has ended; nothing here waits for a number of milliseconds.

import { spawn } from "node:child_process";
import { copyFileSync, existsSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

/** The one deadline: anything that takes longer has failed. */
export const DEADLINE_MS = 20_000;

/** Until cargo has described a workspace, on a busy machine. */
const WORKSPACE_MS = 60_000;

const SECRET = "not a secret: the tests' own sixty-four bytes and a few more to spare.";

/** What `promise` gives, or an error that says what was waited for. */
export function within(what, promise, deadlineMs = DEADLINE_MS) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${what} within ${deadlineMs} ms`)), deadlineMs);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Runs a command whose first words on its standard output say where it listens. */
export class Server {
  #process;
  #lines = [];
  #waiting = [];
  /** `http://127.0.0.1:PORT` */
  url;
  admin;

  /** @param {string[]} args @param {{cwd?: string, env?: object, readyWithinMs?: number}} [options] */
  static async start(args, { cwd, env, readyWithinMs = DEADLINE_MS } = {}) {
    const server = new Server();
    server.#spawn(args, cwd, env);
    const [, url] = await within("listening address", server.line(/^listening on (http:\S+)/), readyWithinMs);
    server.url = url;
    return server;
  }

  /** The address of a mount, for the clients. */
  at(mount) {
    return this.url.replace("http", "ws") + mount;
  }

  get pid() {
    return this.#process.pid;
  }

  get port() {
    return new URL(this.url).port;
  }

  /** The first line that matches, once it is there; standard output and standard error alike. */
  line(pattern) {
    for (const line of this.#lines) {
      const match = line.match(pattern);
      if (match) return Promise.resolve(match);
    }
    return new Promise((resolve, reject) => this.#waiting.push({ pattern, resolve, reject }));
  }

  /** Everything that the server has said. */
  get log() {
    return this.#lines.join("\n");
  }

  /** Ends the server and waits for its end. */
  async stop(signal = "SIGTERM") {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    const ended = new Promise((resolve) => this.#process.once("exit", resolve));
    this.#process.kill(signal);
    await within("end of the server", ended).catch((error) => {
      this.#process.kill("SIGKILL");
      throw error;
    });
  }

  #spawn(args, cwd, env) {
    const program = process.env.BENNU_BIN;
    if (!program) throw new Error("BENNU_BIN names no server; run host/tests/run");
    this.#process = spawn(program, args, {
      cwd,
      env: { ...process.env, ...env, BENNU_SECRET_KEY_BASE: SECRET },
      stdio: ["ignore", "pipe", "pipe"],
    });
    for (const stream of [this.#process.stdout, this.#process.stderr]) {
      createInterface({ input: stream }).on("line", (line) => this.#heard(line));
    }
    this.#process.on("error", (error) => this.#gone(error.message));
    this.#process.on("exit", (code, signal) => this.#gone(`ended with ${code ?? signal}`));
  }

  #heard(line) {
    this.#lines.push(line);
    this.#waiting = this.#waiting.filter(({ pattern, resolve }) => {
      const match = line.match(pattern);
      if (match) resolve(match);
      return !match;
    });
  }

  #gone(how) {
    const waiting = this.#waiting.splice(0);
    for (const { pattern, reject } of waiting) {
      reject(new Error(`the server ${how} and never said ${pattern}:\n${this.log}`));
    }
  }
}

/**
 * A folder with a configuration and copies of the plugins, served.
 *
 * `libraries` says which build stands for a plugin at first: `{ misbehave: "misbehave" }`. A plugin serves the topics that
 * begin with its name, or those of `topic`.
 */
export class Bench {
  #libraries;
  #topic;
  #servers = [];

  constructor(libraries = { echo: "echo", room: "room", misbehave: "misbehave" }, topic) {
    this.#topic = topic;
    this.folder = mkdtempSync(join(tmpdir(), "bennu-test-"));
    this.#libraries = libraries;
    for (const [plugin, build] of Object.entries(libraries)) this.replace(plugin, build);
  }

  /** Starts a server, on a port of its choice or on one that was used before; `more` ends its configuration. */
  async serve(port = 0, more = "", env = {}) {
    const config = join(this.folder, "bennu.toml");
    writeFileSync(config, configuration(Object.keys(this.#libraries), port, this.#topic) + more);
    const server = await Server.start(["serve", "--config", config], { env });
    this.#servers.push(server);
    return server;
  }

  /** Starts a server with a configuration of the test's own. */
  async serveAs(config, env) {
    this.configure(config);
    const server = await Server.start(["serve", "--config", join(this.folder, "bennu.toml")], { env });
    this.#servers.push(server);
    return server;
  }

  /** Starts `bennu dev` in a workspace that is empty: it serves the libraries that are there. The page is at its address. */
  async dev(config) {
    writeFileSync(join(this.folder, "Cargo.toml"), '[package]\nname = "empty"\n[lib]\npath = "empty.rs"\n');
    writeFileSync(join(this.folder, "empty.rs"), "");
    this.configure(config);
    const server = await Server.start(["dev", "--config", join(this.folder, "bennu.toml")], { readyWithinMs: WORKSPACE_MS });
    this.#servers.push(server);
    return server;
  }

  /** Replaces the configuration. */
  configure(config) {
    writeFileSync(join(this.folder, "bennu.toml"), config);
  }

  /** Puts another build in a plugin's place, whole at once. */
  replace(plugin, build) {
    const built = process.env.BENNU_PLUGINS;
    if (!built) throw new Error("BENNU_PLUGINS names no folder of plugins; run host/tests/run");
    const source = join(built, `lib${build}.so`);
    if (!existsSync(source)) throw new Error(`${source} has not been built`);
    const target = join(this.folder, `lib${plugin}.so`);
    copyFileSync(source, `${target}.new`);
    renameSync(`${target}.new`, target);
  }

  /** Ends every server and removes the folder. */
  async close() {
    for (const server of this.#servers) await server.stop();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

function configuration(plugins, port, topic) {
  const sections = plugins.map(
    (plugin) => `
[plugins.${plugin}]
library = "lib${plugin}.so"
shards = 2

[[routes]]
topic = "${topic ?? `${plugin}:*`}"
plugin = "${plugin}"
`,
  );
  return `
[server]
listen = "127.0.0.1:${port}"

[admin]
listen = "127.0.0.1:0"

[[mounts]]
path = "/socket"
longpoll = { window_ms = 1_000 }

[[mounts]]
path = "/polled"
websocket = false
longpoll = { window_ms = 1_000 }

[[mounts]]
path = "/ws"
dialect = "0.11"
longpoller_window_ms = 1_000
${sections.join("")}`;
}
