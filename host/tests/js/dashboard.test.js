// The dashboard of the admin listener, in a real browser against a real server.

import assert from "node:assert/strict";
import { test } from "node:test";

import WebSocket from "ws";

import { fits, isShown, logIn, openDashboard, SECRET } from "./dashboard.js";

const GATE = '\n[[mounts]]\npath = "/gate"\nconnect = "misbehave"\n';

/** A client that has joined a topic of `echo`; with a socket id if it has a name. */
async function client(server, { topic = "echo:1", name } = {}) {
  const query = name === undefined ? "" : `&token=open&user=${name}`;
  const socket = new WebSocket(`${server.at(name === undefined ? "/socket" : "/gate")}/websocket?vsn=2.0.0${query}`);
  const closed = new Promise((resolve) => socket.once("close", resolve));
  await new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
  const joined = new Promise((resolve) => socket.once("message", resolve));
  socket.send(JSON.stringify(["1", "1", topic, "phx_join", {}]));
  assert.match(String(await joined), /"ok"/);
  return { socket, closed, say: (event, payload) => socket.send(JSON.stringify(["1", "2", topic, event, payload])) };
}

async function confirm(page) {
  await page.locator("#confirm[open]").waitFor();
  await page.click("#confirm-yes");
}

const change = (page, text) => page.locator("#changes li", { hasText: text }).first();

test("whoever knows the secret logs in, and nobody else", async (t) => {
  const { page, errors, admin, context } = await openDashboard(t, { secret: SECRET });
  await page.locator("#log-in").waitFor();
  assert.equal(new URL(page.url()).pathname, "/dashboard/");
  assert.equal(await page.locator("#dashboard").isVisible(), false);
  await logIn(page, "another secret of this length");
  await page.locator("#log-in-error", { hasText: "This is not the secret." }).waitFor();
  await logIn(page, SECRET, "ann");
  await isShown(page);
  assert.match(await page.innerText("#operator"), /^ann, 127\.0\.0\.1$/);
  await page.locator("#ready", { hasText: /^ready$/ }).waitFor();

  const [cookie] = await context.cookies();
  assert.deepEqual([cookie.httpOnly, cookie.sameSite, cookie.name], [true, "Strict", `bennu_admin_${new URL(admin).port}`]);
  assert.equal(await page.evaluate(() => document.cookie), "");

  await page.reload();
  await isShown(page);
  await page.click("#log-out");
  await page.locator("#log-in").waitFor();
  // The session is over, not only forgotten by the browser.
  const answer = await fetch(`${admin}/overview`, { headers: { cookie: `${cookie.name}=${cookie.value}` } });
  assert.equal(answer.status, 401);
  assert.deepEqual(errors, []);
});

test("after too many wrong secrets an address has to wait, and who is logged in stays so", async (t) => {
  const { page, admin } = await openDashboard(t, { secret: SECRET, more: "" });
  await logIn(page, SECRET);
  await isShown(page);
  const shown = (secret) => fetch(`${admin}/overview`, { headers: { authorization: `Bearer ${secret}` } });
  for (let attempt = 0; attempt < 10; attempt++) assert.equal((await shown(`wrong secret number ${attempt}`)).status, 401);
  const refused = await shown(SECRET);
  assert.equal(refused.status, 429);
  assert.ok(Number(refused.headers.get("retry-after")) > 0);
  assert.equal((await page.reload()).status(), 200);
  await isShown(page);
});

test("without a secret there is nothing to log in to", async (t) => {
  const { page, errors, server } = await openDashboard(t);
  await isShown(page);
  assert.equal(await page.locator("#who").isVisible(), false);
  for (const path of ["/dashboard/", "/session", "/overview", "/history"]) {
    assert.equal((await fetch(server.url + path)).status, 404, `${path} is not where clients connect`);
  }
  assert.deepEqual(errors, []);
});

