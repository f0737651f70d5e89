// A plugin is replaced in the middle of a conversation: nothing is lost, doubled or reordered, and the state stays.

import assert from "node:assert/strict";
import { test } from "node:test";

import { answer, clients, connect, Inbox, join } from "./clients.js";
import { Bench, DEADLINE_MS } from "./server.js";

/** Messages before the library is replaced, and after the first answer by the new one. */
const BEFORE = 50;
const AFTER = 50;
/** How many are on their way at a time, so that some are when the swap comes. */
const ON_THEIR_WAY = 8;

for (const client of clients.filter(({ inOrder }) => inOrder)) {
  test(`a reload in the middle of a conversation of ${client.name}`, async (t) => {
    const bench = new Bench({ misbehave: "misbehave" });
    t.after(() => bench.close());
    const server = await bench.serve();
    const speaker = connect(t, client, server);
    const listener = connect(t, client, server);
    const { channel } = await join(speaker.socket, "misbehave:talk");
    const pushed = Inbox.of(channel, "numbered");
    const heard = Inbox.of((await join(listener.socket, "misbehave:talk")).channel, "said");

    const answers = await talk(channel, () => bench.replace("misbehave", "misbehave-v2"));

    const numbers = answers.map((_, index) => index + 1);
    assert.deepEqual(answers.map(({ n }) => n), numbers, "each is answered, in order");
    assert.deepEqual(answers.map(({ topic }) => topic), numbers, "the topic's state has counted all of them, once");
    assert.deepEqual(answers.map(({ member }) => member), numbers, "and so has the member's");
    const versions = answers.map(({ version }) => version);
    assert.deepEqual(versions, [...versions].sort(), "no answer comes from the old code after the new");
    assert.deepEqual([versions[0], versions.at(-1)], [1, 2]);
    assert.equal(answers.at(-1).mood, "fresh", "the field that the new code added is there");

    for (const inbox of [pushed, heard]) {
      await inbox.nth(numbers.length);
      assert.deepEqual(inbox.all.map(({ n }) => n), numbers, "pushes and broadcasts come once, in order");
    }
    assert.deepEqual([speaker.opens, listener.opens], [1, 1], "nobody has reconnected");
    t.diagnostic(`${answers.length} times, the swap before number ${versions.indexOf(2) + 1}`);
  });
}

/** Counts aloud, has the library replaced on the way, and goes on until the new code has been heard for a while. */
async function talk(channel, replace) {
  const answers = [];
  const open = [];
  let last = Infinity;
  let deadline = Infinity;
  for (let n = 1; n <= last; n += 1) {
    open.push(say(channel, n));
    if (open.length < ON_THEIR_WAY && n < last) continue;
    answers.push(await open.shift());
    if (answers.length === BEFORE) {
      replace();
      deadline = Date.now() + DEADLINE_MS;
    }
    assert.ok(Date.now() < deadline || last < Infinity, "the new code is heard in time");
    if (answers.at(-1).version === 2 && last === Infinity) last = n + AFTER;
  }
  return [...answers, ...(await Promise.all(open))];
}

/** Says a number to everyone, has it pushed back, and has it counted. */
async function say(channel, n) {
  channel.push("broadcast", { event: "said", payload: { n } });
  const numbered = answer(channel.push("numbered", { n }));
  const { status, response } = await answer(channel.push("count"));
  assert.equal(status, "ok");
  return { ...response, ...(await numbered).response };
}
