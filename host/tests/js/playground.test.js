// The page of `dev` as a newcomer sees it: in a workspace that `bennu new` has just made, whose plugin it knows nothing of.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { openBrowser } from "./browser.js";
import { Server, within } from "./server.js";
import { edit } from "./workspace.js";

/** A build on a small and busy machine. */
const BUILD_MS = 10 * 60_000;
const GREETER = "#routes [data-plugin=greeter]";

/** A plugin that `bennu new` has made, served by `bennu dev`, and a page of it. */
async function newcomer(t) {
  const folder = mkdtempSync(join(tmpdir(), "bennu-new-"));
  t.after(() => rmSync(folder, { recursive: true }));
  execFileSync(process.env.BENNU_BIN, ["new", "greeter"], { cwd: folder });
  const workspace = join(folder, "greeter");
  const config = join(workspace, "config/bennu.toml");
  const ports = '[server]\nlisten = "127.0.0.1:0"\n\n[admin]\nlisten = "127.0.0.1:0"\n\n';
  edit(config, "[[mounts]]", `${ports}[[mounts]]`);
  // One for all runs, so that only the first builds everything.
  const target = join(process.env.BENNU_DEMO_WORKSPACE ?? join(tmpdir(), "bennu-demo"), "target/new");
  mkdirSync(target, { recursive: true });
  const start = async (...listen) => {
    const server = await Server.start(["dev", ...listen], { cwd: workspace, env: { CARGO_TARGET_DIR: target }, readyWithinMs: BUILD_MS });
    t.after(() => server.stop());
    return server;
  };
  const server = await start();
  const browser = await openBrowser(t);
  const open = async () => {
    const page = await browser.newPage({ viewport: { width: 1040, height: 640 } });
    page.setDefaultTimeout(5_000);
    page.errors = [];
    page.on("pageerror", (error) => page.errors.push(error.message));
    page.on("console", (message) => message.type() === "error" && page.errors.push(message.text()));
    await page.goto(server.url);
    await page.locator("#connection[data-state=open]").waitFor();
    return page;
  };
  return { server, start, open, config, source: join(workspace, "plugins/greeter/src/lib.rs") };
}

async function joinFirst(page) {
  await page.click(`${GREETER} .route`);
  await page.locator("#join-state[data-state=joined]").waitFor();
}

async function push(page, event, payload) {
  await page.fill("#event", event);
  await page.fill("#payload", payload);
  await page.click("#push-button");
}

/** The last line of a kind that has this text. */
function frame(page, kind, text) {
  return page.locator(`#frames [data-kind=${kind}]`, { hasText: text });
}

/** A text that is all there to be read: nothing is cut off, to the right or below. */
async function wholly(item) {
  await item.waitFor({ timeout: BUILD_MS });
  const pre = item.locator("pre");
  const hidden = await pre.evaluate((box) => [box.scrollWidth - box.clientWidth, box.scrollHeight - box.clientHeight]);
  assert.deepEqual(hidden, [0, 0], "all of it is in sight");
  return pre.innerText();
}

