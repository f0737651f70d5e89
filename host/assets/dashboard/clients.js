/** Clients: who was closed or refused, and why; and the search for one of them. */

import { $, element, setText } from "./dom.js";
import { ask, cluster, everywhere, query } from "./server.js";
import { keep } from "./tables.js";
import { at, bytes, counted, lasting, number } from "./words.js";

/** How many are shown. */
const MOST = 50;

let reasons;

/** Learns what the reasons mean, once. */
async function learnReasons() {
  if (reasons) return;
  reasons = await ask("reasons");
  const options = Object.keys(reasons).sort().map((name) => element("option", { value: name }, name));
  $("reason").replaceChildren($("reason").options[0], ...options);
}

/** Asks for the last closes, as the filter says, and shows them. */
export async function showCloses() {
  const reason = $("reason").value;
  const path = `closes?${query({ limit: $("normal").checked ? MOST : 4 * MOST, reason })}`;
  const [{ closes, kept, max_closes: most, missing = [] }] = await Promise.all([ask(path, { node: everywhere() }), learnReasons()]);
  const isShown = (close) => $("normal").checked || close.reason !== "client_closed";
  const silent = missing.length > 0 ? `; without ${missing.join(", ")}, which did not answer` : "";
  setText($("closes-note"), `${cluster.nodes.length > 0 ? "of all nodes; " : ""}${number(kept)} remembered, ${number(most)} at most${silent}`);
  const shown = closes.filter(isShown).slice(0, MOST);
  keep($("closes"), shown, keyOf, closed);
}

const keyOf = ({ at_unix_ms: unixMs, connection, reason }) => `${unixMs} ${connection} ${reason}`;

/** Somebody who was closed or refused, with what that means. */
function closed(close) {
  const { what, remedy } = reasons[close.reason] ?? { what: "This page does not know the reason.", remedy: "Load the page again." };
  const number = close.outcome === "closed" ? close.code && `code ${close.code}` : close.status && `status ${close.status}`;
  const ended = close.outcome === "closed" ? `open for ${lasting(close.lasted_ms)}` : "not let in";
  const parts = [close.node && `node ${close.node}`, close.socket_id, close.peer, `connection ${close.connection}`, ended, number];
  const item = element("li", {}, element("details", {},
    element("summary", {},
      element("time", { dateTime: new Date(close.at_unix_ms).toISOString() }, at(close.at_unix_ms)),
      element("b", { className: close.outcome === "refused" ? "bad" : "" }, close.reason),
      element("span", { className: "grow" }, parts.filter(Boolean).join(" · ")),
    ),
    element("p", {}, element("b", {}, "What happened: "), what, close.detail ? ` (${close.detail})` : ""),
    element("p", {}, element("b", {}, "What to do: "), remedy),
    element("p", { className: "dim" }, details(close)),
  ));
  item.dataset.reason = close.reason;
  return item;
}

function details(client) {
  const place = [client.mount && `at ${client.mount}`, client.transport && `by ${client.transport}`, client.vsn && `version ${client.vsn}`];
  const ended = client.by && `ended by ${client.by}`;
  const carried = client.messages_in !== undefined && [
    `received ${counted(client.messages_in, "message")} (${bytes(client.bytes_in)})`,
    `sent ${counted(client.messages_out, "message")} (${bytes(client.bytes_out)})`,
    `${bytes(client.unsent_bytes)} waiting to be sent`,
    `last heard ${lasting(client.silent_ms)} before`,
    counted(client.topics, "topic"),
  ];
  return [...place, ended, ...(carried || [])].filter(Boolean).join(", ");
}

/** Looks for a client as `bennu why` does, and shows what became of it. */
export async function search(client, act) {
  // In a cluster, each entry has its node.
  const { connections, closes, more, kept, missing = [] } = await ask(`why?${query({ client, limit: MOST })}`);
  const box = $("found");
  const lost = missing.map((name) => element("p", { className: "bad" }, `The node ${name} does not answer: what it knows is not shown.`));
  if (connections.length + closes.length === 0) {
    const text = `The server knows nothing of ${client}: no such client is connected, and none is among the ${number(kept)} that it remembers. Older ones are in the log.`;
    box.replaceChildren(...lost, element("p", { className: "empty" }, text));
    return;
  }
  const parts = lost;
  if (connections.length > 0) {
    const title = more ? `The first ${connections.length} that are connected` : `${counted(connections.length, "client")} connected`;
    parts.push(element("h3", {}, title), ...everybody(client, connections, act), element("ul", {}, ...connections.map((open) => connected(open, act))));
  }
  if (closes.length > 0) parts.push(element("h3", {}, "Closed or refused before"), element("ul", {}, ...closes.map(closed)));
  box.replaceChildren(...parts);
}

/** A button for all connections that were found, where there are several. */
function everybody(client, connections, act) {
  const ids = new Set(connections.map(({ socket_id: id }) => id));
  if (connections.length === 0 || (connections.length < 2 && !ids.has(client))) return [];
  const whom = ids.size === 1 && ids.has(client) ? { socket_id: client } : { peer: client };
  const shown = whom.socket_id === undefined ? `all clients at ${client}` : `socket id ${client}`;
  const button = element("button", { className: "quiet", type: "button", onclick: () => act.disconnect(button, whom, shown, everywhere()) }, `Disconnect ${shown}`);
  return [element("p", {}, button)];
}

function connected(open, act) {
  const name = open.socket_id ? `socket id ${open.socket_id}` : "no socket id";
  const place = open.node ? ` on node ${open.node}` : "";
  const shown = `connection ${open.connection}${place}`;
  const button = element("button", { className: "quiet", type: "button", onclick: () => act.disconnect(button, { connection: open.connection }, shown, open.node) }, "Disconnect");
  button.setAttribute("aria-label", `Disconnect ${shown}`);
  const since = `${shown} from ${open.peer}, ${name}, open for ${lasting(open.open_ms)}`;
  const text = element("span", {}, since, element("br"), element("small", {}, details(open)));
  const item = element("li", {}, element("div", { className: "open" }, text, button));
  item.dataset.connection = open.connection;
  return item;
}
