// Takes the pictures of the dashboard in host/docs: a real server with clients, closes, reloads and a rejected library, in windows of
// 1280 and 390 pixels, light and dark. Run it after a change of the page, and look at them:
//
//   BENNU_BIN=target/debug/bennu BENNU_PLUGINS=target/test-plugins node host/tests/js/screenshots.js

import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import WebSocket from "ws";

import { isShown, logIn, openDashboard, SECRET } from "./dashboard.js";
import { within } from "./server.js";

const FOLDER = join(dirname(fileURLToPath(import.meta.url)), "../../docs/dashboard");
const WINDOWS = [{ width: 1280, height: 1300 }, { width: 390, height: 1300 }];
const GATE = '\n[[mounts]]\npath = "/gate"\nconnect = "misbehave"\n\n[limits]\nmax_connections = 60\nmax_message_bytes = 4_000\n';
const NAMES = ["ann", "bob", "cem", "dee", "eve", "fay", "gus", "hal", "ida", "joe", "kim", "lea"];

const PATIENCE_MS = 30_000;

const afters = [];
const t = { after: (end) => afters.push(end) };

/** A client with a name, in a topic. */
async function client(server, name, topic) {
  const socket = new WebSocket(`${server.at("/gate")}/websocket?vsn=2.0.0&token=open&user=${name}`);
  socket.on("error", () => {});
  await new Promise((resolve) => socket.once("open", resolve));
  socket.send(JSON.stringify(["1", "1", topic, "phx_join", { name }]));
  return { socket, say: (event, payload) => socket.send(JSON.stringify(["1", "2", topic, event, payload])) };
}

/** Something of everything that an operator may meet. */
async function live(bench, server) {
  const clients = [];
  for (const [index, name] of NAMES.entries()) {
    clients.push(await client(server, name, index % 3 === 0 ? "room:lobby" : `echo:desk-${index % 4}`));
    clients.push(await client(server, name, `misbehave:${index % 5}`));
  }
  const chatter = setInterval(() => clients.forEach(({ socket, say }) => socket.readyState === WebSocket.OPEN && say("echo", { n: 1 })), 200);
  t.after(() => clearInterval(chatter));
  clients[1].say("echo", { text: "x".repeat(5_000) });
  clients[3].socket.send("not a message");
  clients[5].socket.close(1000);
  clients[7].socket.terminate();
  new WebSocket(`${server.at("/gate")}/websocket?vsn=2.0.0&token=wrong`).on("error", () => {});
  new WebSocket(`${server.at("/nowhere")}/websocket?vsn=2.0.0`).on("error", () => {});
  bench.replace("misbehave", "misbehave-v2");
  await within("reload", server.line(/plugin in service plugin="misbehave".* generation=2 /), PATIENCE_MS);
  writeFileSync(join(bench.folder, "libecho.so"), "not a library");
  await within("rejection", server.line(/library rejected/), PATIENCE_MS);
}

async function take() {
  mkdirSync(FOLDER, { recursive: true });
  const { bench, server, admin, context, page } = await openDashboard(t, { secret: SECRET, more: GATE, viewport: WINDOWS[0] });
  await live(bench, server);
  await logIn(page, SECRET, "ann");
  await isShown(page);
  // So that there are figures for each second, and a whole minute of history.
  await page.waitForTimeout(Number(process.env.WAIT_MS ?? 65_000));
  for (const viewport of WINDOWS) {
    for (const colorScheme of ["light", "dark"]) {
      const own = await context.newPage();
      await own.setViewportSize(viewport);
      await own.emulateMedia({ colorScheme });
      await own.goto(`${admin}/dashboard/`);
      await isShown(own);
      await own.fill("#client", "user:ann");
      await own.click("#search-form button");
      await own.locator("#found .open").first().waitFor();
      await own.waitForTimeout(4_500);
      await own.screenshot({ path: join(FOLDER, `${viewport.width}-${colorScheme}.png`) });
      await own.close();
    }
  }
}

try {
  await take();
} finally {
  for (const end of afters.reverse()) await end();
}
