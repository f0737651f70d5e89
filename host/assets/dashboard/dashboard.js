/** The dashboard: logs in, asks for news as long as somebody looks, and shows them. */

import { actions, say } from "./actions.js";
import { search, showCloses } from "./clients.js";
import { $, element, setText } from "./dom.js";
import { showHistory } from "./history.js";
import { showOverview } from "./overview.js";
import { ask, cluster } from "./server.js";
import { keep } from "./tables.js";
import { at } from "./words.js";

/** How often the server is asked for news. */
const PAUSE_MS = 2_000;

/** When the next requests are due; nothing is asked for before somebody has logged in. */
let timer;
let searched = "";
/** Since when the server has not answered. */
let silentSince;

const act = actions(async () => {
  await refresh();
  if (searched) await search(searched, act);
  // What was asked for may take a moment.
  setTimeout(refresh, 1_000);
});

function show(view) {
  for (const name of ["log-in", "dashboard"]) $(name).hidden = name !== view;
}

async function start() {
  let session;
  try {
    session = await ask("session");
  } catch (error) {
    setText($("trouble"), `The server does not let this page in: ${error.message}. It tries again.`);
    $("trouble").hidden = false;
    setTimeout(start, PAUSE_MS);
    return;
  }
  $("trouble").hidden = true;
  $("who").hidden = !(session.needs_secret && session.is_open);
  setText($("operator"), session.operator ?? "");
  if (!session.is_open) {
    $("ready").hidden = true;
    show("log-in");
    $("name").focus();
    return;
  }
  show("dashboard");
  await refresh();
}

/** Asks for everything, shows it, and does so again after a while. */
async function refresh() {
  clearTimeout(timer);
  try {
    const overview = await ask("overview");
    showNodes(overview.cluster);
    const [history] = await Promise.all([ask("history"), showCloses()]);
    showOverview(overview, act);
    showHistory(history);
    if (silentSince) $("trouble").hidden = true;
    silentSince = undefined;
  } catch (error) {
    if (error.status === 401) return start();
    if (error.status === 404 && cluster.chosen !== undefined) {
      say(`${cluster.chosen} is no node of the cluster any more. What is shown now is of the node that this page comes from.`, true);
      cluster.chosen = undefined;
    }
    silentSince ??= Date.now();
    setText($("trouble"), `No news since ${at(silentSince)}: ${error.message}. What is shown here is old.`);
    $("trouble").hidden = false;
  }
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(refresh, PAUSE_MS);
}

/** Offers the nodes of the cluster to choose from. */
function showNodes(seen) {
  cluster.nodes = seen === null ? [] : seen.nodes.map(({ node }) => node);
  $("node-label").hidden = seen === null;
  if (seen === null) return;
  cluster.chosen ??= seen.node;
  keep($("node"), cluster.nodes, (name) => name, (name) => element("option", { value: name }, name));
  $("node").value = cluster.chosen;
}

$("node").addEventListener("change", async () => {
  cluster.chosen = $("node").value;
  await refresh();
});

$("log-in-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const error = $("log-in-error");
  try {
    await ask("session", { method: "PUT", secret: $("secret").value, body: { name: $("name").value } });
    $("secret").value = "";
    setText(error, "");
    await start();
  } catch (refused) {
    setText(error, refused.status === 401 ? "This is not the secret." : `Not logged in: ${refused.message}.`);
  }
});

$("log-out").addEventListener("click", async () => {
  clearTimeout(timer);
  await ask("session", { method: "DELETE" }).catch(() => {});
  location.reload();
});

$("search-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  searched = $("client").value.trim();
  await search(searched, act).catch((error) => say(`Not found out: ${error.message}.`, true));
});

for (const id of ["reason", "normal"]) $(id).addEventListener("change", () => showCloses().catch(() => {}));

document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else if (!$("dashboard").hidden) refresh();
});

start();
