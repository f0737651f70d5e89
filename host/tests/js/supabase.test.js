// Supabase's clients against the plugin `realtime`, in Node: what `host/docs/supabase.md` says, row by row.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import WebSocket from "ws";

import { Inbox } from "./clients.js";
import { DEADLINE_MS, within } from "./server.js";
import {
  ANON_KEY,
  client,
  expire,
  FORGED_KEY,
  hearing,
  knock,
  Realtime,
  say,
  serve,
  SERVICE_KEY,
  subscribe,
  subscribed,
  token,
  userToken,
  versions,
} from "./supabase.js";

const [newest] = versions;
const own = { config: { broadcast: { self: true } } };
const asked = { config: { broadcast: { ack: true } } };
const privately = { config: { private: true } };

/** Presence without what the server adds. */
const bare = (state) =>
  Object.fromEntries(Object.entries(state).map(([key, metas]) => [key, metas.map(({ presence_ref: _, ...meta }) => meta)]));

for (const version of versions) {
  describe(version.name, () => {
    const bench = new Realtime();
    let server;
    before(async () => (server = await bench.run()));
    after(() => bench.close());
    const connect = (t, options) => client(t, version, server, options);

    test("connects with a good key in the query or a header, and gets 401 with another", async () => {
      for (const vsn of ["1.0.0", "2.0.0"]) {
        assert.equal(await knock(server, `vsn=${vsn}&apikey=${ANON_KEY}`), 101);
        assert.equal(await knock(server, `vsn=${vsn}`, { "x-api-key": ANON_KEY }), 101);
        for (const bad of [FORGED_KEY, token({ role: "anon" }, -60), "no token", ""]) {
          assert.equal(await knock(server, `vsn=${vsn}&apikey=${encodeURIComponent(bad)}`), 401, bad);
        }
        assert.equal(await knock(server, `vsn=${vsn}`), 401);
      }
    });

    test("a join gives back the database changes it asked for, then presence, then says that there are none", async (t) => {
      const channel = connect(t).channel("changes", { config: { presence: { enabled: true } } });
      const order = [];
      for (const [event, schema, filter] of [["*", "public", "id=eq.1"], ["INSERT", "public"]]) {
        channel.on("postgres_changes", { event, schema, table: "messages", filter }, () => {});
      }
      channel.on("presence", { event: "sync" }, () => order.push("presence"));
      channel.on("system", {}, () => order.push("system"));
      const { system } = await subscribed(channel);
      const { extension, status, message, channel: name } = await system.nth(1);
      assert.deepEqual([extension, status, name], ["postgres_changes", "ok", "changes"]);
      assert.match(message, /offers no changes of a database/);
      assert.deepEqual(order, ["presence", "system"]);
      assert.deepEqual(channel.presenceState(), {});
    });

    test("what is said reaches the others, oneself with `self`, and is acknowledged with `ack`", async (t) => {
      const [plain, both] = [connect(t).channel("talk"), connect(t).channel("talk", own)];
      const [heard, echoed] = [hearing(plain), hearing(both)];
      for (const channel of [plain, both]) await subscribed(channel);
      const acknowledged = connect(t).channel("talk", asked);
      await subscribed(acknowledged);
      assert.equal(await say(acknowledged, { n: 1, text: "grüße 🐦", deep: [{ null: null }] }), "ok");
      await say(both, { n: 2 });
      // Another client's message may overtake it.
      await echoed.nth(2);
      await say(plain, { n: 3 });
      await echoed.nth(3);
      assert.equal(await say(acknowledged, { n: 4 }), "ok");
      await echoed.nth(4);
      assert.deepEqual(echoed.all[0], { n: 1, text: "grüße 🐦", deep: [{ null: null }] });
      assert.deepEqual(echoed.all.map(({ n }) => n), [1, 2, 3, 4]);
      assert.deepEqual((await heard.when("3 messages", ({ length }) => length >= 3)).map(({ n }) => n), [1, 2, 4]);
    });

    test("events are told apart, and one may listen to all", async (t) => {
      const [speaker, listener] = [connect(t).channel("größe"), connect(t).channel("größe")];
      const [one, all] = [hearing(listener, "änderung"), hearing(listener, "*")];
      for (const channel of [speaker, listener]) await subscribed(channel);
      await say(speaker, { n: 1 }, "other");
      await say(speaker, { n: 2 }, "änderung");
      await all.nth(2);
      assert.deepEqual([one.all, all.all], [[{ n: 2 }], [{ n: 1 }, { n: 2 }]]);
    });

    test("two tabs of one user and one of another see who is present, and what they say of themselves", async (t) => {
      const tab = (key) => connect(t).channel("cursors", { config: { presence: { key } } });
      const [first, second, other] = [tab("ann"), tab("ann"), tab("")];
      const seen = new Inbox();
      for (const event of ["join", "leave"]) {
        other.on("presence", { event }, ({ key, newPresences, leftPresences }) =>
          seen.put([event, key, bare({ key: newPresences ?? leftPresences }).key]),
        );
      }
      other.on("presence", { event: "sync" }, () => {});
      for (const channel of [other, first, second]) await subscribed(channel);
      assert.equal(await first.track({ x: 1 }), "ok");
      assert.equal(await second.track({ x: 2 }), "ok");
      await seen.nth(2);
      assert.deepEqual(bare(other.presenceState()), { ann: [{ x: 1 }, { x: 2 }] });
      assert.equal(await first.track({ x: 3 }), "ok");
      await seen.when("the update", (all) => all.filter(([event]) => event === "leave").length === 1);
      assert.deepEqual(bare(other.presenceState()), { ann: [{ x: 2 }, { x: 3 }] });
      assert.equal(await second.untrack(), "ok");
      await seen.when("the untracking", (all) => all.filter(([event]) => event === "leave").length === 2);
      assert.equal(await other.track({ me: true }), "ok");
      assert.equal(await first.unsubscribe(), "ok");
      await seen.when("the end", (all) => all.filter(([event]) => event === "leave").length === 3);
      const left = Object.entries(bare(other.presenceState()));
      assert.equal(left.length, 1, "whoever names no key has one of its own");
      assert.ok(left[0][0].length > 0);
      assert.deepEqual(left[0][1], [{ me: true }]);
      assert.deepEqual(seen.all.filter(([event]) => event === "leave"), [
        ["leave", "ann", [{ x: 1 }]],
        ["leave", "ann", [{ x: 2 }]],
        ["leave", "ann", [{ x: 3 }]],
      ]);
    });

    test("a private channel takes users and the service key, and no guest", async (t) => {
      const join = (options) => subscribe(connect(t, options).channel("secret", privately));
      assert.equal((await join({ user: userToken("ann") })).state, "SUBSCRIBED");
      assert.equal((await join({ key: SERVICE_KEY })).state, "SUBSCRIBED");
      for (const [options, reason] of [
        [{}, /Unauthorized/],
        [{ user: token({ role: "authenticated" }, 3_600, "another secret, which has 32 bytes, too") }, /invalid token/],
        [{ user: userToken("ann", -60) }, /token expired/],
        [{ user: "no token" }, /invalid token/],
      ]) {
        const { state, error } = await join(options);
        assert.equal(state, "CHANNEL_ERROR");
        assert.match(error, reason);
      }
    });

    test("a public and a private channel of one name are two", async (t) => {
      const channels = [own, { config: { ...own.config, private: true } }].map((config) =>
        [1, 2].map(() => connect(t, { user: userToken("ann") }).channel("two", config)),
      );
      const heard = channels.map((pair) => pair.map((channel) => hearing(channel)));
      for (const channel of channels.flat()) await subscribed(channel);
      for (const [at, [channel]] of channels.entries()) {
        await channel.track({ at });
        await say(channel, { at });
      }
      for (const [at, pair] of heard.entries()) {
        for (const inbox of pair) assert.deepEqual(await inbox.nth(1), { at });
      }
      // Each has its own presence, too.
      for (const [at, pair] of channels.entries()) {
        await say(pair[1], { last: true });
        for (const inbox of heard[at]) assert.deepEqual(await inbox.nth(2), { last: true });
        const present = bare(pair[0].presenceState());
        assert.deepEqual(Object.values(present), [[{ at }]]);
      }
      assert.deepEqual(heard.flat().map(({ all }) => all.length), [2, 2, 2, 2]);
    });

    test("a channel ends with its token, and lasts with a renewed one", async (t) => {
      const [ending, lasting] = ["ann", "bob"].map((sub) => connect(t, { user: userToken(sub) }));
      const [ended, lasted] = [ending, lasting].map((supabase) => supabase.channel("expiring", privately));
      const heard = hearing(lasted);
      const [{ states, system }, { states: others }] = [await subscribed(ended), await subscribed(lasted)];
      await lasting.sign(userToken("bob", 4));
      await lasting.sign(userToken("bob"));
      await expire("ann", states, (token) => ending.sign(token));
      const { status, message } = await system.nth(2);
      assert.equal(status, "error");
      assert.match(message, /expired/);
      // Whoever signs in again joins again, over the same connection.
      await ending.sign(userToken("ann"));
      const again = ending.channel("expiring", privately);
      await subscribed(again);
      await say(again, { n: 1 });
      assert.deepEqual(await heard.nth(1), { n: 1 });
      assert.deepEqual(others.all, [["SUBSCRIBED", undefined]]);
    });

    test("whoever signs out leaves private channels, and keeps the public ones", async (t) => {
      const supabase = connect(t, { user: userToken("ann") });
      const secret = await subscribed(supabase.channel("secret", privately));
      const open = supabase.channel("open", own);
      const heard = hearing(open);
      await subscribed(open);
      await supabase.sign(ANON_KEY);
      await secret.states.when("end of the channel", (all) => all.some(([state]) => state === "CLOSED"));
      await say(open, { n: 1 });
      assert.deepEqual(await heard.nth(1), { n: 1 });
      // Another user may sign in.
      await supabase.sign(userToken("bob"));
      assert.equal((await subscribe(supabase.channel("secret", privately))).state, "SUBSCRIBED");
    });

    test("a message over HTTP reaches a channel, by httpSend and by send before a channel is joined", async (t) => {
      const listener = connect(t, { user: userToken("ann") });
      const [open, secret] = [listener.channel("a/b ü"), listener.channel("a/b ü", privately)];
      assert.equal(open, secret, "a client has one channel of a name");
      const heard = hearing(open);
      await subscribed(open);
      assert.deepEqual(await connect(t).channel("a/b ü").httpSend("said", { n: 1 }), { success: true });
      assert.equal(await say(connect(t).channel("a/b ü"), { n: 2 }), "ok");
      await heard.nth(2);
      assert.deepEqual(heard.all, [{ n: 1 }, { n: 2 }]);
      await assert.rejects(connect(t, { key: FORGED_KEY }).channel("a/b ü").httpSend("said", { n: 3 }), /invalid token/);
      assert.equal(await say(connect(t, { key: FORGED_KEY }).channel("a/b ü"), { n: 3 }), "error");
    });

    test("a message over HTTP reaches a private channel if its sender may write there", async (t) => {
      const listener = connect(t, { user: userToken("ann") }).channel("secret", privately);
      const heard = hearing(listener);
      await subscribed(listener);
      const send = async (options, payload) => {
        const supabase = connect(t, options);
        await supabase.realtime.setAuth();
        return supabase.channel("secret", privately).httpSend("said", payload);
      };
      assert.deepEqual(await send({ user: userToken("bob") }, { n: 1 }), { success: true });
      assert.deepEqual(await send({ key: SERVICE_KEY }, { n: 2 }), { success: true });
      await assert.rejects(send({}, { n: 3 }), /does not allow/);
      await assert.rejects(send({ user: userToken("bob", -60) }, { n: 4 }), /token expired/);
      await heard.nth(2);
      assert.deepEqual(heard.all, [{ n: 1 }, { n: 2 }]);
    });
  });

  test(`${version.name} comes back after a restart of the server`, async (t) => {
    const { bench, server } = await serve(t);
    const channel = client(t, version, server, { user: userToken("ann") }).channel("secret", { config: { ...own.config, private: true } });
    const heard = hearing(channel);
    const { states } = await subscribed(channel);
    await channel.track({ here: true });
    await say(channel, { n: 1 });
    await heard.nth(1);
    await server.stop();
    await states.when("an error", (all) => all.some(([state]) => state === "CHANNEL_ERROR"));
    await bench.run({ port: server.port });
    await states.when("the second subscription", (all) => all.filter(([state]) => state === "SUBSCRIBED").length === 2);
    await say(channel, { n: 2 });
    assert.deepEqual(await heard.nth(2), { n: 2 });
  });

  test(`a reload in the middle of a conversation of ${version.name}`, async (t) => {
    const { bench, server } = await serve(t);
    const [speaker, listener] = [1, 2].map(() => client(t, version, server));
    const config = { config: { ...asked.config, presence: { key: "speaker" } } };
    const [speaking, listening] = [speaker.channel("talk", config), listener.channel("talk")];
    const heard = hearing(listening);
    listening.on("presence", { event: "sync" }, () => {});
    const states = [await subscribed(speaking), await subscribed(listening)].map(({ states }) => states);
    await speaking.track({ before: true });

    // The new code says so to those who join, so somebody joins again and again.
    const watch = async () => {
      for (let n = 0; ; n += 1) {
        const { system } = await subscribed(client(t, version, server).channel(`watch-${n}`));
        if ((await system.nth(1)).message === "Subscribed anew") return;
      }
    };
    let isNew = false;
    let last = Infinity;
    const deadline = Date.now() + 2 * DEADLINE_MS;
    for (let n = 1; n <= last; n += 1) {
      assert.equal(await say(speaking, { n }), "ok");
      if (n === 50) {
        bench.replace("realtime", "realtime-v2");
        watch().then(() => (isNew = true));
      }
      if (isNew && last === Infinity) last = n + 50;
      assert.ok(Date.now() < deadline, "the new code is heard in time");
    }
    await heard.nth(last);
    assert.deepEqual(heard.all.map(({ n }) => n), Array.from({ length: last }, (_, at) => at + 1), "each once, in order");
    assert.deepEqual(bare(listening.presenceState()), { speaker: [{ before: true }] });
    assert.equal(await speaking.track({ after: true }), "ok");
    assert.deepEqual(states.map(({ all }) => all.length), [1, 1], "nobody has joined anew");
    t.diagnostic(`${last} messages`);
  });

  test(`a crash of the channel of ${version.name} ends it alone, and it joins again`, async (t) => {
    const { server } = await serve(t, { build: "realtime-v2" });
    const [crashing, other] = [1, 2].map(() => client(t, version, server).channel("talk", own));
    const [heard, others] = [hearing(crashing), hearing(other)];
    const [{ states }, { states: calm }] = [await subscribed(crashing), await subscribed(other)];
    crashing.send({ type: "crash", event: "x", payload: {} });
    await states.when("an error", (all) => all.some(([state]) => state === "CHANNEL_ERROR"));
    await states.when("the second subscription", (all) => all.filter(([state]) => state === "SUBSCRIBED").length === 2);
    await say(crashing, { n: 1 });
    await heard.nth(1);
    assert.deepEqual(await others.nth(1), { n: 1 });
    assert.deepEqual(calm.all, [["SUBSCRIBED", undefined]]);
  });
}

