// Who is there, as bennu.js keeps it.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Presence, syncDiff, syncState } from "../../../assets/bennu.js";
import { joined } from "./fakes.js";

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
