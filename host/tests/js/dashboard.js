// Somebody who looks at the dashboard of a server, and the servers that they look at.

import { openBrowser } from "./browser.js";
import { Bench } from "./server.js";

export const SECRET = "for the operator's eyes only";

/** A server with its admin listener, and a browser's page on its dashboard. Without a secret, there is nothing to log in to. */
export async function openDashboard(t, { secret, more = "", libraries, viewport, colorScheme } = {}) {
  const bench = new Bench(libraries);
  t.after(() => bench.close());
  const server = await bench.serve(0, more, secret === undefined ? {} : { BENNU_ADMIN_SECRET: secret });
  const [, admin] = await server.line(/admin listener started.* address=(\S+)/);
  const browser = await openBrowser(t);
  const context = await browser.newContext({ viewport, colorScheme });
  const page = await context.newPage();
  page.setDefaultTimeout(10_000);
  const heard = listen(page);
  await page.goto(`http://${admin}/`);
  return { bench, server, admin: `http://${admin}`, context, page, ...heard };
}

/** What the page gets from the server, and what goes wrong in it. */
export function listen(page) {
  const [answers, errors] = [[], []];
  page.on("response", async (response) => {
    const text = await response.text().catch(() => "");
    answers.push({ url: response.url(), head: JSON.stringify(await response.allHeaders()), text });
  });
  page.on("pageerror", (error) => errors.push(error.message));
  page.on("console", (message) => {
    // Chromium says this of each answer that is no success; the tests look at these themselves.
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) errors.push(message.text());
  });
  return { answers, errors };
}

export async function logIn(page, secret, name = "") {
  await page.fill("#name", name);
  await page.fill("#secret", secret);
  await page.click("#log-in-form button");
}

/** The dashboard with the server's plugins, once it is there. */
export const isShown = (page) => page.locator("#plugins tbody tr").first().waitFor();

/** Whether all of it is within the width of the window. */
export const fits = (page) => page.evaluate(() => document.documentElement.scrollWidth <= innerWidth);
