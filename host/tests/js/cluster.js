// Nodes of a cluster over a real nats-server, behind a proxy that gives each request to the next node.

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { createServer, request } from "node:http";
import { connect, createServer as listen } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout } from "node:timers/promises";

import { Bench, within } from "./server.js";

/** The server that `BENNU_NATS_SERVER` names, or the one of the Python beside `BENNU_PYTHON`, or that of the system. */
function natsServer() {
  const beside = process.env.BENNU_PYTHON && join(dirname(process.env.BENNU_PYTHON), "nats-server");
  return process.env.BENNU_NATS_SERVER ?? (beside && existsSync(beside) ? beside : "nats-server");
}

async function freePort() {
  const server = listen();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Resolves once something listens there. */
function listens(port) {
  return new Promise((resolve) => {
    const look = () => {
      const socket = connect(port, "127.0.0.1");
      socket.once("connect", () => resolve(socket.end()));
      socket.once("error", look);
    };
    look();
  });
}

/** Nodes with the same plugins. */
export class Cluster {
  #benches = [];
  #nats;
  #proxy;
  #sockets = new Set();
  #next = 0;
  nodes = [];
  /** Where clients connect, as at one server. */
  url;

  static async start(count) {
    const cluster = new Cluster();
    const port = await freePort();
    cluster.folder = mkdtempSync(join(tmpdir(), "bennu-nats-"));
    cluster.#nats = spawn(natsServer(), ["-a", "127.0.0.1", "-p", `${port}`, "-js", "-sd", cluster.folder], { stdio: "ignore" });
    await within("nats-server", listens(port));
    for (let node = 0; node < count; node += 1) {
      const bench = new Bench();
      cluster.#benches.push(bench);
      const settings = `[cluster]\nservers = ["nats://127.0.0.1:${port}"]\nnode = "node${node}"\nlease_ms = 5_000\npartitions = 16\n`;
      cluster.nodes.push(await bench.serve(0, settings));
    }
    await within("agreement on who has which partition", cluster.#settled());
    await cluster.#listen();
    return cluster;
  }

  at(mount) {
    return this.url.replace("http", "ws") + mount;
  }

  /** Resolves once each node sees all others, and each partition is where it belongs. */
  async #settled() {
    for (const node of this.nodes) {
      const [, admin] = await node.line(/^admin on (http:\S+)/);
      for (;;) {
        const { nodes, partitions, moves } = await (await fetch(`${admin}/cluster`)).json();
        const linked = nodes.filter(({ link }) => link !== "down" && link !== "none").length;
        const underway = partitions.misplaced + partitions.moving + moves.partitions_coming + moves.partitions_going;
        if (linked === this.nodes.length && underway === 0) break;
        await setTimeout(20);
      }
    }
  }

  /** The node whose turn it is. */
  #turn() {
    this.#next = (this.#next + 1) % this.nodes.length;
    return this.nodes[this.#next].port;
  }

  async #listen() {
    this.#proxy = createServer((from, to) => {
      const { method, url, headers } = from;
      const on = request({ host: "127.0.0.1", port: this.#turn(), method, path: url, headers, agent: false }, (answer) => {
        to.writeHead(answer.statusCode, answer.headers);
        answer.pipe(to);
      });
      on.on("error", () => to.destroy());
      to.on("close", () => on.destroy());
      from.pipe(on);
    });
    this.#proxy.on("upgrade", ({ url, rawHeaders }, from, head) => {
      const on = connect(this.#turn(), "127.0.0.1", () => {
        const lines = rawHeaders.map((text, index) => text + (index % 2 ? "\r\n" : ": "));
        on.write(`GET ${url} HTTP/1.1\r\n${lines.join("")}\r\n`);
        on.write(head);
        from.pipe(on).pipe(from);
      });
      for (const [one, other] of [[from, on], [on, from]]) one.on("error", () => other.destroy());
      this.#sockets.add(on);
    });
    this.#proxy.on("connection", (socket) => this.#sockets.add(socket));
    await new Promise((resolve) => this.#proxy.listen(0, "127.0.0.1", resolve));
    this.url = `http://127.0.0.1:${this.#proxy.address().port}`;
  }

  async close() {
    this.#proxy?.close();
    for (const socket of this.#sockets) socket.destroy();
    for (const bench of this.#benches) await bench.close();
    this.#nats?.kill("SIGKILL");
    rmSync(this.folder, { recursive: true, force: true });
  }
}
