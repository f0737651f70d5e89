/** The present: the server, its plugins, limits, topics, routes. */

import { $, element, setData, setText } from "./dom.js";
import { keep, table } from "./tables.js";
import { at, bytes, counted, lasting, number, rate } from "./words.js";

let before;

/** Shows an answer of `/overview`. */
export function showOverview(overview, act) {
  const { node } = overview;
  // Another node is looked at: it has counted for itself.
  if (before?.cluster?.node !== overview.cluster?.node) before = undefined;
  const seconds = before && (node.now_unix_ms - before.node.now_unix_ms) / 1_000;
  // Two people who watch get the same answer: there is nothing to compare.
  const isNew = seconds === undefined || seconds > 0;
  if (!isNew) return;
  const per = (now, then) => (seconds ? Math.max(0, now - then) / seconds : undefined);
  showNode(node, before?.node, per);
  showPlugins(overview.plugins, before?.plugins, per, act);
  showQuarantine(overview.quarantine, act);
  showLimits(overview.limits);
  showTopics(overview.topics, overview.all_topics);
  showRoutes(overview.routes, overview.mounts);
  showCluster(overview.cluster);
  before = overview;
}

function showNode(node, then, per) {
  setText($("version"), `${node.version}, up ${lasting(node.uptime_ms)}, process ${node.pid}`);
  const ready = $("ready");
  ready.hidden = false;
  setText(ready, node.not_ready === null ? "ready" : `not ready: ${node.not_ready}`);
  ready.className = node.not_ready === null ? "good" : "bad";
  document.title = node.not_ready === null ? "Bennu" : "Bennu: not ready";
  const figures = [
    ["Connections", number(node.connections)],
    ["Messages in", rate(per(node.messages_in, then?.messages_in))],
    ["Messages out", rate(per(node.messages_out, then?.messages_out))],
    ["Bytes out", then ? `${bytes(Math.round(per(node.bytes_out, then.bytes_out)))}/s` : "–"],
    ["Processor", then ? `${Math.round(100 * per(node.cpu_s, then.cpu_s))} %` : "–"],
    ["Memory", bytes(node.resident_bytes)],
  ];
  const make = ([name]) => element("div", {}, element("dt", {}, name), element("dd"));
  keep($("figures"), figures, ([name]) => name, make, (box, [, value]) => setText(box.lastElementChild, value));
}

/** The nodes of a cluster as this one sees them; nothing on a host that is alone. */
function showCluster(cluster) {
  $("cluster").hidden = cluster === null;
  if (cluster === null) return;
  const { nodes, partitions, connected } = cluster;
  const link = ({ link }) => element("span", { className: link === "up" ? "good" : "bad" }, link);
  setText($("cluster-note"), connected ? "" : "NATS cannot be reached");
  const columns = [
    { title: "Node", of: ({ node, this: isThis }) => (isThis ? `${node} (shown here)` : node) },
    { title: "Version", of: ({ version }) => version },
    { title: "Since", of: ({ since_unix_ms: since }) => at(since) },
    { title: "Partitions", className: "number", of: (node) => `${number(node.partitions)} of ${number(partitions.count)}` },
    { title: "Link", of: (node) => (node.this ? "" : link(node)) },
    { title: "Its members here", className: "number", of: (node) => (node.this ? "" : number(node.members_of_theirs_here)) },
    { title: "Our members there", className: "number", of: (node) => (node.this ? "" : number(node.members_of_ours_there)) },
  ];
  table($("nodes"), columns, nodes, { keyOf: ({ id }) => id, empty: "" });
}

function showPlugins(plugins, then, per, act) {
  const eventsOf = (plugin) => then?.find(({ name }) => name === plugin.name)?.events;
  const columns = [
    { title: "Plugin", of: ({ name }) => element("b", {}, name) },
    { title: "State", of: state },
    { title: "Generation", className: "number", of: ({ generation }) => generation ?? "–" },
    { title: "Version", of: ({ version, hash }) => (version ? `${version} (${hash.slice(0, 8)})` : "–") },
    { title: "Topics", className: "number", of: ({ topics }) => number(topics) },
    { title: "Members", className: "number", of: ({ clients }) => number(clients) },
    { title: "Events", className: "number", of: (plugin) => rate(per(plugin.events, eventsOf(plugin))) },
    { title: "Panics", className: "number", of: ({ panics }) => (panics ? element("span", { className: "bad" }, number(panics)) : "0") },
    { title: "Reloads", className: "number", of: ({ loads }) => number(Math.max(0, loads - 1)) },
    { title: "Rollbacks", className: "number", of: ({ rollbacks }) => number(rollbacks) },
    { title: "", className: "across", once: (plugin) => pluginButtons(plugin.name, act) },
  ];
  table($("plugins"), columns, plugins, {
    keyOf: ({ name }) => name,
    empty: "The configuration has no plugins.",
    update: (row, plugin) => setData(row, { generation: plugin.generation, version: plugin.version }),
  });
  const notes = plugins.flatMap(notesOf);
  keep($("notes"), notes, ({ text }) => text, ({ text, isBad }) => element("li", { className: isBad ? "bad" : "" }, text));
}

function state(plugin) {
  const isBad = plugin.state !== "in service";
  const text = plugin.on_probation ? "on probation" : plugin.state;
  return element("span", { className: isBad ? "bad" : plugin.on_probation ? "warn" : "good" }, text);
}