test("a client is found by its socket id, its number and its address, and disconnected", async (t) => {
  const { page, server, errors } = await openDashboard(t, { secret: SECRET, more: GATE });
  const ann = await client(server, { topic: "misbehave:1", name: "ann" });
  const other = await client(server);
  await logIn(page, SECRET, "eve");
  await isShown(page);

  const find = async (text) => {
    await page.fill("#client", text);
    await page.click("#search-form button");
  };
  await find("nobody");
  await page.locator("#found", { hasText: "knows nothing of nobody" }).waitFor();
  await find("127.0.0.1");
  await page.locator("#found h3", { hasText: "2 clients connected" }).waitFor();
  await find("user:ann");
  await page.locator("#found h3", { hasText: "1 client connected" }).waitFor();
  const number = await page.getAttribute("#found [data-connection]", "data-connection");
  await find(number);
  await page.locator(`#found [data-connection="${number}"]`).waitFor();

  await page.click("#found .open button");
  await page.click("#confirm-no");
  assert.equal(ann.socket.readyState, WebSocket.OPEN, "it was only asked about");
  await find("user:ann");
  await page.getByRole("button", { name: "Disconnect socket id user:ann", exact: true }).click();
  await confirm(page);
  assert.equal(await ann.closed, 1001);
  await page.locator("#done", { hasText: "1 client disconnected" }).waitFor();
  await page.locator("#closes [data-reason=disconnected_by_operator]").waitFor();
  await change(page, "1 client disconnected (socket id user:ann)").waitFor();
  await server.line(/clients disconnected by an operator.*by="eve, 127\.0\.0\.1"/);
  assert.equal(other.socket.readyState, WebSocket.OPEN);
  other.socket.close();
  assert.deepEqual(errors, []);
});

