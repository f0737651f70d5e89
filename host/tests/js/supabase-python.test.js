// Supabase's client for Python against the plugin `realtime`, beside supabase-js.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { test } from "node:test";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

import { Inbox } from "./clients.js";
import { within } from "./server.js";
import { ANON_KEY, client, expire, FORGED_KEY, hearing, say, serve, subscribed, userToken, versions } from "./supabase.js";

const SCRIPT = fileURLToPath(new URL("../python/supabase.py", import.meta.url));
const privately = { config: { private: true } };

/** The script at work: what it notices comes by kind, what it is to do goes in. */
class Somebody {
  state = new Inbox();
  heard = new Inbox();
  system = new Inbox();
  present = new Inbox();
  posted = new Inbox();
  #process;

  constructor(t, server, { key = ANON_KEY, user = "", name = "python", config = {} }) {
    const python = process.env.BENNU_PYTHON;
    if (!python) throw new Error("BENNU_PYTHON names no Python with the client; run host/tests/run");
    const args = [SCRIPT, `${server.url}/realtime/v1`, key, user, name, JSON.stringify(config)];
    this.#process = spawn(python, args, { stdio: ["pipe", "pipe", "ignore"] });
    this.ended = new Promise((resolve) => this.#process.once("exit", resolve));
    createInterface({ input: this.#process.stdout }).on("line", (line) => {
      for (const [kind, about] of Object.entries(JSON.parse(line))) this[kind].put(about);
    });
    t.after(() => this.kill());
  }

  tell(what, more) {
    this.#process.stdin.write(`${JSON.stringify({ do: what, ...more })}\n`);
  }

  /** Ends it at once: it would join again and again. */
  kill() {
    this.#process.kill();
  }

  leave() {
    this.#process.stdin.end();
    return within("end of the script", this.ended);
  }
}

test("somebody in Python talks, is present and posts, over a restart of the server", async (t) => {
  const { bench, server } = await serve(t);
  const channels = versions.map((version) => client(t, version, server).channel("python", { config: { presence: { key: "js" } } }));
  const heard = channels.map((channel) => hearing(channel));
  const present = new Inbox();
  channels[0].on("presence", { event: "join" }, ({ key }) => present.put(key));
  for (const channel of channels) await subscribed(channel);
  const config = { broadcast: { self: true }, presence: { key: "snake" } };
  const somebody = new Somebody(t, server, { config });
  assert.deepEqual(await somebody.state.nth(1), ["SUBSCRIBED", null]);
  assert.match(await somebody.system.nth(1), /offers no changes of a database/);
  assert.deepEqual(await somebody.present.nth(1), {});

  const payload = { n: 1, text: "grüße 🐦" };
  somebody.tell("say", { payload });
  for (const inbox of [...heard, somebody.heard]) assert.deepEqual(await inbox.nth(1), payload);
  await say(channels[0], { n: 2 });
  assert.deepEqual(await somebody.heard.nth(2), { n: 2 });

  somebody.tell("track", { payload: { x: 1 } });
  assert.equal(await present.nth(1), "snake");
  await somebody.present.when("its presence", (all) => "snake" in all.at(-1));
  assert.deepEqual(somebody.present.all.at(-1), { snake: [{ x: 1 }] });
  await channels[1].track({ y: 2 });
  await somebody.present.when("the other one", (all) => "js" in all.at(-1));
  somebody.tell("untrack");
  await somebody.present.when("its end", (all) => !("snake" in all.at(-1)));

  somebody.tell("post", { payload: { n: 3 } });
  assert.equal(await somebody.posted.nth(1), null);
  for (const inbox of [...heard, somebody.heard]) await inbox.when("the post", (all) => all.at(-1)?.n === 3);

  await server.stop();
  await bench.run({ port: server.port });
  const states = await somebody.state.when("the second subscription", (all) => all.filter(([state]) => state === "SUBSCRIBED").length === 2);
  assert.ok(states.some(([state]) => state === "CHANNEL_ERROR"));
  somebody.tell("say", { payload: { n: 4 } });
  await somebody.heard.when("itself", (all) => all.at(-1).n === 4);
  assert.equal(await somebody.leave(), 0);
});

test("private channels take somebody in Python with a user's token, and end with it", async (t) => {
  const { server } = await serve(t);
  const secret = { name: "secret", config: { private: true } };
  const guest = new Somebody(t, server, secret);
  assert.match((await guest.state.nth(1))[1], /Unauthorized/);
  assert.equal((await guest.state.nth(1))[0], "CHANNEL_ERROR");
  guest.kill();
  const late = new Somebody(t, server, { ...secret, user: userToken("ann", -60) });
  assert.match((await late.state.nth(1))[1], /token expired/);
  late.kill();
  const forger = new Somebody(t, server, { ...secret, key: FORGED_KEY });
  await within("refusal", server.line(/client refused.*token.*401|401.*token/));
  assert.equal(forger.state.all.length, 0, "it does not even connect");
  forger.kill();

  const listener = client(t, versions[0], server, { user: userToken("bob") }).channel("secret", privately);
  const heard = hearing(listener);
  await subscribed(listener);
  const user = async (sub) => {
    const somebody = new Somebody(t, server, { ...secret, user: userToken(sub) });
    assert.equal((await somebody.state.nth(1))[0], "SUBSCRIBED");
    return somebody;
  };
  const [ending, lasting] = [await user("ann"), await user("eve")];
  lasting.tell("renew", { token: userToken("eve", 4) });
  lasting.tell("renew", { token: userToken("eve") });
  lasting.tell("post", { payload: { n: 1 } });
  assert.equal(await lasting.posted.nth(1), null);
  assert.deepEqual(await heard.nth(1), { n: 1 });
  await expire("ann", ending.state, (token) => ending.tell("renew", { token }));
  lasting.tell("say", { payload: { n: 2 } });
  assert.deepEqual(await heard.nth(2), { n: 2 });
  assert.equal(lasting.state.all.length, 1);
});