function pluginButtons(name, act) {
  const reload = element("button", { className: "quiet", type: "button", onclick: () => act.reload(reload, name) }, "Reload");
  const rollBack = element("button", {
    className: "quiet",
    type: "button",
    onclick: () => act.rollBack(rollBack, { name, ...rollBack.closest("tr").dataset }),
  }, "Roll back");
  reload.setAttribute("aria-label", `Reload ${name}`);
  rollBack.setAttribute("aria-label", `Roll ${name} back`);
  return element("div", { className: "buttons" }, reload, rollBack);
}

/** What else an operator should know of a plugin. */
function notesOf({ name, last_reload: reload, last_refusal: refusal, last_rollback: rollback, leaked, hangs, stuck_threads: stuck }) {
  const notes = [];
  const when = (entry) => at(entry.at_unix_s * 1_000);
  if (refusal) notes.push({ isBad: true, text: `${name}: the newest library was rejected at ${when(refusal)} (${refusal.step}): ${refusal.message}` });
  if (rollback) {
    const { from, to, reason, swap } = rollback;
    notes.push({ text: `${name}: rolled back from generation ${from} to ${to} at ${when(rollback)} after ${reason}; ${counted(swap.lost_events, "event")} lost` });
  }
  if (reload && reload.swap.failed > 0) {
    notes.push({ isBad: true, text: `${name}: ${counted(reload.swap.failed, "topic")} could not move to generation ${reload.generation}: ${reload.swap.reason}` });
  }
  if (hangs > 0) notes.push({ isBad: true, text: `${name}: ${counted(hangs, "handler")} did not return in time, ${counted(stuck, "thread")} still stuck` });
  for (const { generation, cause } of leaked) notes.push({ text: `${name}: generation ${generation} is still in memory: ${cause}` });
  return notes;
}

function showQuarantine(quarantine, act) {
  const make = (entry) => {
    const lift = element("button", { className: "quiet", type: "button", onclick: () => act.lift(lift, entry) }, "Lift");
    lift.setAttribute("aria-label", `Lift the quarantine of ${entry.hash.slice(0, 12)}`);
    const text = `In quarantine: ${entry.hash.slice(0, 12)} of ${entry.plugin}, since ${at(entry.at_unix_s * 1_000)}: ${entry.reason}`;
    return element("li", {}, element("span", {}, text), lift);
  };
  keep($("quarantine"), quarantine, ({ hash }) => hash, make);
}

function showLimits(limits) {
  const share = ({ used, most }) => (most > 0 ? used / most : 0);
  const amount = (value, { is_bytes: isBytes }) => (isBytes ? bytes(value) : number(value));
  const sorted = limits.toSorted((a, b) => share(b) - share(a) || a.setting.localeCompare(b.setting));
  const meter = (limit) => {
    const part = share(limit);
    const box = element("span", { className: "meter" }, element("i"));
    box.dataset.level = part >= 0.9 ? "bad" : part >= 0.7 ? "warn" : "good";
    box.firstChild.style.width = `${Math.min(100, 100 * part)}%`;
    return element("span", {}, limit.setting, box);
  };
  const columns = [
    { title: "Limit", of: meter },
    { title: "Used", className: "number", of: (limit) => `${amount(limit.used, limit)} of ${amount(limit.most, limit)}` },
    { title: "", className: "number", of: (limit) => `${Math.round(100 * share(limit))} %` },
  ];
  // What is not in use is no news; the first few show what there is.
  const shown = sorted.filter((limit, index) => index < 6 || share(limit) > 0);
  table($("limits"), columns, shown, { keyOf: ({ setting }) => setting, empty: "" });
}

function showTopics(topics, isComplete) {
  setText($("topics-note"), isComplete ? "" : "of the first 200,000");
  const columns = [
    { title: "Topic", of: ({ topic }) => topic },
    { title: "Plugin", of: ({ plugin }) => plugin },
    { title: "Members", className: "number", of: ({ members }) => number(members) },
    { title: "Events", className: "number", of: ({ events, events_per_s: perSecond }) => (perSecond === null ? number(events) : rate(perSecond)) },
  ];
  table($("topics"), columns, topics, { keyOf: ({ plugin, topic }) => `${plugin} ${topic}`, empty: "No topic is open." });
}

function showRoutes(routes, mounts) {
  const list = (items) => (items ? items.join(", ") : "all");
  const columns = [
    { title: "Topic", of: ({ topic }) => element("code", {}, topic) },
    { title: "Plugin", of: ({ plugin }) => plugin },
    { title: "Transports", of: ({ transports }) => list(transports) },
    { title: "Mounts", of: ({ mounts }) => list(mounts) },
  ];
  const rows = routes.map((route, index) => ({ ...route, index }));
  table($("routes"), columns, rows, { keyOf: ({ index, topic }) => `${index} ${topic}`, empty: "The configuration has no routes." });
  const transports = ({ websocket, longpoll }) => [websocket && "websocket", longpoll && "longpoll"].filter(Boolean).join(", ");
  table($("mounts"), [
    { title: "Path", of: ({ path }) => element("code", {}, path) },
    { title: "Transports", of: transports },
    { title: "Who may connect", of: ({ connect, has_auth: hasAuth }) => [hasAuth && "with a token", connect && `plugin ${connect} decides`].filter(Boolean).join(", ") || "everybody" },
    { title: "Clients", className: "number", of: ({ clients }) => number(clients.websocket + clients.longpoll) },
  ], mounts, { keyOf: ({ path }) => path, empty: "The configuration has no mounts." });
}
