/**
 * The page of `bennu dev`: the routes, a playground to try them by hand, the chat room if there is one, and news of reloads.
 *
 * The routes come from `/dev/routes`, the news from `/dev/events`; everything else goes over sockets like that of any client.
 */

import { offerApi, showApi } from "./backend.js";
import { Chat, TOPIC as CHAT_TOPIC } from "./chat.js";
import { Connection } from "./connection.js";
import { $, amount, element, setData, setText, time } from "./dom.js";
import { Playground } from "./playground.js";

/** The plugin that has a chat room here. */
const CHAT_PLUGIN = "room";
const EVENTS_SHOWN = 8;
const REFUSED = "the newest code was rejected";

/** What `/dev/routes` said last. */
let there = { run: null, mounts: [], routes: [], plugins: [] };
/** What to show about a plugin besides its generation: `{ state, text }`. */
const notes = new Map();
/** Why topics of a plugin are on older code; until its next reload. */
const stays = new Map();
/** `chat` and `playground`, as far as they are there. */
const views = {};
let inFront = null;
let looking = null;
let lookAgain = false;
const news = watchNews();

setInterval(showConnection, 1_000);
for (const name of ["chat", "playground"]) $(`${name}-tab`).addEventListener("click", () => bring(name));

// ---- routes and plugins ----

/** Looks once at a time, so that the last look is what is shown; whoever asks meanwhile has it look once more. */
function look() {
  lookAgain = true;
  looking ??= lookWhileAsked().finally(() => (looking = null));
  return looking;
}

async function lookWhileAsked() {
  while (lookAgain) {
    lookAgain = false;
    const answer = await fetch("/dev/routes").catch(() => null);
    const found = answer?.ok && (await answer.json().catch(() => null));
    if (found) show(found);
  }
}

function show(found) {
  if (there.run !== null && found.run !== there.run) forgetAll();
  there = found;
  for (const { name, refusal } of there.plugins) {
    if (!refusal || notes.has(name)) continue;
    const tell = refusal.step === "build" ? notBuilt : refused;
    tell({ plugin: name, ...refusal });
  }
  if (there.configuration_refusal) configurationRefused({ reason: there.configuration_refusal });
  else forget("", "configuration_refused");
  showRoutes();
  showPanics();
  openViews();
}

function openViews() {
  const [mount] = there.mounts;
  if (mount === undefined) return setText($("connection"), "There is no mount with a WebSocket.");
  views.playground ??= new Playground(connection("playground"), (topic) => routeOf(topic)?.plugin, reconnect);
  views.playground.offerMounts(there.mounts);
  const [first] = there.routes;
  if (first) views.playground.offer(first.example);
  offerApi(there.api);
  const hasChat = routeOf(CHAT_TOPIC)?.plugin === CHAT_PLUGIN;
  if (hasChat && !views.chat) {
    const own = connection("chat");
    own.connect(mount);
    views.chat = new Chat(own);
  }
  $("tabs").hidden = !hasChat;
  if (!inFront || (inFront === "chat" && !hasChat)) bring(hasChat ? "chat" : "playground");
}

function connection(view) {
  return new Connection(there.run, {
    anew: () => connectedAnew(views[view]),
    changed: () => (showConnection(), views.playground?.showRefusal()),
    heard: (message) => views[view]?.hear?.(message),
  });
}

/** Connects all views of a mount again: what they tell its connect handler has changed. */
function reconnect(mount) {
  for (const view of Object.values(views)) {
    if (view.connection.mount.path !== mount.path) continue;
    view.connection.connect(mount);
    view.enter?.();
  }
  showConnection();
}

function bring(name) {
  inFront = name;
  for (const each of ["chat", "playground"]) {
    $(each).hidden = each !== name;
    $(`${each}-tab`).ariaSelected = String(each === name);
  }
  $("people").hidden = name !== "chat";
  showConnection();
}

/** The first route, in the order of the file, that takes a topic. */
function routeOf(topic) {
  return there.routes.find(({ topic: pattern }) =>
    pattern.endsWith("*") ? topic.startsWith(pattern.slice(0, -1)) : topic === pattern,
  );
}

