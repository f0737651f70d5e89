// bennu.js with a server of Phoenix 0.11.

import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { connect, FakeTransport } from "./fakes.js";

/** Speaks 0.11 over a transport. */
class OldServer {
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

function joined(options) {
  const socket = connect({ dialect: "0.11", ...options });
  FakeTransport.last.open();
  const channel = socket.channel("room:a");
  const push = channel.join();
  const { sent } = FakeTransport.last;
  return { socket, channel, push, sent, server: new OldServer(FakeTransport.last) };
}

test("in 0.11 a heartbeat is answered by itself, with a ref or without", () => {
  for (const ref of [null, "9"]) {
    FakeTransport.all = [];
    const { socket, server } = joined({ heartbeatIntervalMs: 100 });
    for (let beat = 0; beat < 3; beat += 1) {
      mock.timers.tick(100);
      server.send("heartbeat", {}, ref, "phoenix");
    }
    assert.equal(FakeTransport.all.length, 1);
    socket.disconnect();
  }
});

test("in 0.11 a refused join is ignored, and tried again", () => {
  const { channel, push, sent, server } = joined();
  const seen = [];
  push.receive("ignore", (response) => seen.push(response));
  server.reply(sent[0], "ignore");
  assert.deepEqual([seen, channel.state], [[{}], "errored"]);
  mock.timers.tick(10);
  server.reply(sent[1]);
  assert.equal(channel.state, "joined");
});

test("in 0.11 the end of an earlier channel does not end the one that is about to join", () => {
  const { socket, channel, sent, server } = joined();
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
