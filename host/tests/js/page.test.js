// The page of `dev` before a connect handler, and in windows of different sizes. Nothing is built here.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";

import { openBrowser } from "./browser.js";
import { Bench } from "./server.js";

const PORTS = '[server]\nlisten = "127.0.0.1:0"\n\n[admin]\nlisten = "127.0.0.1:0"\n\n';
const plugin = (name) => `[plugins.${name}]\nlibrary = "lib${name}.so"\n\n[[routes]]\ntopic = "${name}:*"\nplugin = "${name}"\n\n`;
const GATE = '[[mounts]]\npath = "/gate"\nconnect = "misbehave"\n\n';
const TOKENS = '[[mounts]]\npath = "/tokens"\nconnect = "misbehave"\nauth_token = true\n\n';

async function open(t, { mounts, plugins, path = "/", viewport }) {
  const bench = new Bench(Object.fromEntries(plugins.map((name) => [name, name])));
  t.after(() => bench.close());
  const config = PORTS + mounts + plugins.map(plugin).join("");
  const server = await bench.dev(config);
  const browser = await openBrowser(t);
  const page = await browser.newPage({ viewport });
  page.setDefaultTimeout(5_000);
  await page.goto(server.url + path);
  return { bench, config, page };
}

async function connect(page, params, token = "") {
  await page.fill("#connect-params", params);
  await page.fill("#token", token);
  await page.click("#connect button");
}

async function joined(page, topic) {
  await page.fill("#topic", topic);
  await page.click("#join button");
  await page.locator("#join-state[data-state=joined]").waitFor();
}

const isOpen = (page) => page.locator("#connection[data-state=open]").waitFor();

test("a connect handler gets params, and its refusal is shown with status and reason", async (t) => {
  const { page } = await open(t, { mounts: GATE, plugins: ["misbehave"], path: "/?token=no" });
  const refusal = page.locator("#connect-error", { hasText: '/gate refuses the connection: 403 {"reason":"closed"}' });
  await refusal.waitFor();
  assert.match(await page.innerText("#connection"), /Refused: 403/);

  await connect(page, '{"token"');
  await page.locator("#connect-error", { hasText: "This is not JSON" }).waitFor();
  await connect(page, "token=busy");
  await page.locator("#connect-error", { hasText: '429 {"retry_after":7}' }).waitFor();
  await connect(page, "token=open&user=ann");
  await isOpen(page);
  assert.equal(await page.innerText("#connect-error"), "");
  await joined(page, "misbehave:1");

  // They are kept for the mount, in either form.
  for (const params of ["token=open&user=ann", '{"token": "open", "user": "ann"}']) {
    await connect(page, params);
    await page.reload();
    await isOpen(page);
    assert.equal(await page.inputValue("#connect-params"), params);
    await joined(page, "misbehave:1");
    await page.fill("#event", "whoami");
    await page.click("#push-button");
    await page.locator("#frames [data-kind=reply]", { hasText: '"user":"ann"' }).waitFor();
  }
  // A token alone is the parameter of that name.
  await connect(page, "", "wrong");
  await refusal.waitFor();
  await connect(page, "", "open");
  await isOpen(page);
});

test("a mount that takes a token in a header gets it there, and each mount has its own", async (t) => {
  const { page } = await open(t, { mounts: GATE + TOKENS, plugins: ["misbehave"] });
  await isOpen(page);
  assert.deepEqual(await page.locator("#mount option").allInnerTexts(), ["/gate", "/tokens"]);
  await page.selectOption("#mount", "/tokens");
  await connect(page, "token=seen", "s3cret?~ü");
  await page.locator("#mount-name", { hasText: "/tokens" }).waitFor();
  await isOpen(page);
  await joined(page, "misbehave:1");
  await page.fill("#event", "whoami");
  await page.click("#push-button");
  await page.locator("#frames [data-kind=reply]", { hasText: '"auth_token":"s3cret?~ü"' }).waitFor();
  await page.selectOption("#mount", "/gate");
  assert.equal(await page.inputValue("#token"), "");
  await page.selectOption("#mount", "/tokens");
  assert.equal(await page.inputValue("#token"), "s3cret?~ü");
});

