// What bennu.js does by itself, with a transport made of nothing and a clock turned by hand.

import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";

import { backoff, LongPoll, Presence, Socket, syncDiff, syncState, V0_11, V2 } from "../../assets/bennu.js";

const hex = (text) => new Uint8Array(Buffer.from(text.replaceAll(" ", ""), "hex")).buffer;
const bytes = (...values) => new Uint8Array(values).buffer;

/** What a WebSocket would be. Keeps what is sent, and hands over what it is given. */
class FakeTransport {
  static all = [];
  static get last() {
    return FakeTransport.all.at(-1);
  }
  readyState = 0;
  sent = [];

  constructor(url) {
    this.url = url;
    FakeTransport.all.push(this);
  }
  send(frame) {
    this.sent.push(typeof frame === "string" ? JSON.parse(frame) : frame);
  }
  close() {
    this.readyState = 3;
  }
  open() {
    this.readyState = 1;
    this.onopen({});
  }
  lose(code = 1012) {
    this.readyState = 3;
    this.onclose({ code });
  }
  receive(...message) {
    this.onmessage({ data: JSON.stringify(message) });
  }
  reply([joinRef, ref, topic], status = "ok", response = {}) {
    this.receive(joinRef, ref, topic, "phx_reply", { status, response });
  }
}

function connect(options = {}) {
  const socket = new Socket("ws://127.0.0.1/socket", {
    transport: FakeTransport,
    reconnectAfterMs: () => 10,
    rejoinAfterMs: () => 10,
    ...options,
  });
  socket.connect();
  return socket;
}

/** A socket whose one channel is joined, with join_ref "1". */
function joined(options) {
  const socket = connect(options);
  FakeTransport.last.open();
  const channel = socket.channel("room:a");
  channel.join();
  FakeTransport.last.reply(["1", "1", "room:a"]);
  return { socket, channel, transport: FakeTransport.last };
}

beforeEach(() => {
  FakeTransport.all = [];
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout"] });
});

test("a text message is an array of five", () => {
  const message = { joinRef: "1", ref: "2", topic: "room:a", event: "say", payload: { n: 1 } };
  assert.equal(V2.encode(message), '["1","2","room:a","say",{"n":1}]');
  assert.deepEqual(V2.decode(V2.encode(message)), message);
});

test("a binary push is written as Phoenix reads it", () => {
  const frame = V2.encode({ joinRef: "1", ref: "2", topic: "room:a", event: "bin", payload: bytes(0xaa) });
  assert.deepEqual(frame, hex("00 01 01 06 03 31 32 726f6f6d3a61 62696e aa"));
});

test("a view of a buffer is sent as its own part of it", () => {
  const view = new Uint8Array([1, 2, 3, 4]).subarray(1, 3);
  const frame = V2.encode({ joinRef: "1", ref: "2", topic: "t", event: "e", payload: view });
  assert.deepEqual(frame.slice(-2), bytes(2, 3));
});

test("a topic that no binary message has room for is refused", () => {
  const message = { joinRef: "1", ref: "2", topic: "ü".repeat(128), event: "e", payload: bytes(1) };
  assert.throws(() => V2.encode(message), RangeError);
});

test("the three kinds of binary messages are read", () => {
  const check = (text, message) => assert.deepEqual(V2.decode(hex(text)), message);
  check("00 02 06 02 3131 726f6f6d3a61 7062 0102", {
    joinRef: "11", ref: null, topic: "room:a", event: "pb", payload: bytes(1, 2),
  });
  check("01 02 02 06 02 3131 3133 726f6f6d3a61 6f6b 0304", {
    joinRef: "11", ref: "13", topic: "room:a", event: "phx_reply", payload: { status: "ok", response: bytes(3, 4) },
  });
  check("02 06 02 726f6f6d3a61 6262 0908", {
    joinRef: null, ref: null, topic: "room:a", event: "bb", payload: bytes(9, 8),
  });
});

test("a frame that is cut short or of an unknown kind is an error and nothing more", () => {
  const { socket, transport } = joined();
  const errors = [];
  socket.onError((error) => errors.push(error.name));
  for (const data of ["", "{", bytes(9, 1, 1), bytes(2, 200)]) transport.onmessage({ data });
  assert.equal(errors.length, 4);
  assert.ok(socket.isConnected());
});

