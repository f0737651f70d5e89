// A mount that checks tokens, and real clients whose token expires: they come back with the next one, or refresh it in time.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHmac } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join as path } from "node:path";
import { after, before, describe, test } from "node:test";

import * as phoenix from "phoenix";
import WebSocket from "ws";

import * as bennu from "../../assets/bennu.js";
import { answer, Inbox, join } from "./clients.js";
import { phoenix1_7 } from "./old-phoenix.js";
import { Bench } from "./server.js";

const SECRET = "a secret of the tests, and of at least 32 bytes";
const MOUNT = `
[[mounts]]
path = "/auth"
longpoll = { window_ms = 1_000 }
[mounts.auth]
jwt = { algorithms = ["HS256"], secret_file = "jwt_secret", leeway_s = 0 }
socket_id = "user:{sub}"
`;

/** A token that any library would make, good for so many seconds. */
function token(claims, seconds) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const exp = Math.floor(Date.now() / 1_000) + seconds;
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part({ ...claims, exp })}`;
  return `${signed}.${createHmac("sha256", SECRET).update(signed).digest("base64url")}`;
}

const QUICKLY = { reconnectAfterMs: () => 20, rejoinAfterMs: () => 20 };
const clients = [
  ["phoenix.js over WebSocket", phoenix, { transport: WebSocket }],
  ["phoenix.js over long polling", phoenix, { transport: phoenix.LongPoll }],
  ["phoenix.js 1.7 over WebSocket", phoenix1_7, { transport: WebSocket }],
  ["phoenix.js 1.7 over long polling", phoenix1_7, { transport: phoenix1_7.LongPoll }],
  ["bennu.js over WebSocket", bennu, { transport: WebSocket }],
  ["bennu.js over long polling", bennu, { transport: "longpoll" }],
];

for (const [name, { Socket }, options] of clients) {
  describe(name, () => {
    const bench = new Bench();
    let server;
    before(async () => {
      writeFileSync(path(bench.folder, "jwt_secret"), SECRET, { mode: 0o600 });
      server = await bench.serve(0, MOUNT);
    });
    after(() => bench.close());

    /** Connected with these tokens, one after the other. */
    function connect(t, tokens) {
      const opens = new Inbox();
      const params = () => ({ token: tokens.length > 1 ? tokens.shift() : tokens[0] });
      const socket = new Socket(server.at("/auth"), { ...QUICKLY, ...options, params });
      socket.onOpen(() => opens.put(Date.now()));
      socket.connect();
      t.after(() => socket.disconnect());
      return { socket, opens };
    }

    test("comes back with another token when its own has expired", async (t) => {
      const { socket, opens } = connect(t, [token({ sub: "ann", n: 1 }, 2), token({ sub: "ann", n: 2 }, 3_600)]);
      const [channel, joins] = [socket.channel("misbehave:a"), new Inbox()];
      channel.join().receive("ok", () => joins.put(opens.all.length));
      await joins.nth(1);
      assert.equal((await answer(channel.push("claims", {}))).response.n, 1);
      await joins.when("a join by the second token", (all) => all.includes(2));
      assert.equal((await answer(channel.push("claims", {}))).response.n, 2);
    });

    test("refreshes its token in place", async (t) => {
      const { socket, opens } = connect(t, [token({ sub: "ann", n: 1 }, 2)]);
      const { channel } = await join(socket, "misbehave:a");
      const refreshed = await answer(channel.push("access_token", { access_token: token({ sub: "ann", n: 2 }, 3_600) }));
      assert.deepEqual([refreshed.status, refreshed.response.n], ["ok", 2]);
      // Another client, with the same time, is closed and comes back in vain: by then this one would be closed, too.
      const other = connect(t, [token({ sub: "bob" }, 2)]);
      const errors = new Inbox();
      other.socket.onError((error) => errors.put(error));
      other.socket.onClose((event) => errors.put(event));
      await errors.nth(1);
      assert.equal((await answer(channel.push("claims", {}))).response.n, 2);
      assert.equal(opens.all.length, 1);
    });
  });
}

/** In a header, so that it is in no URL. */
test("phoenix.js and bennu.js show their token as authToken", async (t) => {
  const bench = new Bench();
  t.after(() => bench.close());
  writeFileSync(path(bench.folder, "jwt_secret"), SECRET, { mode: 0o600 });
  const server = await bench.serve(0, MOUNT);
  for (const [name, { Socket }, options] of clients.filter(([name]) => !name.includes("1.7"))) {
    const authToken = token({ sub: name }, 3_600);
    const socket = new Socket(server.at("/auth"), { ...QUICKLY, ...options, authToken });
    socket.connect();
    t.after(() => socket.disconnect());
    const { channel } = await join(socket, "misbehave:a");
    assert.equal((await answer(channel.push("claims", {}))).response.sub, name);
  }
});

test("the code of the page on authentication makes tokens that are good", async (t) => {
  const bench = new Bench();
  t.after(() => bench.close());
  const page = readFileSync(new URL("../../docs/authentication.md", import.meta.url), "utf8");
  /** The block in this language that has this in it, as it stands there. */
  const block = (language, having) => {
    const found = [...page.matchAll(/^```(\w+)\n(.*?)^```$/gms)].find(([, of, code]) => of === language && code.includes(having));
    assert.ok(found, `no block of ${language} has ${having}`);
    return found[2];
  };
  mkdirSync(path(bench.folder, "config"));
  execFileSync("sh", ["-ec", block("sh", "jwt_secret")], { cwd: bench.folder });
  const server = await bench.serve(0, MOUNT.replace('"jwt_secret"', '"config/jwt_secret"'));
  const modules = new URL("node_modules", import.meta.url).pathname;
  for (const [language, library, command, print] of [
    ["js", "jsonwebtoken", process.execPath, "console.log(token)"],
    ["python", "import jwt", process.env.BENNU_PYTHON, "print(token)"],
  ]) {
    if (!command) throw new Error("BENNU_PYTHON names no Python with PyJWT; run host/tests/run");
    const file = path(bench.folder, `${language}.cjs`);
    writeFileSync(file, block(language, library) + print);
    const made = execFileSync(command, [file], { cwd: bench.folder, env: { ...process.env, NODE_PATH: modules }, encoding: "utf8" });
    const socket = new phoenix.Socket(server.at("/auth"), { ...QUICKLY, transport: WebSocket, params: { token: made.trim() } });
    socket.connect();
    t.after(() => socket.disconnect());
    const { channel } = await join(socket, "misbehave:a");
    const { response } = await answer(channel.push("claims", {}));
    assert.deepEqual([response.sub, response.role], ["7", "editor"], language);
  }
});
