// Real clients against several nodes, each request of theirs to the next one.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import WebSocket from "ws";

import { openBrowser } from "./browser.js";
import { answer, clients, connect, Inbox, join, witness } from "./clients.js";
import { Cluster } from "./cluster.js";
import { isShown, listen } from "./dashboard.js";

describe("three nodes behind a proxy", () => {
  let cluster;
  before(async () => (cluster = await Cluster.start(3)));
  after(() => cluster.close());

  for (const client of clients) {
    test(`${client.name}: joins, pushes, hears others, and keeps its connection`, async (t) => {
      const connection = connect(t, client, cluster);
      const other = await join(connect(t, witness, cluster).socket, "echo:shared");
      for (let number = 0; number < 8; number += 1) {
        const topic = `echo:${number}`;
        const { channel } = await join(connection.socket, topic);
        const payload = { number, text: "grüße 🐦" };
        assert.deepEqual(await answer(channel.push("echo", payload)), { status: "ok", response: payload });
      }
      const { channel } = await join(connection.socket, "echo:shared");
      const inboxes = [channel, other.channel].map((channel) => Inbox.of(channel, "shout"));
      for (let n = 0; n < 20; n += 1) (n % 2 ? channel : other.channel).push("shout", { n });
      for (const inbox of inboxes) {
        await inbox.nth(20);
        const heard = inbox.all.map(({ n }) => n);
        assert.deepEqual(heard.toSorted((a, b) => a - b), Array.from({ length: 20 }, (_, n) => n));
        if (client.inOrder) {
          const of = (part) => heard.filter((n) => n % 2 === part);
          assert.deepEqual([of(0), of(1)], [of(0).toSorted((a, b) => a - b), of(1).toSorted((a, b) => a - b)]);
        }
      }
      assert.equal(connection.opens, 1);
    });
  }

  test("the dashboard of one node shows the others, and disconnects their clients", async (t) => {
    const [first, , last] = cluster.nodes;
    const client = new WebSocket(`${last.at("/socket")}/websocket?vsn=2.0.0`);
    const closed = new Promise((resolve) => client.once("close", resolve));
    await new Promise((resolve, reject) => client.once("open", resolve).once("error", reject));
    const [, admin] = await first.line(/^admin on (http:\S+)/);
    const page = await (await openBrowser(t)).newPage();
    page.setDefaultTimeout(10_000);
    const { errors } = listen(page);
    await page.goto(admin);
    await isShown(page);
    const version = (node) => page.locator("#version", { hasText: `process ${node.pid}` }).waitFor();
    await version(first);
    assert.deepEqual(await page.locator("#node option").allInnerTexts(), ["node0", "node1", "node2"]);
    await page.selectOption("#node", "node2");
    await version(last);

    await page.fill("#client", "127.0.0.1");
    await page.click("#search-form button");
    await page.locator("#found .open", { hasText: "on node node2" }).getByRole("button").click();
    await page.locator("#confirm[open]").waitFor();
    await page.click("#confirm-yes");
    assert.equal(await closed, 1001);
    await page.locator("#done", { hasText: "1 client disconnected" }).waitFor();
    await page.selectOption("#node", "node0");
    await version(first);
    await page.locator("#closes [data-reason=disconnected_by_operator]", { hasText: "node node2" }).waitFor();
    assert.deepEqual(errors, []);
  });

  test("what they asked for was carried from node to node", async () => {
    const carried = await Promise.all(cluster.nodes.map(async (node) => {
      const [, admin] = await node.line(/^admin on (http:\S+)/);
      const metrics = await (await fetch(`${admin}/metrics`)).text();
      return Number(metrics.match(/^bennu_cluster_answers_in_total (\d+)$/m)[1]);
    }));
    // The proxy takes turns, but not evenly among clients that poll at their own pace.
    assert.ok(carried.every((count) => count > 0), `${carried} answers`);
    assert.ok(carried.reduce((sum, count) => sum + count) > 100, `${carried} answers`);
  });
});