function showRoutes() {
  const routed = new Set(there.routes.map(({ plugin }) => plugin));
  const unrouted = there.plugins.filter(({ name }) => !routed.has(name)).map(({ name }) => ({ plugin: name }));
  $("routes").replaceChildren(...[...there.routes, ...unrouted].map(shownRoute));
}

function shownRoute({ topic, plugin, example }) {
  const { state, text } = stateOf(plugin);
  const pattern = element("button", { className: "route", type: "button", disabled: !topic, title: topic ? `Join ${example}` : "" });
  pattern.append(element("code", {}, topic ?? "(no route)"));
  pattern.addEventListener("click", () => {
    bring("playground");
    views.playground?.choose(example);
    showApi();
  });
  const item = element("li", {}, pattern, element("span", {}, element("b", {}, plugin), " ", element("small", { role: "status" }, text)));
  Object.assign(item.dataset, { plugin, state });
  if (topic) item.dataset.topic = topic;
  return item;
}

function stateOf(plugin) {
  const { version, generation } = there.plugins.find(({ name }) => name === plugin) ?? {};
  const serving = generation ? `${version}, generation ${generation}` : "not in service";
  const note = notes.get(plugin) ?? stays.get(plugin);
  const goesOn = generation && ["failed", "refused"].includes(note?.state) ? " stays in service" : "";
  if (note) return { state: note.state, text: `${serving}${goesOn}; ${note.text}` };
  if (!generation) return { state: "missing", text: `${serving}; the terminal says why` };
  return { state: "idle", text: serving };
}

function note(plugin, state, text) {
  if (state) notes.set(plugin, { state, text });
  else notes.delete(plugin);
  showRoutes();
}

// ---- news ----

function watchNews() {
  const events = new EventSource("/dev/events");
  const on = (event, show) => events.addEventListener(event, ({ data }) => show(JSON.parse(data)));
  // Also after a restart: what is there now is what counts.
  events.addEventListener("open", look);
  on("building", ({ plugin }) => note(plugin, "building", "building…"));
  on("build_failed", notBuilt);
  on("refused", refused);
  on("unchanged", unchanged);
  on("reload", reloaded);
  on("configuration", look);
  on("denied", denied);
  on("configuration_refused", configurationRefused);
  for (const event of ["faults", "missed"]) on(event, look);
  return events;
}

/** The server has refused a client. */
function denied({ mount, status, reason }) {
  for (const { connection } of Object.values(views)) if (connection.mount?.path === mount) connection.refused({ status, reason });
}

function configurationRefused({ reason }) {
  const shown = document.querySelector("#problems [data-event=configuration_refused] pre");
  if (shown?.textContent === reason) return;
  forget("", "configuration_refused");
  record("configuration_refused", "", "The configuration was rejected. The server still runs with the previous one.", reason);
}

function goesOn(plugin) {
  const isThere = there.plugins.some(({ name, generation }) => name === plugin && generation);
  return isThere ? "The previous code stays in service." : "It is not in service.";
}

function notBuilt({ plugin, code, reason }) {
  const what = code === "compile" ? "does not compile" : "cannot be built";
  note(plugin, "failed", `the source ${what}`);
  forget(plugin, "build_failed", "refused");
  record("build_failed", plugin, `${plugin} ${what}. ${goesOn(plugin)}`, reason);
}

function refused({ plugin, step, reason }) {
  note(plugin, "refused", REFUSED);
  forget(plugin, "build_failed", "refused");
  record("refused", plugin, `${plugin} was rejected (${step}). ${goesOn(plugin)}`, reason);
}

/** The build gave the same library as before: the one in service, or one that was rejected. */
function unchanged({ plugin, in_service: inService }) {
  forget(plugin, "build_failed");
  if (!inService) return note(plugin, "refused", REFUSED);
  forget(plugin, "refused");
  note(plugin, null);
}

