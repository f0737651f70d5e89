// An app for Supabase in Chromium: a chat with presence and cursors, of which only the URL and the key are Bennu's.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { openBrowser } from "./browser.js";
import { DEADLINE_MS } from "./server.js";
import { ANON_KEY, serve, userToken, versions } from "./supabase.js";

const APP = readFileSync(fileURLToPath(new URL("supabase-chat.html", import.meta.url)), "utf8");

/** A page of an app with this version of supabase-js, from an origin of its own. */
async function visit(t, browser, version, html, settings) {
  const files = {
    "/": ["text/html", html],
    "/supabase.js": ["text/javascript", readFileSync(version.umd)],
    "/settings.js": ["text/javascript", `const APP = ${JSON.stringify(settings)};`],
  };
  const site = createServer((request, response) => {
    const [type, body] = files[request.url] ?? ["text/plain", ""];
    response.setHeader("content-type", type).end(body);
  });
  await new Promise((resolve) => site.listen(0, "127.0.0.1", resolve));
  t.after(() => site.close());
  const page = await browser.newPage();
  page.setDefaultTimeout(DEADLINE_MS);
  page.errors = [];
  page.on("pageerror", (error) => page.errors.push(error.message));
  await page.goto(`http://127.0.0.1:${site.address().port}/`);
  return page;
}

const EMPTY = '<script src="supabase.js"></script>';

/** Somebody's tab with the app. */
async function open(t, browser, version, server, name, colour) {
  const page = await visit(t, browser, version, APP, { url: server.url, key: ANON_KEY, name, colour });
  await page.locator("#state", { hasText: /^SUBSCRIBED$/ }).waitFor();
  const tab = { page };
  tab.say = async (body) => {
    await page.fill("#body", body);
    await page.press("#body", "Enter");
  };
  tab.hears = (body) => page.locator("#messages li").getByText(body, { exact: true }).waitFor();
  tab.sees = (...names) => page.waitForFunction(
    (names) => [...document.querySelectorAll("#online li")].map(({ dataset }) => dataset.name).sort().join() === names,
    names.sort().join(),
  );
  tab.messages = () => page.$$eval("#messages li", (items) => items.map((item) => [item.dataset.name, item.textContent]));
  return tab;
}

test("people in tabs of both versions chat, see who is there, and each other's cursors, over a reload and a restart", async (t) => {
  const { bench, server } = await serve(t);
  const browser = await openBrowser(t);
  const [newest, old] = versions;
  const ann = await open(t, browser, newest, server, "ann", "red");
  const bob = await open(t, browser, old, server, "bob", "blue");
  for (const tab of [ann, bob]) await tab.sees("ann", "bob");
  assert.equal(await ann.page.getAttribute('#online [data-name="bob"]', "data-colour"), "blue");

  await ann.say("grüße 🐦");
  await bob.hears("grüße 🐦");
  await bob.say("hello");
  for (const tab of [ann, bob]) await tab.hears("hello");
  const said = [["ann", "grüße 🐦"], ["bob", "hello"]];
  assert.deepEqual(await ann.messages(), said);
  assert.deepEqual(await bob.messages(), said);

  for (const [from, name, to] of [[ann, "ann", bob], [bob, "bob", ann]]) {
    await from.page.hover("#room", { position: { x: 70, y: 30 } });
    await to.page.locator(`#room [data-name="${name}"][data-x="70"][data-y="30"]`).waitFor();
  }

  // A second tab of the same person, and its end.
  const again = await open(t, browser, newest, server, "ann", "red");
  await again.sees("ann", "bob");
  await again.page.close();
  await ann.say("still here");
  await bob.hears("still here");
  await bob.sees("ann", "bob");

  // New code, the same connections.
  bench.replace("realtime", "realtime-v2");
  const newCode = async () => {
    for (;;) {
      const probe = await visit(t, browser, newest, EMPTY);
      const message = await probe.evaluate(
        ([url, key]) => new Promise((resolve) => {
          const channel = window.supabase.createClient(url, key).channel("probe");
          channel.on("system", {}, ({ message }) => resolve(message)).subscribe();
        }),
        [server.url, ANON_KEY],
      );
      await probe.close();
      if (message === "Subscribed anew") return;
    }
  };
  await newCode();
  await ann.say("after the reload");
  for (const tab of [ann, bob]) await tab.hears("after the reload");
  for (const tab of [ann, bob]) await tab.sees("ann", "bob");
  assert.equal((await bob.messages()).length, 4);
  assert.deepEqual([ann.page.errors, bob.page.errors], [[], []]);

  await server.stop();
  for (const tab of [ann, bob]) await tab.page.locator("#state", { hasText: /CHANNEL_ERROR/ }).waitFor();
  await bench.run({ port: server.port });
  for (const tab of [ann, bob]) await tab.page.locator("#state", { hasText: /^SUBSCRIBED$/ }).waitFor({ timeout: 15_000 });
  for (const tab of [ann, bob]) await tab.sees("ann", "bob");
  await bob.say("after the restart");
  await ann.hears("after the restart");
  await bob.page.close();
  await ann.sees("ann");
});

for (const version of versions) {
  test(`${version.name} in a browser: private channels, bytes, and messages over HTTP from another origin`, async (t) => {
    const { server } = await serve(t);
    const browser = await openBrowser(t);
    const page = await visit(t, browser, version, EMPTY);
    const user = userToken("ann");
    const result = await page.evaluate(
      async ([url, key, user, hasBytes]) => {
        const create = (token) => window.supabase.createClient(url, key, { accessToken: async () => token });
        const privately = { config: { private: true, broadcast: { self: true, ack: true } } };
        const join = async (token) => {
          const client = create(token);
          await client.realtime.setAuth();
          const channel = client.channel("secret", privately);
          const heard = [];
          let two;
          const both = new Promise((resolve) => (two = resolve));
          channel.on("broadcast", { event: "said" }, ({ payload }) => {
            heard.push(payload instanceof ArrayBuffer ? [...new Uint8Array(payload)] : payload);
            if (heard.length === 2) two();
          });
          const state = await new Promise((resolve) => channel.subscribe((state, error) => resolve(error?.message ?? state)));
          return { client, channel, heard, both, state };
        };
        const guest = await join(key);
        const { client, channel, heard, both, state } = await join(user);
        const payload = hasBytes ? new Uint8Array([0, 255, 4]).buffer : { n: 1 };
        const sent = await channel.send({ type: "broadcast", event: "said", payload });
        const posted = await channel.httpSend("said", { n: 2 });
        await both;
        await client.removeAllChannels();
        await guest.client.removeAllChannels();
        return { guest: guest.state, state, sent, posted, heard };
      },
      [server.url, ANON_KEY, user, version.hasBytes],
    );
    assert.match(result.guest, /Unauthorized/);
    const first = version.hasBytes ? [0, 255, 4] : { n: 1 };
    assert.deepEqual(
      { ...result, guest: undefined },
      { guest: undefined, state: "SUBSCRIBED", sent: "ok", posted: { success: true }, heard: [first, { n: 2 }] },
    );
  });
}
