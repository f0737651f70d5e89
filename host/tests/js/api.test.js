// The API for backends: what its page shows runs as it stands there, and its document says all that it does.

import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";

import { Socket } from "phoenix";
import WebSocket from "ws";

import { Bench, within } from "./server.js";

const KEY = "a-key-of-the-tests-0123456789-0123456789";
const PAGE = new URL("../../docs/backends.md", import.meta.url);
/** How the code in each language is run. Those that are needed are there wherever the tests run. */
const INTERPRETERS = {
  sh: { command: "sh", ending: "sh", needed: true },
  js: { command: "node", ending: "mjs", needed: true },
  python: { command: "python3", ending: "py", needed: true },
  ruby: { command: "ruby", ending: "rb" },
  php: { command: "php", ending: "php" },
  elixir: { command: "elixir", ending: "exs" },
};
/** An interpreter that starts on a busy machine, or all of schemathesis. */
const RUN_MS = 120_000;

const run = promisify(execFile);

/** A server with the API on, and what commands need to know of it. */
async function api(t, routes = "") {
  const bench = new Bench({ room: "room", echo: "echo" });
  t.after(() => bench.close());
  writeFileSync(join(bench.folder, "api_key"), KEY, { mode: 0o600 });
  const keys = '[[api.keys]]\nname = "web"\nsecret_file = "api_key"\nallow = ["broadcast", "call", "disconnect", "read"]\ntopics = ["*"]\n';
  const server = await bench.serve(0, `[api]\nlisten = "127.0.0.1:0"\n\n${keys}\n${routes}`);
  const [, url] = await within("address of the API", server.line(/^api on (http:\S+)/));
  return { bench, server, url, env: { ...process.env, BENNU_API: url, BENNU_API_KEY: KEY } };
}

/** The blocks of code of the page, as they stand there. */
function blocks() {
  const found = readFileSync(PAGE, "utf8").matchAll(/^```(\w+)\n(.*?)^```$/gms);
  return [...found].map(([, language, code]) => ({ language, code })).filter(({ language }) => language in INTERPRETERS);
}

function isThere(command) {
  try {
    execFileSync("which", [command], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

async function member(t, server) {
  const socket = new Socket(server.at("/socket"), { transport: WebSocket });
  socket.connect();
  t.after(() => socket.disconnect());
  const channel = socket.channel("room:lobby", { name: "ann" });
  const heard = [];
  channel.on("news", ({ from }) => heard.push(from));
  await within("join", new Promise((resolve, reject) => channel.join().receive("ok", resolve).receive("error", reject)));
  return { heard, channel };
}

test("the code of the page runs as it stands there, and a member hears it", async (t) => {
  const { bench, server, env } = await api(t);
  const { heard, channel } = await member(t, server);
  const all = blocks();
  assert.ok(all.length >= 11, `${all.length} blocks only`);
  const expected = [];
  for (const [at, { language, code }] of all.entries()) {
    const { command, ending, needed } = INTERPRETERS[language];
    if (!needed && !isThere(command)) {
      t.diagnostic(`no ${command} here`);
      continue;
    }
    const file = join(bench.folder, `snippet-${at}.${ending}`);
    writeFileSync(file, code);
    const { stdout } = await run(command, language === "sh" ? ["-e", file] : [file], { env, timeout: RUN_MS });
    const [, from] = code.match(/\bfrom"?(?::| =>) "([\w ]+)"/) ?? [];
    if (!from) continue;
    expected.push(from);
    assert.match(stdout, /^heard by 1\n$|"heard":1/, code);
  }
  assert.ok(expected.includes("curl") && expected.includes("node") && expected.includes("python"), String(expected));
  // Behind all of them.
  const done = new Promise((resolve) => channel.on("done", resolve));
  const last = { topic: "room:lobby", event: "done" };
  const headers = { authorization: `Bearer ${KEY}` };
  const sent = await fetch(`${env.BENNU_API}/api/broadcast`, { method: "POST", headers, body: JSON.stringify(last) });
  assert.deepEqual(await sent.json(), { heard: 1, intercepted: 0 });
  await within("the last message", done);
  assert.deepEqual(heard, expected);
});

test("schemathesis finds no server error and no answer that the document lacks", async (t) => {
  const python = process.env.BENNU_PYTHON;
  if (!python) throw new Error("BENNU_PYTHON names no Python with schemathesis; run host/tests/run");
  // Any topic leads somewhere, so that most requests are carried out.
  const { bench, url } = await api(t, '[[routes]]\ntopic = "*"\nplugin = "echo"\n');
  const checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,response_headers_conformance";
  const given = ["-m", "schemathesis.cli", "run", `${url}/api/openapi.json`, "-H", `Authorization: Bearer ${KEY}`];
  const limits = ["--checks", checks, "--max-examples", "15", "--generation-deterministic", "--no-color"];
  const { stdout } = await run(python, [...given, ...limits], { cwd: bench.folder, timeout: RUN_MS }).catch((error) => {
    throw new Error(error.stdout);
  });
  const [, passed] = stdout.match(/(\d+) generated, \1 passed/) ?? [];
  assert.ok(Number(passed) > 200, stdout);
  rmSync(join(bench.folder, ".schemathesis"), { recursive: true, force: true });
});