describe("clients of both versions together", () => {
  const bench = new Realtime();
  let server;
  before(async () => (server = await bench.run()));
  after(() => bench.close());

  test("hear each other, and each in its own way what is bytes", async (t) => {
    const channels = versions.map((version) => client(t, version, server).channel("both"));
    const heard = channels.map((channel) => hearing(channel));
    for (const channel of channels) await subscribed(channel);
    const [modern, old] = channels;
    await say(modern, { n: 1 });
    assert.deepEqual(await heard[1].nth(1), { n: 1 });
    await say(old, { n: 2 });
    assert.deepEqual(await heard[0].nth(1), { n: 2 });
    const bytes = Uint8Array.from({ length: 300 }, (_, at) => at);
    await say(modern, bytes.buffer);
    assert.deepEqual(await heard[1].nth(2), { _binary: Buffer.from(bytes).toString("base64") });
  });

  test("bytes reach clients of the newest version as they were sent, over the socket and over HTTP", async (t) => {
    const [speaker, listener] = [client(t, newest, server).channel("bytes", asked), client(t, newest, server).channel("bytes")];
    const heard = hearing(listener, "pixels");
    for (const channel of [speaker, listener]) await subscribed(channel);
    const bytes = Uint8Array.from({ length: 1_000 }, (_, at) => at);
    assert.equal(await say(speaker, bytes.buffer, "pixels"), "ok");
    assert.equal(await say(speaker, new ArrayBuffer(0), "pixels"), "ok");
    assert.deepEqual(await speaker.httpSend("pixels", bytes), { success: true });
    await heard.nth(3);
    assert.ok(heard.all.every((payload) => payload instanceof ArrayBuffer));
    assert.deepEqual(heard.all.map((payload) => Buffer.from(payload)), [Buffer.from(bytes), Buffer.alloc(0), Buffer.from(bytes)]);
  });

  test("requests are let in by a key, bounded, and answered to pages of all origins", async (t) => {
    const channel = client(t, newest, server).channel("rest");
    const heard = hearing(channel);
    await subscribed(channel);
    const url = `${server.url}/realtime/v1/api/broadcast`;
    const message = (n, more) => ({ topic: "rest", event: "said", payload: { n }, ...more });
    const post = (body, headers = { apikey: ANON_KEY }, to = url) =>
      fetch(to, { method: "POST", headers, body: typeof body === "string" ? body : JSON.stringify(body) });
    const status = async (...request) => (await post(...request)).status;
    const several = { messages: [message(1), message(2, { private: false }), message(3, { topic: "elsewhere" })] };
    assert.equal(await status(several), 202);
    for (const [at, headers] of [{ "x-api-key": ANON_KEY }, { Authorization: `Bearer ${ANON_KEY}` }].entries()) {
      assert.equal(await status({ messages: [message(3 + at)] }, headers), 202);
    }
    assert.equal(await status({ messages: [message(5)] }, {}, `${url}?apikey=${ANON_KEY}`), 202);
    assert.equal(await status({ n: 6 }, undefined, `${url}/rest/events/said`), 202);
    await heard.nth(6);
    assert.deepEqual(heard.all.map(({ n }) => n), [1, 2, 3, 4, 5, 6]);

    for (const headers of [{}, { apikey: FORGED_KEY }, { apikey: ANON_KEY, Authorization: `Bearer ${FORGED_KEY}` }]) {
      const refused = await post(several, headers);
      assert.equal(refused.status, 401);
      assert.equal(refused.headers.get("access-control-allow-origin"), "*");
      assert.equal(typeof (await refused.json()).error, "string");
    }
    for (const bad of ["", "[]", "{", "7", "{}", { messages: [{}] }, { messages: [message(1, { topic: "" })] }, { messages: 7 }]) {
      assert.equal(await status(bad), 422, JSON.stringify(bad));
    }
    assert.equal(await status("no JSON", undefined, `${url}/rest/events/said`), 422);
    assert.equal(await status({ messages: Array(101).fill(message(1)) }), 413);
    assert.equal(await status("x".repeat(2 ** 20 + 1)), 413);
    assert.equal(await status({}, undefined, `${url}/rest/events`), 404);
    // A private channel that the sender may not write to keeps no other message back.
    const mixed = { messages: [message(0, { private: true }), message(7)] };
    assert.equal(await status(mixed), 403);
    assert.deepEqual(await heard.nth(7), { n: 7 });

    const preflight = await fetch(url, {
      method: "OPTIONS",
      headers: { Origin: "https://app.example", "Access-Control-Request-Headers": "apikey,authorization,content-type" },
    });
    assert.equal(preflight.status, 200);
    assert.equal(preflight.headers.get("access-control-allow-origin"), "*");
    assert.equal(preflight.headers.get("access-control-allow-headers"), "apikey,authorization,content-type");
    assert.equal((await fetch(url)).status, 405);
  });

  test("a client that speaks no frame of this dialect is told, and others are not concerned", async (t) => {
    const channel = client(t, newest, server).channel("frames", own);
    const heard = hearing(channel);
    const { states } = await subscribed(channel);
    const { default: WebSocket } = await import("ws");
    for (const frame of [Buffer.from([0, 1, 1, 1, 1, 49, 49, 49, 49]), Buffer.from([3, 255, 0, 0, 0, 0, 1])]) {
      const socket = new WebSocket(server.at(`/realtime/v1/websocket?vsn=2.0.0&apikey=${ANON_KEY}`));
      const closed = new Promise((resolve) => socket.on("close", (code) => resolve(code)));
      socket.on("open", () => socket.send(frame));
      assert.equal(await closed, 1011);
    }
    await server.line(/the only binary frames that a client of Supabase sends are of kind 3/);
    await server.line(/a binary frame ends inside its header/);
    await say(channel, { n: 1 });
    assert.deepEqual(await heard.nth(1), { n: 1 });
    assert.equal(states.all.length, 1);
  });
});