test("waits grow to their cap, and are drawn at random up to it", () => {
  assert.equal(backoff([100, 200], 1, () => 0.5), 50);
  assert.equal(backoff([100, 200], 2, () => 0.99), 198);
  assert.equal(backoff([100, 200], 9, () => 0.5), 100);
  assert.equal(backoff([100, 200], 9, () => 0), 0);
});

test("the address carries params, nested ones in brackets, and the version", () => {
  connect({ params: () => ({ token: "a&b", user: { id: 7 } }) });
  const url = new URL(FakeTransport.last.url);
  assert.equal(url.pathname, "/socket/websocket");
  assert.deepEqual([...url.searchParams], [["token", "a&b"], ["user[id]", "7"], ["vsn", "2.0.0"]]);
});

test("each dialect has its addresses, on each transport", () => {
  const check = (options, expected) => assert.equal(new Socket("ws://a.example/s", options).endPointURL(), expected);
  const transport = FakeTransport;
  check({ transport }, "ws://a.example/s/websocket?vsn=2.0.0");
  check({ transport: "longpoll" }, "http://a.example/s/longpoll?vsn=2.0.0");
  check({ transport, dialect: "0.11" }, "ws://a.example/s");
  check({ transport: LongPoll, dialect: V0_11, params: { a: 1 } }, "http://a.example/s/poll?a=1");
  assert.throws(() => new Socket("/s", { transport, dialect: "0.10" }), TypeError);
  assert.throws(() => new Socket("/s", { transport: "pigeon" }), TypeError);
});

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

test("a lost connection is opened again, and its channels join again at once", () => {
  const { socket, channel, transport } = joined();
  const seen = [];
  socket.onClose(({ code }) => seen.push(code));
  channel.push("open").receive("error", ({ reason }) => seen.push(reason));
  transport.lose();
  assert.deepEqual(seen, ["disconnected", 1012]);
  channel.push("later");
  mock.timers.tick(10);
  assert.notEqual(FakeTransport.last, transport);
  FakeTransport.last.open();
  FakeTransport.last.reply(FakeTransport.last.sent[0]);
  assert.deepEqual(FakeTransport.last.sent.map((message) => message[3]), ["phx_join", "later"]);
});

test("a disconnected socket stays so, and that is no error", () => {
  const { socket, channel } = joined();
  channel.onError(() => assert.fail("nothing went wrong"));
  socket.disconnect();
  mock.timers.tick(60_000);
  assert.equal(FakeTransport.all.length, 1);
  assert.equal(socket.isConnected(), false);
});

