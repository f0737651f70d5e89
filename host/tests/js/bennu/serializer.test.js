// What bennu.js writes and reads: messages of today's dialect and of 0.11.

import assert from "node:assert/strict";
import { test } from "node:test";

import { V0_11, V2 } from "../../../assets/bennu.js";
import { bytes, hex, joined } from "./fakes.js";

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