test("events that the plugin knew are suggested from then on", async (t) => {
  const { page } = await open(t, { mounts: '[[mounts]]\npath = "/socket"\n\n', plugins: ["echo"] });
  await isOpen(page);
  await joined(page, "echo:1");
  for (const [event, status] of [["echo", "ok"], ["unheard_of", "error"]]) {
    await page.fill("#event", event);
    await page.click("#push-button");
    await page.locator(`#frames [data-status=${status}]`, { hasText: event }).waitFor();
  }
  const known = () => page.$$eval("#events-known option", (options) => options.map(({ value }) => value));
  assert.deepEqual(await known(), ["echo"]);
  await page.reload();
  await isOpen(page);
  assert.deepEqual(await known(), ["echo"]);
});

for (const viewport of [{ width: 1280, height: 800 }, { width: 1280, height: 560 }, { width: 390, height: 844 }, { width: 390, height: 640 }]) {
  const size = `${viewport.width} × ${viewport.height}`;
  test(`however long an error is, one can still write in a window of ${size}`, async (t) => {
    const plugins = ["room", "echo"];
    const { bench, config, page } = await open(t, { mounts: '[[mounts]]\npath = "/socket"\n\n', plugins, viewport });
    await isOpen(page);
    const mistakes = Array.from({ length: 60 }, (_, index) => `unheard_of_${index} = "${"long ".repeat(40)}"`);
    bench.configure(`${mistakes.join("\n")}\n${config}`);
    const problem = page.locator("#problems [data-event=configuration_refused]");
    await problem.waitFor();
    assert.match(await problem.innerText(), /unheard_of_1\b/);
    for (const [view, controls] of [["chat", ["#body", "#send"]], ["playground", ["#topic", "#event", "#push-button"]]]) {
      await page.click(`#${view}-tab`);
      for (const control of controls) {
        const { x, y, width, height } = await page.locator(control).boundingBox();
        const isInside = x >= 0 && y >= 0 && x + width <= viewport.width && y + height <= viewport.height;
        assert.ok(isInside, `${control} is at ${x}, ${y}, ${width} × ${height}, in ${size}`);
      }
    }
    // What is typed there is sent: nothing lies over it.
    await page.click("#chat-tab");
    await page.fill("#body", "Still here?");
    await page.click("#send");
    await page.locator("#messages .body", { hasText: "Still here?" }).waitFor();
    // The whole error can be read: what does not fit is reached by scrolling.
    await page.locator("#news").evaluate((box) => (box.scrollTop = box.scrollHeight));
    const [end, box] = await Promise.all([problem.boundingBox(), page.locator("#news").boundingBox()]);
    assert.ok(end.y + end.height <= box.y + box.height + 1, "the end of the error is in sight");
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), true, "nothing is too wide");
    const broken = await page.evaluate(() => document.body.innerText.match(/\d (?:ms|µs|s|min|h)\b/g));
    assert.equal(broken, null, "a number and its unit stay on one line");
  });
}

test("the page shows how a backend publishes to the topic at hand, and that works as it stands", async (t) => {
  const { page } = await open(t, { mounts: '[[mounts]]\npath = "/socket"\n\n', plugins: ["echo"] });
  await isOpen(page);
  await joined(page, "echo:it's");
  await page.fill("#event", "news");
  await page.fill("#payload", '{"by": "a shell\'s curl"}');
  await page.click("#backend summary");
  const command = await page.innerText("#backend-publish");
  assert.match(command, /^curl http:\/\/127\.0\.0\.1:\d+\/api\/broadcast /);
  const answer = execFileSync("sh", ["-c", command], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
  assert.deepEqual(JSON.parse(answer), { heard: 1, intercepted: 0 });
  await page.locator("#frames [data-kind=heard]", { hasText: "a shell's curl" }).waitFor();
  assert.match(await page.innerText("#backend-ask"), /\/api\/call /);
});