test("a heartbeat that stays unanswered ends the connection", () => {
  const { transport } = joined({ heartbeatIntervalMs: 100 });
  mock.timers.tick(100);
  const heartbeat = transport.sent.at(-1);
  assert.deepEqual([heartbeat[0], ...heartbeat.slice(2)], [null, "phoenix", "heartbeat", {}]);
  transport.reply(heartbeat);
  mock.timers.tick(100);
  assert.equal(FakeTransport.all.length, 1);
  mock.timers.tick(100);
  mock.timers.tick(10);
  assert.equal(FakeTransport.all.length, 2);
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

test("a transport that does not come about takes turns with long polling", async (t) => {
  const requests = new Requests(t);
  connect({ longPollFallbackMs: 100 });
  FakeTransport.last.lose(1006);
  mock.timers.tick(10);
  assert.deepEqual([FakeTransport.all.length, requests.all.length], [1, 1]);
  for (const again of [0, 1]) {
    requests.all[again].fail();
    await requests.settle();
  }
  mock.timers.tick(10);
  assert.deepEqual([FakeTransport.all.length, requests.all.length], [2, 2]);
  mock.timers.tick(100);
  mock.timers.tick(10);
  assert.deepEqual([FakeTransport.all.length, requests.all.length], [2, 3], "too late is as good as failed");
});

test("where there is no WebSocket, long polling takes its place if that is wanted, else the error says what to do", async (t) => {
  const { WebSocket } = globalThis;
  t.after(() => (globalThis.WebSocket = WebSocket));
  globalThis.WebSocket = undefined;
  const open = (options) => new Socket("ws://127.0.0.1/socket", options);
  assert.throws(() => open(), /no WebSocket here.*`transport`.*"longpoll"/);
  assert.throws(() => open({ transport: "websocket" }), /no WebSocket here/);
  assert.match(open({ longPollFallbackMs: 100 }).endPointURL(), /^http:.*\/longpoll/);
  assert.match(open({ transport: "longpoll" }).endPointURL(), /^http:.*\/longpoll/);
  assert.match(open({ transport: FakeTransport }).endPointURL(), /^ws:.*\/websocket/);
});

test("a transport that has come about once is kept", (t) => {
  const requests = new Requests(t);
  const { transport } = joined({ longPollFallbackMs: 100 });
  mock.timers.tick(100);
  transport.lose();
  mock.timers.tick(10);
  assert.deepEqual([FakeTransport.all.length, requests.all.length], [2, 0]);
});

/** Requests as `fetch` would make them, each answered by hand. */
class Requests {
  all = [];

  constructor(t) {
    t.mock.method(globalThis, "fetch", (url, { method, headers, body, signal }) => {
      const request = { url: new URL(url), method, type: headers["content-type"], body, signal };
      this.all.push(request);
      return new Promise((resolve, reject) => {
        request.answer = (json) => resolve({ json: async () => json });
        request.fail = () => reject(new TypeError("fetch failed"));
        signal.onabort = () => reject(signal.reason);
      });
    });
  }

  /** The newest of a kind. */
  last(method) {
    return this.all.findLast((request) => request.method === method);
  }

  async answer(method, json) {
    this.last(method).answer(json);
    await this.settle();
  }

  /** What was answered is taken note of, and the events that come of it have happened. */
  async settle() {
    await new Promise(setImmediate);
    mock.timers.tick(0);
    await new Promise(setImmediate);
  }
}

/** A channel that is joined over long polling. */
async function polled(t, options = {}) {
  const requests = new Requests(t);
  const socket = connect({ transport: "longpoll", ...options });
  await requests.answer("GET", { status: 410, token: "t0", sig: options.sig, messages: [] });
  const channel = socket.channel("room:a");
  channel.join();
  await requests.settle();
  await requests.answer("POST", { status: 200 });
  return { requests, socket, channel };
}

const reply = (...ids) => JSON.stringify([...ids, "room:a", "phx_reply", { status: "ok", response: {} }]);

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

test("the dialect of 0.11 has four keys, and the ref of a reply in its payload", () => {
  const message = { joinRef: "1", ref: "2", topic: "room:a", event: "say", payload: { n: 1 } };
  assert.deepEqual(JSON.parse(V0_11.encode(message)), { topic: "room:a", event: "say", payload: { n: 1 }, ref: "2" });
  assert.throws(() => V0_11.encode({ ...message, payload: bytes(1) }), TypeError);
  const payload = { ref: "2", status: "ok", response: { n: 1 } };
  const decoded = V0_11.decode(JSON.stringify({ topic: "room:a", event: "phx_reply", ref: null, payload }));
  assert.deepEqual([decoded.joinRef, decoded.ref, decoded.payload.response], [null, "2", { n: 1 }]);
  const other = V0_11.decode('{"topic":"room:a","event":"n","ref":null,"payload":{"ref":"9"}}');
  assert.deepEqual([other.ref, other.payload], [null, { ref: "9" }]);
});

/** Speaks 0.11 over a transport. */
class Seeds {
  constructor(transport) {
    this.transport = transport;
  }
  send(event, payload = {}, ref = null, topic = "room:a") {
    this.transport.onmessage({ data: JSON.stringify({ topic, event, payload, ref }) });
  }
  reply({ ref }, status = "ok") {
    this.send("phx_reply", { ref, status, response: {} });
  }
}

function seedsJoined(options) {
  const socket = connect({ dialect: "0.11", ...options });
  FakeTransport.last.open();
  const channel = socket.channel("room:a");
  const push = channel.join();
  const { sent } = FakeTransport.last;
  return { socket, channel, push, sent, server: new Seeds(FakeTransport.last) };
}

test("in 0.11 a heartbeat is answered by itself, with a ref or without", () => {
  for (const ref of [null, "9"]) {
    FakeTransport.all = [];
    const { socket, server } = seedsJoined({ heartbeatIntervalMs: 100 });
    for (let beat = 0; beat < 3; beat += 1) {
      mock.timers.tick(100);
      server.send("heartbeat", {}, ref, "phoenix");
    }
    assert.equal(FakeTransport.all.length, 1);
    socket.disconnect();
  }
});

test("in 0.11 a refused join is ignored, and tried again", () => {
  const { channel, push, sent, server } = seedsJoined();
  const seen = [];
  push.receive("ignore", (response) => seen.push(response));
  server.reply(sent[0], "ignore");
  assert.deepEqual([seen, channel.state], [[{}], "errored"]);
  mock.timers.tick(10);
  server.reply(sent[1]);
  assert.equal(channel.state, "joined");
});

test("in 0.11 the end of an earlier channel does not end the one that is about to join", () => {
  const { socket, channel, sent, server } = seedsJoined();
  server.reply(sent[0]);
  const next = socket.channel("room:a");
  next.join();
  assert.deepEqual(sent.map(({ event }) => event), ["phx_join", "phx_leave", "phx_join"]);
  server.reply(sent[1]);
  server.send("phx_close");
  server.reply(sent[2]);
  assert.deepEqual([channel.state, next.state], ["closed", "joined"]);
  server.send("phx_error");
  assert.equal(next.state, "errored");
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

const entry = (...refs) => ({ metas: refs.map((phx_ref) => ({ phx_ref })) });
const plain = (map) => Object.fromEntries(Object.entries(map));

test("a presence state is compared with the one before", () => {
  const { state, joins, leaves } = syncState({ a: entry("1", "2"), b: entry("3") }, { a: entry("2", "4"), c: entry("5") });
  assert.deepEqual(plain(state), { a: entry("2", "4"), c: entry("5") });
  assert.deepEqual(plain(joins), { a: entry("4"), c: entry("5") });
  assert.deepEqual(plain(leaves), { a: entry("1"), b: entry("3") });
});

test("a presence diff adds, replaces and removes", () => {
  const check = (before, diff, after) => assert.deepEqual(plain(syncDiff(before, diff).state), after);
  check({}, { joins: { a: entry("1") }, leaves: {} }, { a: entry("1") });
  check({ a: entry("1") }, { joins: { a: entry("2") }, leaves: {} }, { a: entry("1", "2") });
  check({ a: entry("1") }, { joins: { a: entry("2") }, leaves: { a: entry("1") } }, { a: entry("2") });
  check({ a: entry("1", "2") }, { joins: {}, leaves: { a: entry("1") } }, { a: entry("2") });
  check({ a: entry("1") }, { joins: {}, leaves: { a: entry("1") } }, {});
  check({ a: entry("1") }, { joins: {}, leaves: { b: entry("9") } }, { a: entry("1") });
});

test("somebody called __proto__ is just somebody", () => {
  const diff = JSON.parse('{"joins":{"__proto__":{"metas":[{"phx_ref":"1"}]},"constructor":{"metas":[{"phx_ref":"2"}]}},"leaves":{}}');
  const { state } = syncDiff(Object.create(null), diff);
  assert.deepEqual(Object.keys(state), ["__proto__", "constructor"]);
  assert.equal({}.metas, undefined);
  const left = syncState(state, {});
  assert.deepEqual(Object.keys(left.leaves), ["__proto__", "constructor"]);
});

test("presence diffs that come before the state wait for it", () => {
  const { channel, transport } = joined();
  const presence = new Presence(channel);
  const seen = [];
  presence.onJoin((key, current) => seen.push(`+${key}${current ? " again" : ""}`));
  presence.onLeave((key, current) => seen.push(`-${key}${current.metas.length ? " once" : ""}`));
  transport.receive(null, null, "room:a", "presence_diff", { joins: { b: entry("2") }, leaves: {} });
  assert.deepEqual(presence.list((key) => key), []);
  transport.receive("1", null, "room:a", "presence_state", { a: entry("1") });
  assert.deepEqual(presence.list((key) => key), ["a", "b"]);
  transport.receive(null, null, "room:a", "presence_diff", { joins: { a: entry("3") }, leaves: {} });
  transport.receive(null, null, "room:a", "presence_diff", { joins: {}, leaves: { a: entry("1"), b: entry("2") } });
  assert.deepEqual(seen, ["+a", "+b", "+a again", "-a once", "-b"]);
});
