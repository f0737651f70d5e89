// Real clients against the real server: what they ask for, what they get, and that they come back.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { answer, clients, connect, fallingBack, Inbox, join, witness } from "./clients.js";
import { Bench } from "./server.js";

const bytes = (...values) => new Uint8Array(values).buffer;

for (const client of clients) {
  describe(client.name, () => {
    const bench = new Bench();
    let server;
    before(async () => (server = await bench.serve()));
    after(() => bench.close());

    test("joins, pushes, and is answered", async (t) => {
      const { socket } = connect(t, client, server);
      const { channel } = await join(socket, "echo:a");
      const payload = { text: "grüße 🐦", list: [1, null, { deep: true }] };
      assert.deepEqual(await answer(channel.push("echo", payload)), { status: "ok", response: payload });
    });

    test("is told that an event is unknown, and stays joined", async (t) => {
      const { socket } = connect(t, client, server);
      const { channel } = await join(socket, "echo:a");
      assert.equal((await answer(channel.push("no such event"))).status, "error");
      assert.equal((await answer(channel.push("echo", { n: 1 }))).status, "ok");
    });

    test("is told why a join is refused", async (t) => {
      const { socket } = connect(t, client, server);
      const nameless = socket.channel("room:refusing", {});
      const { status, response } = await answer(nameless.join());
      assert.equal(status, client.refusal);
      nameless.leave();
      const nowhere = socket.channel("nowhere:1");
      const joined = nowhere.join();
      if (client.givesReasons) {
        assert.match(JSON.stringify(response), /name/);
        assert.deepEqual(await answer(joined), { status: "error", response: { reason: "unmatched topic" } });
      } else {
        assert.deepEqual(response, {});
        await join(socket, "echo:a");
        assert.equal(nowhere.state, "joining", "what no route takes is not answered");
      }
      nowhere.leave();
    });

    test("hears what others say, and itself", async (t) => {
      const one = await join(connect(t, client, server).socket, "echo:shared");
      const two = await join(connect(t, client, server).socket, "echo:shared");
      const apart = await join(connect(t, client, server).socket, "echo:apart");
      const inboxes = [one, two, apart].map(({ channel }) => Inbox.of(channel, "shout"));
      one.channel.push("shout", { n: 1 });
      one.channel.push("shout", { n: 2 });
      for (const inbox of inboxes.slice(0, 2)) {
        await inbox.nth(2);
        const heard = client.inOrder ? inbox.all : inbox.all.toSorted((a, b) => a.n - b.n);
        assert.deepEqual(heard, [{ n: 1 }, { n: 2 }]);
      }
      apart.channel.push("shout", { n: 3 });
      await inboxes[2].nth(1);
      assert.deepEqual(inboxes[2].all, [{ n: 3 }]);
    });

    test("sends bytes, which arrive as they are", { skip: !client.sendsBytes }, async (t) => {
      const { channel } = await join(connect(t, client, server).socket, "echo:binary");
      const other = await join(connect(t, witness, server).socket, "echo:binary");
      const inbox = Inbox.of(other.channel, "shout");
      const payload = bytes(0, 1, 255, 128, 10, 13, 0);
      channel.push("shout", payload);
      assert.deepEqual(await inbox.nth(1), payload);
      if (!client.hearsBytes) return;
      assert.deepEqual(await answer(channel.push("echo", payload)), { status: "ok", response: payload });
      const own = Inbox.of(channel, "shout");
      channel.push("shout", bytes());
      assert.deepEqual(await own.nth(1), bytes());
    });

    test("leaves, and can come again", async (t) => {
      const { socket } = connect(t, client, server);
      const { channel } = await join(socket, "echo:left");
      const left = Inbox.of(channel, "shout");
      assert.equal((await answer(channel.leave())).status, "ok");
      const again = await join(socket, "echo:left");
      const inbox = Inbox.of(again.channel, "shout");
      again.channel.push("shout", { n: 1 });
      await inbox.nth(1);
      assert.deepEqual(left.all, []);
    });

    test("joins again after its channel has crashed, over the same connection", async (t) => {
      const connection = connect(t, client, server);
      const neighbour = await join(connection.socket, "echo:neighbour");
      const channel = connection.socket.channel("misbehave:crash");
      const joins = new Inbox();
      const errors = new Inbox();
      channel.onError((payload) => errors.put(payload));
      channel.join().receive("ok", (response) => joins.put(response));
      await joins.nth(1);
      channel.push("panic");
      assert.deepEqual(await errors.nth(1), client.givesReasons ? { reason: "channel_crash" } : {});
      await joins.nth(2);
      assert.equal((await answer(neighbour.channel.push("echo", {}))).status, "ok");
      assert.equal(connection.opens, 1);
    });

    test("sees who is there, and who has gone", async (t) => {
      const names = async (name) => {
        const { socket } = connect(t, client, server);
        const channel = socket.channel("room:presence", { name });
        const presence = new client.Presence(channel);
        const lists = new Inbox();
        presence.onSync(() => lists.put(presence.list((key) => key).sort()));
        assert.equal((await answer(channel.join())).status, "ok");
        return { channel, lists, are: (list) => lists.when(`${name} seeing ${list}`, (all) => `${all.at(-1)}` === `${list}`) };
      };
      const ada = await names("Ada");
      await ada.are(["Ada"]);
      const other = client.anyName ? "__proto__" : "Zoe";
      const { channel, are } = await names(other);
      await are(["Ada", other]);
      await ada.are(["Ada", other]);
      channel.leave();
      await ada.are(["Ada"]);
    });

    test("comes back when the server does", async (t) => {
      const other = new Bench({ echo: "echo" });
      t.after(() => other.close());
      const first = await other.serve();
      const connection = connect(t, client, first);
      const channel = connection.socket.channel("echo:a");
      const joins = new Inbox();
      channel.join().receive("ok", (response) => joins.put(response));
      await joins.nth(1);
      await first.stop();
      await other.serve(first.port);
      await joins.nth(2);
      assert.deepEqual(await answer(channel.push("echo", { n: 1 })), { status: "ok", response: { n: 1 } });
      assert.equal(connection.opens, 2);
    });
  });
}

describe("where there is no WebSocket", () => {
  const bench = new Bench({ echo: "echo" });
  let server;
  before(async () => (server = await bench.serve()));
  after(() => bench.close());

  for (const client of fallingBack) {
    test(`${client.name} takes long polling`, async (t) => {
      const connection = connect(t, client, server);
      const { channel } = await join(connection.socket, "echo:a");
      assert.deepEqual(await answer(channel.push("echo", { n: 1 })), { status: "ok", response: { n: 1 } });
      assert.equal(connection.opens, 1);
    });
  }
});