test("the page shows the routes that are there, and a topic can be tried by hand", async (t) => {
  const { server, start, open, config, source } = await newcomer(t);
  const page = await open();

  await t.test("there is a route and no chat room", async () => {
    assert.match(await page.locator(`${GREETER}[data-topic="greeter:*"]`).innerText(), /greeter 0\.1\.0, generation 1/);
    assert.equal(await page.locator("#routes li").count(), 1);
    for (const id of ["chat", "tabs", "people"]) assert.equal(await page.locator(`#${id}`).isVisible(), false, id);
    assert.doesNotMatch(await page.locator("body").innerText(), /unmatched/);
    assert.equal(await page.inputValue("#topic"), "greeter:1");
  });

  await t.test("replies and pushes are shown", async () => {
    await joinFirst(page);
    const other = await open();
    await joinFirst(other);
    await push(page, "hello", '{"name": "ann"}');
    await frame(page, "reply", 'ok to hello {"greeting":"Hello, ann!","number":1}').waitFor();
    await frame(other, "heard", 'greeted {"greeting":"Hello, ann!","number":1}').waitFor();
    await other.close();
  });

  await t.test("mistakes are said", async () => {
    await push(page, "hello", "{name}");
    assert.match(await page.innerText("#push-error"), /not JSON/);
    await push(page, "hello", "{}");
    await frame(page, "reply", "error to hello").waitFor();
    assert.equal(await page.innerText("#push-error"), "");
    await page.fill("#topic", "nobody:1");
    await page.click("#join button");
    await page.locator("#join-state[data-state=errored]", { hasText: "unmatched topic" }).waitFor();
    await joinFirst(page);
  });

  await t.test("a reload is shown where the topic is tried", async () => {
    edit(source, '"Hello, {name}!"', '"Welcome, {name}!"');
    await page.locator('#frames .swap[data-generation="2"]', { hasText: "new code, same connection" }).waitFor({ timeout: BUILD_MS });
    await push(page, "hello", '{"name": "ann"}');
    await frame(page, "reply", '{"greeting":"Welcome, ann!","number":2}').waitFor();
    assert.match(await page.innerText("#status"), /Connected once.* 1\sreload since/);
    assert.match(await page.innerText(GREETER), /generation 2/);
    const [, inTerminal] = await within("line", server.line(/greeter generation 2: .*(probed in .*, 1 topic moved in \S+ \S+) \(/));
    assert.equal((await page.innerText("#events li")).replaceAll("\u00a0", " "), `greeter 0.1.0, generation 2: ${inTerminal}`);
  });

  await t.test("what does not compile is shown whole", async () => {
    const names = Array.from({ length: 40 }, (_, index) => `nobody_${index}`);
    edit(source, "topic.greet(&name)", `topic.greet(&[${names.join(", ")}])`);
    const why = await wholly(page.locator("#problems [data-event=build_failed]"));
    for (const name of names) assert.match(why, new RegExp(`cannot find value \`${name}\``));
    assert.match(why, /could not compile `greeter`/);
    assert.match(await page.innerText(GREETER), /0\.1\.0, generation 2 stays in service; the source does not compile/);
    await push(page, "hello", '{"name": "ann"}');
    await frame(page, "reply", '{"greeting":"Welcome, ann!","number":3}').waitFor();
    edit(source, `topic.greet(&[${names.join(", ")}])`, "topic.greet(&name)");
    await page.locator(`${GREETER}[data-state=idle]`).waitFor({ timeout: BUILD_MS });
    assert.equal(await page.locator("#problems li").count(), 0);
  });

  await t.test("a refusal is shown whole, to those who come later as well, and building the same again does not hide it", async () => {
    const field = `${"a_very_long_name_".repeat(12)}of_a_field`;
    edit(source, "    greeted: u64,", `    greeted: u64,\n    ${field}: u64,`);
    const refusal = (page) => wholly(page.locator("#problems [data-event=refused]"));
    assert.match(await refusal(page), new RegExp(`missing field \`${field}\``));
    const later = await open();
    assert.equal(await refusal(later), await refusal(page));
    for (const each of [page, later]) assert.match(await each.innerText(GREETER), /, generation \d+ stays in service; the newest code was rejected/);
    edit(source, "//! NAME".replace("NAME", "greeter"), "//!  greeter");
    // What it was refused over may be gone, so it is tried again.
    await page.locator(`${GREETER}[data-state=building]`).waitFor({ timeout: BUILD_MS });
    await page.locator(`${GREETER}[data-state=refused]`).waitFor({ timeout: BUILD_MS });
    assert.equal(await page.locator("#problems [data-event=refused]").count(), 1);
    assert.equal(server.log.match(/greeter: library rejected/g).length, 2);
    edit(source, `    ${field}: u64,\n`, "");
    await page.locator(`${GREETER}[data-state=idle]`).waitFor({ timeout: BUILD_MS });
    assert.equal(await page.locator("#problems li").count(), 0);
  });

  await t.test("routes come and go with the configuration, and its mistakes are shown whole", async () => {
    const second = '\n[[routes]]\ntopic = "hello"\nplugin = "greeter"\n';
    edit(config, 'topic = "greeter:*"\nplugin = "greeter"\n', `topic = "greeter:*"\nplugin = "greeter"\n${second}`);
    await page.locator('#routes [data-topic="hello"]').waitFor();
    edit(config, 'topic = "hello"', 'topik = "hello"');
    const refusal = (page) => wholly(page.locator("#problems [data-event=configuration_refused]"));
    assert.match(await refusal(page), /topik/);
    const later = await open();
    assert.equal(await refusal(later), await refusal(page), "who comes later is told as well");
    assert.equal(await later.locator("#problems li").count(), 1);
    edit(config, second.replace("topic", "topik"), "");
    for (const each of [page, later, await open()]) {
      await each.locator('#routes [data-topic="hello"]').waitFor({ state: "detached" });
      await each.locator(`${GREETER}[data-state=idle]`).waitFor();
      await each.locator("#problems li").waitFor({ state: "detached" });
    }
  });

  await t.test("a panic is shown with its place, to those who come later as well, until newer code is there", async () => {
    const [was, panics] = ["cx.broadcast_from(", 'if &*name == "eve" { panic!("nobody greets {}", &*name) }\n                cx.broadcast_from('];
    const swaps = page.locator("#frames .swap[data-generation]");
    const newer = swaps.nth(await swaps.count());
    edit(source, was, panics);
    await newer.waitFor({ timeout: BUILD_MS });
    const generation = await newer.getAttribute("data-generation");
    for (const [count, times] of [[1, ""], [2, " (2 times)"]]) {
      await page.locator("#join-state[data-state=joined]").waitFor();
      await push(page, "hello", '{"name": "eve"}');
      for (const each of [page, await open()]) {
        const panic = each.locator(`#panics li[data-count="${count}"]`);
        assert.match(await wholly(panic), /^nobody greets eve \(.*lib\.rs:\d+:\d+\)$/);
        const [text] = (await panic.innerText()).split("\n");
        assert.equal(text, `greeter, generation ${generation}, panicked: handle_in of hello in greeter:1${times}`);
      }
    }
    for (const text of ["phx_error", "join greeter:1", "ok to join"]) await page.locator("#frames .frame", { hasText: text }).last().waitFor();
    edit(source, panics, was);
    await page.locator("#panics li").waitFor({ state: "detached", timeout: BUILD_MS });
  });

  await t.test("leaving is shown, that the server is gone, and of another run nothing of the one before", async () => {
    await page.click("#leave");
    for (const text of ["leave greeter:1", "ok to leave", "phx_close"]) await page.locator("#frames .frame", { hasText: text }).first().waitFor();
    assert.deepEqual(page.errors, []);
    await server.stop();
    await page.locator("#connection", { hasText: "The server is gone" }).waitFor();
    assert.notEqual(await page.locator("#events li").count(), 0);
    await start("--listen", `127.0.0.1:${server.port}`);
    await page.locator("#frames .swap", { hasText: "the server was restarted" }).waitFor({ timeout: 30_000 });
    assert.equal(await page.locator("#events li").count(), 0);
    assert.match(await page.innerText(GREETER), /generation 1/);
  });
});
