// A channel of bennu.js: joins, pushes and their answers, and its end.

import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { connect, FakeTransport, joined } from "./fakes.js";

test("pushes before the join is answered wait, and then go out in order", () => {
  const socket = connect();
  const channel = socket.channel("room:a", { name: "Ada" });
  assert.throws(() => channel.push("early"));
  channel.join();
  channel.push("one");
  FakeTransport.last.open();
  channel.push("two");
  const [join] = FakeTransport.last.sent;
  assert.deepEqual(join.slice(2), ["room:a", "phx_join", { name: "Ada" }]);
  assert.equal(join[0], join[1], "a join's ref is its join_ref");
  assert.equal(FakeTransport.last.sent.length, 1);
  FakeTransport.last.reply(join);
  assert.deepEqual(FakeTransport.last.sent.map((message) => message[3]), ["phx_join", "one", "two"]);
  assert.ok(FakeTransport.last.sent.every((message) => message[0] === join[0]));
});

test("a push is answered by callback and by await", async () => {
  const { channel, transport } = joined();
  const seen = [];
  const push = channel.push("sum").receive("ok", (response) => seen.push(response)).receive("error", () => seen.push("no"));
  transport.reply(transport.sent.at(-1), "ok", { sum: 3 });
  assert.deepEqual(seen, [{ sum: 3 }]);
  assert.deepEqual(await push, { sum: 3 });
  const refused = channel.push("sum");
  transport.reply(transport.sent.at(-1), "error", { reason: "no" });
  await assert.rejects(async () => await refused, { name: "ReplyError", status: "error", response: { reason: "no" } });
  const invalid = channel.push("sum");
  transport.reply(transport.sent.at(-1), "error", { reason: "invalid payload", field: "of", message: "must not be empty" });
  await assert.rejects(async () => await invalid, { message: "error: invalid payload: of: must not be empty" });
  const unmatched = channel.push("sum");
  transport.reply(transport.sent.at(-1), "error", { reason: "unmatched topic" });
  await assert.rejects(async () => await unmatched, { message: `error: unmatched topic: ${channel.topic}` });
});

test("a push that nobody answers times out, also while it waits for the join", () => {
  const { channel, transport } = joined();
  const seen = [];
  channel.push("one").receive("timeout", () => seen.push("one"));
  transport.receive("1", "1", "room:a", "phx_error", { reason: "channel_crash" });
  channel.push("two", {}, 5).receive("timeout", () => seen.push("two"));
  mock.timers.tick(5);
  assert.deepEqual(seen, ["two"]);
  mock.timers.tick(5);
  transport.reply(transport.sent.at(-1));
  assert.equal(transport.sent.at(-1)[3], "phx_join", "what timed out is not sent any more");
});

test("messages of an earlier join are dropped, those without one are taken", () => {
  const { channel, transport } = joined();
  const seen = [];
  channel.on("n", ({ n }) => seen.push(n));
  transport.receive("0", null, "room:a", "n", { n: 1 });
  transport.receive("1", null, "room:a", "n", { n: 2 });
  transport.receive(null, null, "room:a", "n", { n: 3 });
  transport.receive(null, null, "room:b", "n", { n: 4 });
  transport.receive("0", "0", "room:a", "phx_close", {});
  assert.deepEqual(seen, [2, 3]);
  assert.equal(channel.state, "joined");
});

test("a callback that was taken off is called no more", () => {
  const { channel, transport } = joined();
  const seen = [];
  const first = channel.on("n", () => seen.push("first"));
  channel.on("n", () => seen.push("second"));
  channel.off("n", first);
  transport.receive(null, null, "room:a", "n", {});
  channel.off("n");
  transport.receive(null, null, "room:a", "n", {});
  assert.deepEqual(seen, ["second"]);
});

test("a crashed channel answers what was open, and joins again", () => {
  const { channel, transport } = joined();
  const seen = [];
  channel.onError(({ reason }) => seen.push(reason));
  channel.push("boom").receive("error", ({ reason }) => seen.push(`push: ${reason}`));
  transport.receive("1", "1", "room:a", "phx_error", { reason: "channel_crash" });
  assert.deepEqual(seen, ["push: channel_crash", "channel_crash"]);
  mock.timers.tick(10);
  const join = transport.sent.at(-1);
  assert.equal(join[3], "phx_join");
  assert.notEqual(join[0], "1");
  transport.reply(join);
  assert.equal(channel.state, "joined");
});

test("a channel that the server does not know joins again", () => {
  const { channel, transport } = joined();
  channel.push("hello");
  const [, ref] = transport.sent.at(-1);
  transport.reply([null, ref, "room:a"], "error", { reason: "unmatched topic" });
  assert.equal(channel.state, "errored");
  mock.timers.tick(10);
  assert.equal(transport.sent.at(-1)[3], "phx_join");
});

test("a closed channel stays away", () => {
  const { channel, transport } = joined();
  let closed = 0;
  channel.onClose(() => (closed += 1));
  transport.receive("1", "1", "room:a", "phx_close", {});
  mock.timers.tick(60);
  assert.deepEqual([closed, channel.state, transport.sent.length], [1, "closed", 1]);
});

test("a join without an answer is taken back and tried again", () => {
  const socket = connect();
  FakeTransport.last.open();
  const channel = socket.channel("room:a");
  const seen = [];
  channel.join(50).receive("timeout", () => seen.push("timeout")).receive("ok", () => seen.push("ok"));
  mock.timers.tick(50);
  const [join, leave] = FakeTransport.last.sent;
  assert.deepEqual([leave[0], leave[3]], [join[0], "phx_leave"]);
  FakeTransport.last.receive(join[0], join[0], "room:a", "phx_close", {});
  mock.timers.tick(10);
  FakeTransport.last.reply(FakeTransport.last.sent.at(-1));
  assert.deepEqual(seen, ["timeout", "ok"]);
});

test("leaving is answered, and nothing is heard from then on", async () => {
  const { channel, transport } = joined();
  const seen = [];
  channel.on("n", () => seen.push("n"));
  channel.onClose(() => seen.push("closed"));
  const left = channel.leave();
  transport.receive(null, null, "room:a", "n", {});
  transport.reply(transport.sent.at(-1));
  transport.receive("1", "1", "room:a", "phx_close", {});
  await left;
  assert.deepEqual(seen, ["closed"]);
});

test("a second channel for a topic makes the first one leave", () => {
  const { socket, channel, transport } = joined();
  const second = socket.channel("room:a");
  second.join();
  assert.equal(channel.state, "leaving");
  assert.deepEqual(transport.sent.map((message) => message[3]), ["phx_join", "phx_leave", "phx_join"]);
  transport.reply(transport.sent[1]);
  transport.receive("1", "1", "room:a", "phx_close", {});
  transport.reply(transport.sent[2]);
  assert.deepEqual([channel.state, second.state], ["closed", "joined"]);
});
