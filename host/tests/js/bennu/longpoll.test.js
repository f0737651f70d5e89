// Long polling of bennu.js, with requests that are answered by hand.

import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { V2 } from "../../../assets/bennu.js";
import { bytes, FakeTransport, polled, reply } from "./fakes.js";

test("a poll takes up each new token, and so does a POST", async (t) => {
  const { requests, channel } = await polled(t);
  assert.equal(requests.all[0].url.href, "http://127.0.0.1/socket/longpoll?vsn=2.0.0");
  await requests.answer("GET", { status: 200, token: "t1", messages: [reply("1", "1")] });
  assert.equal(channel.state, "joined");
  assert.equal(requests.last("GET").url.searchParams.get("token"), "t1");
  await requests.answer("GET", { status: 204, token: "t2", messages: [] });
  assert.equal(requests.last("GET").url.searchParams.get("token"), "t2");
  channel.push("say");
  await requests.settle();
  assert.equal(requests.last("POST").url.searchParams.get("token"), "t2");
});

test("one POST is under way at a time, with a hundred messages at most", async (t) => {
  const { requests, channel } = await polled(t);
  await requests.answer("GET", { status: 200, token: "t1", messages: [reply("1", "1")] });
  for (let n = 1; n <= 150; n += 1) channel.push("say", { n });
  await requests.settle();
  const posts = () => requests.all.filter(({ method }) => method === "POST").slice(1);
  assert.equal(posts().length, 1);
  channel.push("say", { n: 151 });
  await requests.answer("POST", { status: 200 });
  assert.deepEqual(posts().map(({ body }) => body.split("\n").length), [100, 51]);
  const sent = posts().flatMap(({ body }) => body.split("\n").map((line) => JSON.parse(line)[4].n));
  assert.deepEqual(sent, Array.from({ length: 151 }, (_, index) => index + 1));
  assert.equal(posts()[0].type, "application/x-ndjson");
});

test("bytes go out in base64, and come as an object that holds them so", async (t) => {
  const { requests, channel } = await polled(t);
  await requests.answer("GET", { status: 200, token: "t1", messages: [reply("1", "1")] });
  const seen = [];
  channel.on("bin", (payload) => seen.push(payload));
  const push = channel.push("bin", bytes(0xaa)).receive("ok", (response) => seen.push(response));
  await requests.settle();
  const frame = V2.encode({ joinRef: "1", ref: push.ref, topic: "room:a", event: "bin", payload: bytes(0xaa) });
  assert.equal(requests.last("POST").body, Buffer.from(frame).toString("base64"));
  const payloads = [{ _binary: "AQL/" }, { _binary: "AQL/", more: 1 }, { _binary: "no base64" }, { _binary: 1 }, null];
  const messages = payloads.map((payload) => JSON.stringify(["1", null, "room:a", "bin", payload]));
  const answer = { status: "ok", response: { _binary: "" } };
  messages.push(JSON.stringify(["1", push.ref, "room:a", "phx_reply", answer]));
  await requests.answer("GET", { status: 200, token: "t2", messages });
  assert.deepEqual(seen, [bytes(1, 2, 255), ...payloads.slice(1), bytes()]);
});

test("a poll that fails is repeated once, with the same token", async (t) => {
  const { requests, socket, channel } = await polled(t);
  requests.last("GET").fail();
  await requests.settle();
  assert.equal(requests.last("GET").url.searchParams.get("token"), "t0");
  await requests.answer("GET", { status: 200, token: "t1", messages: [reply("1", "1")] });
  assert.equal(channel.state, "joined");
  requests.last("GET").fail();
  await requests.settle();
  requests.last("GET").fail();
  await requests.settle();
  assert.equal(socket.isConnected(), false);
});

test("a poll without an answer for 20 s is repeated", async (t) => {
  const { requests } = await polled(t);
  const polls = () => requests.all.filter(({ method }) => method === "GET").length;
  const count = polls();
  mock.timers.tick(20_000);
  await requests.settle();
  assert.equal(polls(), count + 1);
});

test("what ends a session makes the socket open another", async (t) => {
  const check = async (method, answer, code) => {
    FakeTransport.all = [];
    const { requests, socket, channel } = await polled(t);
    const codes = [];
    socket.onClose((event) => codes.push(event.code));
    channel.push("say");
    await requests.answer("GET", { status: 200, token: "t1", messages: [reply("1", "1")] });
    await requests.answer(method, answer);
    assert.deepEqual(codes, [code]);
    mock.timers.tick(10);
    assert.equal(requests.last("GET").url.searchParams.get("token"), null);
    socket.disconnect();
    await requests.settle();
    t.mock.restoreAll();
  };
  await check("GET", { status: 410, token: "t9", messages: [] }, 3410);
  await check("GET", { status: 403 }, 1008);
  await check("GET", { status: 500 }, 1011);
  await check("POST", { status: 410 }, 1011);
  await check("POST", { status: 400 }, 1011);
});

test("a disconnected socket's poll is cut short, and what was sent still goes out", async (t) => {
  const { requests, socket, channel } = await polled(t);
  await requests.answer("GET", { status: 200, token: "t1", messages: [reply("1", "1")] });
  channel.leave();
  socket.disconnect();
  assert.ok(requests.last("GET").signal.aborted);
  await requests.settle();
  assert.equal(JSON.parse(requests.last("POST").body)[3], "phx_leave");
  const count = requests.all.length;
  await requests.answer("POST", { status: 200 });
  assert.equal(requests.all.length, count);
});

test("what an answer sets going is done before the next message comes", async (t) => {
  const { requests, socket } = await polled(t);
  const other = socket.channel("room:b");
  const seen = [];
  const joining = other.join();
  (async () => {
    await joining;
    other.on("n", ({ n }) => seen.push(n));
  })();
  await requests.settle();
  const ref = other.joinRef();
  const messages = [[ref, ref, "room:b", "phx_reply", { status: "ok", response: {} }], [ref, null, "room:b", "n", { n: 1 }]];
  const heard = new Promise((resolve) => socket.onMessage(({ event }) => event === "n" && resolve()));
  mock.timers.reset();
  requests.last("GET").answer({ status: 200, token: "t1", messages: messages.map((message) => JSON.stringify(message)) });
  await heard;
  assert.deepEqual(seen, [1]);
  socket.disconnect();
});

test("in 0.11 a poll brings objects, takes up token and sig, and a POST brings one message", async (t) => {
  const { requests, channel, socket } = await polled(t, { dialect: "0.11", sig: "s0" });
  const query = (method) => requests.last(method).url.search;
  assert.equal(requests.all[0].url.href, "http://127.0.0.1/socket/poll");
  assert.deepEqual([query("GET"), query("POST")], ["?token=t0&sig=s0", "?token=t0&sig=s0"]);
  assert.equal(requests.last("POST").type, "application/json");
  const payload = { ref: channel.joinRef(), status: "ok", response: {} };
  const messages = [{ topic: "room:a", event: "phx_reply", payload, ref: null }];
  await requests.answer("GET", { status: 200, token: "t1", sig: "s1", messages });
  assert.equal(channel.state, "joined");
  await requests.answer("GET", { status: 204, token: "t2", sig: "s2" });
  assert.equal(query("GET"), "?token=t2&sig=s2");
  channel.push("one");
  channel.push("two");
  await requests.settle();
  assert.equal(JSON.parse(requests.last("POST").body).event, "one");
  await requests.answer("POST", { status: 401 });
  assert.equal(JSON.parse(requests.last("POST").body).event, "two");
  assert.ok(socket.isConnected());
});
