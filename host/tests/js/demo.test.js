// What the project is for, as somebody at a browser sees it: two people talk in a room, its author edits the plugin behind
// it, and the next answer comes from the new code, over the same connections, with everybody and everything still there.

import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { openBrowser, Tab } from "./browser.js";
import { Server, within } from "./server.js";
import { copyWorkspace, edit } from "./workspace.js";

/** The first build of all plugins on a small machine. */
const FIRST_BUILD_MS = 10 * 60_000;
/** A rebuild of one plugin on a busy one. */
const REBUILD_MS = 2 * 60_000;

/** The line of the room that is edited, and what becomes of it. */
const LINE = '"name": self.name, "body": body });';
const NEW_LINE = '"name": self.name, "body": format!("{body} (edited)") });';
const BROKEN_LINE = '"name": self.name, "body": buddy });';
/** What the room keeps, and a field that no state of the code before has. */
const STATE = "    history: History,\n";
const NEW_STATE = "    history: History,\n    _mood: String,\n";

const CONFIGURATION = `
[server]
listen = "127.0.0.1:0"

[admin]
listen = "127.0.0.1:0"

[[mounts]]
path = "/socket"

[plugins.room]

[[routes]]
topic = "room:*"
plugin = "room"
`;

test("the author edits the room while two people talk in it", async (t) => {
  const folder = process.env.BENNU_DEMO_WORKSPACE ?? join(tmpdir(), "bennu-demo");
  mkdirSync(folder, { recursive: true });
  copyWorkspace(folder);
  writeFileSync(join(folder, "config/demo.toml"), CONFIGURATION);
  const source = join(folder, "plugins/room/src/lib.rs");

  const server = await Server.start(["dev", "--config", "config/demo.toml"], { cwd: folder, readyWithinMs: FIRST_BUILD_MS });
  t.after(() => server.stop());
  const browser = await openBrowser(t);
  const context = await browser.newContext({ viewport: { width: 1040, height: 640 }, reducedMotion: "reduce" });
  const ada = await Tab.open(context, server.url, "Ada");
  const bob = await Tab.open(context, server.url, "Bob");
  const both = [ada, bob];

  await t.test("they see each other, and each other's messages", async () => {
    for (const tab of both) await tab.sees("Ada", "Bob");
    await ada.say("Is the new answer in yet?");
    await bob.hears("Is the new answer in yet?");
    await bob.say("I am saving it now. Keep your tab open.");
    await ada.hears("I am saving it now. Keep your tab open.");
    assert.deepEqual(await ada.messages(), await bob.messages());
  });

  const members = await ada.members();
  const messages = await ada.messages();

  await t.test("the new code answers over the same connections", async () => {
    await ada.sayAfterReload("And now?");
    const heard = await bob.listen();
    const saved = performance.now();
    edit(source, LINE, NEW_LINE);
    assert.equal(await within("answer of the new code", heard(), REBUILD_MS), "And now? (edited)");
    t.diagnostic(`from save to new answer: ${Math.round(performance.now() - saved)} ms, the build included`);
    for (const tab of both) await tab.reloads(1);
    await ada.hears("And now? (edited)");
    for (const tab of both) assert.equal(await tab.connects(), 1);
  });

  await t.test("members and history are what they were", async () => {
    for (const tab of both) {
      assert.deepEqual(await tab.members(), members);
      assert.deepEqual((await tab.messages()).slice(0, messages.length), messages);
    }
    const cleo = await Tab.open(context, server.url, "Cleo");
    await cleo.hears("And now? (edited)");
    assert.deepEqual(await cleo.messages(), await ada.messages(), "the plugin's own history has been carried over");
    await cleo.page.close();
    await ada.page.locator('#members [data-name="Cleo"]').waitFor({ state: "detached" });
  });

  await takePicture(ada, bob);

  await t.test("a compile error is shown while the code before it goes on serving", async () => {
    edit(source, NEW_LINE, BROKEN_LINE);
    await ada.page.locator("#routes [data-plugin=room][data-state=failed]").waitFor({ timeout: REBUILD_MS });
    assert.match(await ada.page.locator("#problems [data-event=build_failed]").innerText(), /buddy/);
    await bob.say("Still there?");
    await ada.hears("Still there? (edited)");
    edit(source, BROKEN_LINE, LINE);
    for (const tab of both) await tab.reloads(2, REBUILD_MS);
    await bob.say("Back again");
    await ada.hears("Back again");
    for (const tab of both) assert.equal(await tab.connects(), 1);
  });

  await t.test("code that cannot take the state that is there is refused, and the next good code is what serves", async () => {
    const before = await ada.messages();
    edit(source, STATE, NEW_STATE);
    await ada.page.locator("#routes [data-plugin=room][data-state=refused]").waitFor({ timeout: REBUILD_MS });
    assert.match(await ada.page.locator("#problems [data-event=refused]").innerText(), /missing field `_mood`; give a new field `#\[serde\(default\)\]`/);
    await bob.say("Nothing happened?");
    await ada.hears("Nothing happened?");
    assert.equal(await ada.page.locator(".swap").count(), 2);
    edit(source, NEW_STATE, STATE);
    await ada.page.locator("#routes [data-plugin=room][data-state=idle]").waitFor({ timeout: REBUILD_MS });
    assert.equal(await ada.page.locator("#problems [data-event=refused]").count(), 0);
    assert.deepEqual((await ada.messages()).slice(0, before.length), before);
  });

  await t.test("a room whose state new code cannot take stays on the code before, and the page says so", async () => {
    // Without samples the probe cannot know.
    edit(join(folder, "config/demo.toml"), "[plugins.room]", "[plugins.room]\nprobe_topics = 0");
    await within("configuration", server.line(/configuration replaced/));
    edit(source, STATE, NEW_STATE);
    await ada.page.locator("#routes [data-plugin=room][data-state=stays]").waitFor({ timeout: REBUILD_MS });
    assert.match(await ada.page.locator("#routes [data-plugin=room]").innerText(), /1 of 1\stopic stays on the previous code/);
    const why = await ada.page.locator("#problems [data-event=stays]").innerText();
    assert.match(why, /missing field `_mood`/);
    await bob.say("Who answers?");
    await ada.hears("Who answers?");
    assert.equal(await ada.page.locator(".swap").count(), 2, "no line says that there is new code");
    edit(source, NEW_STATE, STATE);
    await ada.page.locator("#routes [data-plugin=room][data-state=idle]").waitFor({ timeout: REBUILD_MS });
    assert.equal(await ada.page.locator("#problems li").count(), 0);
  });

  for (const tab of both) assert.deepEqual(tab.errors, []);
});

/** For the README, where it is asked for. */
async function takePicture(ada, bob) {
  const path = process.env.BENNU_SCREENSHOT;
  if (!path) return;
  await bob.page.locator("#body").pressSequentially("Told you");
  await ada.page.locator("#typing").getByText("Bob is typing").waitFor();
  await ada.page.screenshot({ path });
  await bob.page.fill("#body", "");
}