test("a reload and a rollback appear, whoever asked for them", async (t) => {
  const { page, bench, errors } = await openDashboard(t, {
    secret: SECRET,
    libraries: { misbehave: "misbehave" },
  });
  await logIn(page, SECRET, "eve");
  await isShown(page);
  const generation = (number) => page.locator(`#plugins tr[data-generation="${number}"]`);
  // Code that has proved itself is stored: to that one can go back at any time.
  await generation(1).getByText("in service").waitFor({ timeout: 30_000 });
  bench.replace("misbehave", "misbehave-v2");
  await generation(2).waitFor({ timeout: 30_000 });
  await change(page, "generation 2 (version").waitFor();

  await page.getByRole("button", { name: "Roll misbehave back" }).click();
  await confirm(page);
  // To the code that still waits for the end of the probation, or to the stored library, which becomes a new generation.
  const rollback = change(page, /generation 2 to \d+ after an operator's request/);
  await rollback.waitFor({ timeout: 30_000 });
  await change(page, "rollback asked for by eve, 127.0.0.1").waitFor();
  const back = Number((await rollback.innerText()).match(/to (\d+) after/)[1]);
  await generation(back).waitFor();
  const next = Math.max(2, back) + 1;
  const lift = page.getByRole("button", { name: /^Lift the quarantine of/ });
  await lift.click();
  await confirm(page);
  await generation(next).waitFor({ timeout: 30_000 });
  await lift.waitFor({ state: "detached" });

  await page.getByRole("button", { name: "Reload misbehave" }).click();
  await confirm(page);
  await generation(next + 1).waitFor({ timeout: 30_000 });
  assert.deepEqual(errors, []);
});

test("a close appears with its reason, what it means, and in the last hour", async (t) => {
  const { page, server, errors } = await openDashboard(t, { more: "\n[limits]\nmax_message_bytes = 1_000\n" });
  await isShown(page);
  const { closed, say } = await client(server);
  say("echo", { text: "x".repeat(2_000) });
  assert.equal(await closed, 1009);
  const entry = page.locator("#closes [data-reason=message_too_large]");
  await entry.locator("summary").click();
  await entry.getByText("raise `[limits] max_message_bytes`").waitFor();
  const series = page.locator('#hour tr[data-kind=closed][data-name=message_too_large][data-total="1"]');
  await series.waitFor({ timeout: 15_000 });
  await page.selectOption("#reason", "idle");
  await entry.waitFor({ state: "detached" });
  await page.selectOption("#reason", "");
  await entry.waitFor();
  assert.deepEqual(errors, []);
});

test("no answer holds a secret, a token, a param or a payload", async (t) => {
  const hidden = ["s3cret-token-of-ann", "s3cret-payload", SECRET, "the tests' own sixty-four bytes"];
  const { page, server, answers, context } = await openDashboard(t, { secret: SECRET, more: GATE });
  const socket = new WebSocket(`${server.at("/gate")}/websocket?vsn=2.0.0&token=open&user=ann&api_key=${hidden[0]}`);
  await new Promise((resolve) => socket.once("open", resolve));
  const joined = new Promise((resolve) => socket.once("message", resolve));
  socket.send(JSON.stringify(["1", "1", "misbehave:1", "phx_join", { password: hidden[0] }]));
  await joined;
  socket.send(JSON.stringify(["1", "2", "misbehave:1", "say", { body: hidden[1] }]));
  await logIn(page, SECRET);
  await isShown(page);
  await page.fill("#client", "user:ann");
  await page.click("#search-form button");
  await page.locator("#found .open").waitFor();
  socket.close();
  await page.locator("#closes [data-reason=client_closed]").waitFor();
  const [{ value: session }] = await context.cookies();
  const paths = new Set(answers.map(({ url }) => new URL(url).pathname));
  for (const path of ["/overview", "/history", "/closes", "/why", "/reasons", "/session"]) assert.ok(paths.has(path), path);
  for (const { url, head, text } of answers) {
    for (const word of hidden) assert.ok(!text.includes(word) && !head.includes(word), `${url} holds ${word}`);
    assert.ok(!text.includes(session), `${url} holds the id of the session`);
  }
  assert.ok(!server.log.includes(SECRET) && !server.log.includes(session));
});

test("the page may load nothing from elsewhere, and other pages may not have it do anything", async (t) => {
  const { page, admin, context } = await openDashboard(t, { secret: SECRET });
  await logIn(page, SECRET);
  await isShown(page);
  const policy = (await page.reload()).headers()["content-security-policy"];
  for (const part of ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"]) assert.ok(policy.includes(part), policy);
  const [{ name, value }] = await context.cookies();
  const from = async (headers, method = "PUT") => {
    const answer = await fetch(`${admin}/plugins/echo/reload`, { method, headers: { cookie: `${name}=${value}`, ...headers } });
    return answer.status;
  };
  assert.equal(await from({ origin: admin }), 202);
  assert.equal(await from({ origin: "http://localhost:3000" }), 403);
  assert.equal(await from({ origin: "null" }), 403);
  assert.equal(await from({ "sec-fetch-site": "same-site" }), 403);
  assert.equal(await from({ origin: admin }, "POST"), 405);
  // A page on another port of this host is another origin, although it has the cookie sent.
  const other = await context.newPage();
  await other.goto(`${admin}/health`);
  await other.goto("about:blank");
  const done = await other.evaluate(async (url) => {
    const answer = await fetch(url, { method: "PUT", mode: "no-cors", credentials: "include" }).catch(() => "refused");
    return answer === "refused" ? answer : answer.type;
  }, `${admin}/plugins/echo/reload`);
  assert.equal(done, "refused");
});

for (const colorScheme of ["light", "dark"]) {
  for (const viewport of [{ width: 1280, height: 900 }, { width: 390, height: 844 }]) {
    test(`nothing is too wide in a window of ${viewport.width} pixels, ${colorScheme}`, async (t) => {
      const { page, server, errors } = await openDashboard(t, { secret: SECRET, more: GATE, viewport, colorScheme });
      assert.equal(await fits(page), true, "the login");
      const { socket } = await client(server, { topic: `misbehave:${"long".repeat(40)}`, name: "a".repeat(120) });
      await logIn(page, SECRET, "x".repeat(40));
      await isShown(page);
      await page.locator("#topics tbody tr").waitFor({ timeout: 15_000 });
      await page.fill("#client", `user:${"a".repeat(120)}`);
      await page.click("#search-form button");
      await page.locator("#found .open").waitFor();
      assert.equal(await fits(page), true, "the dashboard");
      socket.close();
      assert.deepEqual(errors, []);
    });
  }
}
