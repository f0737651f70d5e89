// Debian's Chromium without a window, driven over its debugging pipe. It talks to nobody but the server under test.

import { existsSync } from "node:fs";

import { chromium } from "playwright-core";

const QUIET = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** A browser with a new, empty profile, closed when the test is over. */
export async function openBrowser(t) {
  const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
  if (!existsSync(executablePath)) throw new Error(`there is no browser at ${executablePath}; set CHROMIUM`);
  const browser = await chromium.launch({ executablePath, headless: true, args: QUIET });
  t.after(() => browser.close());
  return browser;
}

/** Somebody's tab with the chat room. */
export class Tab {
  page;
  errors = [];

  static async open(context, url, name) {
    const tab = new Tab();
    tab.page = await context.newPage();
    tab.page.setDefaultTimeout(5_000);
    tab.page.on("pageerror", (error) => tab.errors.push(error.message));
    tab.page.on("console", (message) => message.type() === "error" && tab.errors.push(message.text()));
    await tab.page.goto(`${url}/?name=${encodeURIComponent(name)}`);
    await tab.page.locator("#connection[data-state=open]").waitFor();
    await tab.page.locator(`#members [data-name="${name}"]`).waitFor();
    return tab;
  }

  async say(body) {
    await this.page.fill("#body", body);
    await this.page.press("#body", "Enter");
  }

  /** The message with this very text, once it is there. */
  async hears(body) {
    await this.page.locator("#messages .body").getByText(body, { exact: true }).waitFor();
  }

  /** Will say something the moment a reload is shown. The page does it itself: a test would be slower by a few frames. */
  sayAfterReload(body) {
    return this.page.evaluate((body) => {
      const reloads = document.getElementById("reloads");
      const spoken = new MutationObserver(() => {
        spoken.disconnect();
        document.getElementById("body").value = body;
        document.getElementById("say").requestSubmit();
      });
      spoken.observe(reloads, { attributeFilter: ["data-count"] });
    }, body);
  }

  /** Gives a function that waits for the next message of somebody's. */
  async listen() {
    await this.page.evaluate(() => {
      globalThis.nextMessage = new Promise((resolve) => {
        const list = document.getElementById("messages");
        const heard = new MutationObserver(() => {
          const item = list.lastElementChild;
          if (!item.dataset.id) return;
          heard.disconnect();
          resolve(item.querySelector(".body").textContent);
        });
        heard.observe(list, { childList: true });
      });
    });
    return () => this.page.evaluate(() => globalThis.nextMessage);
  }

  async sees(...names) {
    for (const name of names) await this.page.locator(`#members [data-name="${name}"]`).waitFor();
  }

  members() {
    return this.page.$$eval("#members li", (items) => items.map(({ dataset }) => dataset.name));
  }

  /** `[id, name, body]` of each message. */
  messages() {
    return this.page.$$eval("#messages li[data-id]", (items) =>
      items.map((item) => [item.dataset.id, item.dataset.name, item.querySelector(".body").textContent]),
    );
  }

  async connects() {
    return Number(await this.page.getAttribute("#connection", "data-connects"));
  }

  /** Waits until this many reloads have been shown. */
  reloads(count, timeout) {
    return this.page.locator(`#reloads[data-count="${count}"]`).waitFor({ timeout });
  }
}
