// A socket of bennu.js: its address, its heartbeats, its coming back, and which transport it takes.

import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { backoff, LongPoll, Socket, V0_11 } from "../../../assets/bennu.js";
import { connect, FakeTransport, joined, Requests } from "./fakes.js";

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

test("an auth token travels as a subprotocol that a browser takes, and not in the address", () => {
  let token = "a?~ü";
  const socket = connect({ authToken: () => token });
  const [name, carried] = FakeTransport.last.protocols;
  assert.equal(name, "phoenix");
  const [, encoded] = carried.match(/^base64url\.bearer\.phx\.([\w-]+)$/);
  assert.equal(Buffer.from(encoded, "base64url").toString(), "a?~ü");
  assert.doesNotMatch(FakeTransport.last.url, /bearer/);
  socket.disconnect();
  token = "";
  socket.connect();
  assert.equal(FakeTransport.last.protocols, undefined);
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