function reloaded(reload) {
  const { plugin, version, generation, topics, failed, rejoined, probed_ms: probedMs, swap_ms: swapMs } = reload;
  forget(plugin, "build_failed", "refused", "stays");
  stays.delete(plugin);
  const known = there.plugins.find(({ name }) => name === plugin);
  if (known) Object.assign(known, { version, generation });
  if (failed > 0) stayed(reload);
  note(plugin, null);
  const counts = [
    `probed in ${time(probedMs)}`,
    topics === 0 ? "no topics" : `${amount(topics, "topic")} moved in ${time(swapMs)}`,
    failed > 0 && `${amount(failed, "topic")} not`,
    rejoined > 0 && `${amount(rejoined, "topic")} joined again`,
  ];
  for (const { connection } of Object.values(views)) {
    // The new code may let in whom the previous code has refused.
    if (!connection.isOpen && connection.mount?.connect === plugin) reconnect(connection.mount);
  }
  record("reload", plugin, `${plugin} ${version}, generation ${generation}: ${counts.filter(Boolean).join(", ")}`);
  showPanics();
  if (generation === 1 || failed > 0) return;
  for (const view of Object.values(views)) {
    if (!view.topic || routeOf(view.topic)?.plugin !== plugin) continue;
    view.connection.reloads += 1;
    view.divide(`new code, same connection · generation ${generation}`, generation);
  }
  showConnection();
}

/** The new code is in service, but could not read the state of all topics. */
function stayed({ plugin, version, generation, topics, failed, reason }) {
  const what = `${failed} of ${amount(topics + failed, "topic")} ${failed === 1 ? "stays" : "stay"} on the previous code`;
  stays.set(plugin, { state: "stays", text: what });
  const advice = /missing field/.test(reason) ? " A new field needs #[serde(default)]." : "";
  record("stays", plugin, `${plugin} ${version}, generation ${generation}: ${what}.${advice}`, reason);
}

/** A socket is back, at the same server or at one that was started since. */
async function connectedAnew(view) {
  view.forgetDividers();
  showConnection();
  const before = view.connection.run;
  await look();
  view.connection.run = there.run;
  view.divide(before === there.run ? "connected again" : "the server was restarted");
}

/** The server was restarted: nothing of the previous run holds. */
function forgetAll() {
  notes.clear();
  stays.clear();
  for (const list of ["problems", "events"]) $(list).replaceChildren();
}

/** Shows the last panics, but not those of code that newer code has replaced. */
function showPanics() {
  const all = there.plugins.flatMap(({ name, generation, panics = [] }) =>
    panics.filter((panic) => panic.generation >= (generation ?? 0)).map((panic) => ({ plugin: name, ...panic })),
  );
  all.sort((a, b) => b.at_unix_s - a.at_unix_s);
  $("panics").replaceChildren(...all.slice(0, EVENTS_SHOWN).map(shownPanic));
}

function shownPanic({ plugin, generation, callback, event, topic, message, count }) {
  const where = [event && `of ${event}`, topic && `in ${topic}`, count > 1 && `(${count} times)`].filter(Boolean);
  const text = [`${plugin}, generation ${generation}, panicked: ${callback}`, ...where].join(" ");
  const item = element("li", {}, text, element("pre", {}, message));
  Object.assign(item.dataset, { plugin, count });
  return item;
}

/** Problems go to the top, with all their details; reloads go to the list beside. */
function record(event, plugin, text, detail) {
  const item = element("li", {}, text, ...(detail ? [element("pre", {}, detail)] : []));
  Object.assign(item.dataset, { event, plugin });
  const list = $(event === "reload" ? "events" : "problems");
  list.prepend(item);
  while (list.children.length > EVENTS_SHOWN) list.lastElementChild.remove();
}

/** Takes away news of a plugin that hold no longer. */
function forget(plugin, ...events) {
  for (const item of [...$("problems").children]) {
    if (item.dataset.plugin === plugin && events.includes(item.dataset.event)) item.remove();
  }
}

/** That of the view in front. */
function showConnection() {
  const connection = views[inFront]?.connection;
  if (!connection) return;
  setData($("connection"), { state: connection.isOpen ? "open" : "closed", connects: connection.connects });
  const isGone = !connection.isOpen && connection.connects > 0 && news.readyState !== EventSource.OPEN;
  setText($("connection"), isGone ? "The server is gone; connecting again…" : connection.text);
  setData($("reloads"), { count: connection.reloads });
  setText($("reloads"), connection.reloads === 0 ? "" : ` · ${amount(connection.reloads, "reload")} since`);
}
