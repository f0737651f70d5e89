/** The last hour: minute by minute, and what has changed. */

import { $, element, setText } from "./dom.js";
import { keep, table } from "./tables.js";
import { at, lasting, number } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const MINUTES = 60;
const HEIGHT = 20;
const KINDS = ["limit", "plugin", "refused", "closed", "traffic"];
const TITLES = { limit: "limit", refused: "refused", closed: "closed" };

/** Shows an answer of `/history`. */
export function showHistory(history) {
  const minutes = history.since_unix_ms.length;
  const [first] = history.since_unix_ms;
  setText($("hour-note"), minutes < MINUTES ? `so far ${lasting(history.now_unix_ms - first)}; the last bar is the present minute` : "by minutes");
  const rows = history.series.map(({ kind, name, counts }) => ({ kind, name, counts, total: counts.reduce((sum, count) => sum + count, 0) }));
  rows.push({ kind: "traffic", name: "connections", counts: history.connections, total: history.connections.at(-1) });
  rows.sort((a, b) => KINDS.indexOf(a.kind) - KINDS.indexOf(b.kind) || b.total - a.total);
  const columns = [
    { title: "What", of: ({ kind, name }) => (TITLES[kind] ? `${TITLES[kind]}: ${name}` : name) },
    { title: "Minutes", of: ({ counts }) => bars(counts) },
    { title: "Now", className: "number", of: ({ counts }) => number(counts.at(-1)) },
    { title: "Hour", className: "number", of: ({ name, total }) => (name === "connections" ? "" : number(total)) },
  ];
  table($("hour"), columns, rows, {
    keyOf: ({ kind, name }) => `${kind} ${name}`,
    empty: "",
    className: "bars",
    update: (row, { kind, name, total }) => Object.assign(row.dataset, { kind, name, total }),
  });
  showChanges(history.changes);
}

/** A bar for each minute, the present one at the right. */
function bars(counts) {
  const most = Math.max(1, ...counts);
  const drawn = document.createElementNS(SVG, "svg");
  drawn.setAttribute("viewBox", `0 0 ${MINUTES} ${HEIGHT}`);
  drawn.setAttribute("preserveAspectRatio", "none");
  drawn.setAttribute("role", "img");
  drawn.setAttribute("aria-label", `at most ${most} in a minute`);
  counts.forEach((count, index) => {
    if (count === 0) return;
    const height = Math.max(2, (HEIGHT * count) / most);
    const bar = document.createElementNS(SVG, "rect");
    const place = { x: MINUTES - counts.length + index, y: HEIGHT - height, width: 0.8, height };
    for (const [name, value] of Object.entries(place)) bar.setAttribute(name, value);
    drawn.append(bar);
  });
  return drawn;
}

function showChanges(changes) {
  const seen = new Map();
  const keyed = changes.toReversed().map((change) => {
    const same = `${change.at_unix_ms} ${change.kind} ${change.text}`;
    seen.set(same, (seen.get(same) ?? 0) + 1);
    return { ...change, key: `${same} ${seen.get(same)}` };
  }).reverse();
  const make = ({ at_unix_ms: unixMs, kind, plugin, text, by }) => {
    const subject = plugin ? [element("b", {}, plugin), `: ${text}`] : [text];
    const item = element("li", {}, element("time", { dateTime: new Date(unixMs).toISOString() }, at(unixMs)), " ", ...subject);
    if (by) item.append(" ", element("span", { className: "dim" }, `by ${by}`));
    item.dataset.kind = kind;
    return item;
  };
  keep($("changes"), keyed, ({ key }) => key, make);
}
