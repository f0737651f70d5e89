// A client in another language: Supabase's for Python, which speaks version 1, to a plugin that does as it is told.
//
// Its channels' topics begin with `realtime:`. What it sends as an event of its own goes out as the payload of `broadcast`,
// which makes the plugin broadcast that.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { test } from "node:test";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

import { connect, Inbox, join, witness } from "./clients.js";
import { Bench, within } from "./server.js";

const SCRIPT = fileURLToPath(new URL("../python/talk.py", import.meta.url));

/** The script at work: what it notices comes by kind, what it is to say goes in. */
class Talker {
  states = new Inbox();
  heard = new Inbox();
  #process;

  constructor(t, server) {
    const python = process.env.BENNU_PYTHON;
    if (!python) throw new Error("BENNU_PYTHON names no Python with the client; run host/tests/run");
    this.#process = spawn(python, [SCRIPT, server.at("/socket")], { stdio: ["pipe", "pipe", "inherit"] });
    this.ended = new Promise((resolve) => this.#process.once("exit", resolve));
    createInterface({ input: this.#process.stdout }).on("line", (line) => {
      const { state, heard } = JSON.parse(line);
      if (state) this.states.put(state);
      if (heard) this.heard.put(heard);
    });
    t.after(() => this.#process.kill());
  }

  say(payload) {
    this.#process.stdin.write(`${JSON.stringify(payload)}\n`);
  }

  leave() {
    this.#process.stdin.end();
    return within("end of the script", this.ended);
  }
}

test("somebody in Python and somebody in JavaScript talk, over a restart of the server", async (t) => {
  const bench = new Bench({ misbehave: "misbehave" }, "realtime:*");
  t.after(() => bench.close());
  const first = await bench.serve();
  const { channel } = await join(connect(t, witness, first).socket, "realtime:python");
  const heard = Inbox.of(channel, "broadcast");
  const talker = new Talker(t, first);
  assert.equal(await talker.states.nth(1), "SUBSCRIBED");

  const said = [{ n: 1, text: "grüße 🐦" }, { n: 2 }];
  for (const payload of said) talker.say(payload);
  await heard.nth(2);
  assert.deepEqual(heard.all, said.map((payload) => ({ event: "said", payload })));
  channel.push("broadcast", { event: "broadcast", payload: { event: "said", payload: { n: 3 } } });
  await talker.heard.nth(3);
  assert.deepEqual(talker.heard.all, [...said, { n: 3 }]);

  await first.stop();
  await bench.serve(first.port);
  assert.deepEqual([await talker.states.nth(2), await talker.states.nth(3)], ["CHANNEL_ERROR", "SUBSCRIBED"]);
  talker.say({ n: 4 });
  assert.deepEqual(await talker.heard.nth(4), { n: 4 });
  assert.equal(await talker.leave(), 0);
});