test("rules name who may read and write, by the claims of a token", async (t) => {
  const more = `
[[plugins.realtime.settings.private]]
channel = "user:{sub}:*"

[[plugins.realtime.settings.private]]
channel = "news"
roles = ["anon", "authenticated"]
write = false
`;
  const { server } = await serve(t, { more });
  const join = (options, name) => subscribe(client(t, newest, server, options).channel(name, { config: { ...asked.config, private: true } }));
  assert.equal((await join({ user: userToken("7") }, "user:7:inbox")).state, "SUBSCRIBED");
  assert.equal((await join({ user: userToken("8") }, "user:7:inbox")).state, "CHANNEL_ERROR");
  const { state, channel } = await join({}, "news");
  assert.equal(state, "SUBSCRIBED");
  assert.equal(await say(channel, { n: 1 }), "error");
  assert.equal(await channel.track({}), "error");
  const heard = hearing(channel);
  const editor = await join({ key: SERVICE_KEY }, "news");
  assert.equal(await say(editor.channel, { n: 2 }), "ok");
  assert.deepEqual(await heard.nth(1), { n: 2 });
});

test("a message over HTTP that is refused leaves no topic behind", async (t) => {
  const admin = '[admin]\nlisten = "127.0.0.1:0"\n';
  const { server } = await serve(t, { plugin: "linger_ms = 3_600_000", more: admin });
  for (let n = 0; n < 20; n++) {
    const url = `${server.url}/realtime/v1/api/broadcast/secret-${n}/events/said?private=true`;
    const { status } = await fetch(url, { method: "POST", headers: { apikey: ANON_KEY }, body: "{}" });
    assert.equal(status, 403);
  }
  const [, url] = await within("address", server.line(/^admin on (http:\S+)/));
  const topics = async () => {
    const plugins = await (await fetch(`${url}/plugins`)).json();
    return plugins.find(({ name }) => name === "realtime").topics;
  };
  await within("their end", (async () => { while ((await topics()) > 0); })());
});

test("what is to be private is never sent to the public channel", async (t) => {
  const { server } = await serve(t);
  for (const query of ["private", "private=1", "private=TRUE", "Private=true", "private=true&private=false"]) {
    const url = `${server.url}/realtime/v1/api/broadcast/a/events/said?${query}`;
    const answer = await fetch(url, { method: "POST", headers: { apikey: ANON_KEY }, body: "{}" });
    assert.equal(answer.status, 422, query);
    assert.match((await answer.json()).error, /`private` in the query must be/);
  }
});

/** In frames, as no client library shows a token on one of its channels only. */
for (const [name, pipelined] of [["all channels of its connection", false], ["channels whose join is on its way", true]]) {
  test(`a token counts for ${name}`, async (t) => {
    const more = '[[plugins.realtime.settings.private]]\nchannel = "user:{sub}:*"\n';
    const { server } = await serve(t, { more });
    const socket = new WebSocket(server.at(`/realtime/v1/websocket?vsn=2.0.0&apikey=${ANON_KEY}`));
    t.after(() => socket.terminate());
    const inbox = new Inbox();
    socket.on("message", (text) => inbox.put(JSON.parse(text)));
    await within("connection", new Promise((resolve) => socket.on("open", resolve)));
    const send = (...frame) => socket.send(JSON.stringify(frame));
    const seen = (what, wanted) => inbox.when(what, (all) => all.some(wanted));
    const reply = (ref) => seen(`reply ${ref}`, ([, of, , event]) => of === ref && event === "phx_reply");
    const user = (sub) => ({ access_token: userToken(sub) });
    send("1", "1", "realtime:open", "phx_join", { config: {}, ...user("7") });
    send("2", "2", "realtime:user:7:a", "phx_join", { config: { private: true }, ...user("7") });
    if (!pipelined) {
      await reply("1");
      await reply("2");
    }
    send("1", "3", "realtime:open", "access_token", user("8"));
    const frames = await seen("end of the private channel", ([own, , , event]) => own === "2" && event === "phx_close");
    const told = frames.find(([own, , , event, payload]) => own === "2" && event === "system" && payload.status === "error");
    assert.match(told[4].message, /Unauthorized/);
    // The other channel goes on.
    send("1", "4", "realtime:open", "presence", { type: "presence", event: "track", payload: {} });
    await reply("4");
    assert.ok(!inbox.all.some(([own, , , event]) => own === "1" && event === "phx_close"));
  });
}

test("what is present on a channel has a limit, and whoever joins gets all of it", async (t) => {
  const { server } = await serve(t, { plugin: "max_presence_bytes = 2_000" });
  const present = (key) => ({ config: { presence: { key } } });
  const [ann, bob] = ["ann", "bob"].map((key) => client(t, newest, server).channel("crowd", present(key)));
  await subscribed(ann);
  await subscribed(bob);
  assert.equal(await ann.track({ me: "a".repeat(1_500) }), "ok");
  assert.equal(await bob.track({ me: "b".repeat(1_500) }), "error");
  assert.equal(await bob.track({ me: "b" }), "ok");
  const late = client(t, newest, server).channel("crowd", present("late"));
  const states = new Inbox();
  late.on("presence", { event: "sync" }, () => states.put(Object.keys(late.presenceState())));
  await subscribed(late);
  await states.when("the list", (all) => all.some((keys) => keys.length === 2));
});
