/**
 * The chat room of `bennu dev`, and what its author wants to see: that the plugin was replaced, and that nothing else was.
 *
 * Speaks to `room:lobby` as any client would. Only the list of what happened to plugins comes from elsewhere, `/dev/events`.
 * What somebody wrote is never put into the page as markup.
 */

import { Presence, Socket } from "./bennu.js";

const TOPIC = "room:lobby";
/** The plugin that serves it. What becomes of others is news, no more. */
const PLUGIN = "room";
const NAME_KEY = "bennu:name";
/** Typing is over when nothing was typed for this long. */
const TYPING_MS = 2_500;
/** Someone's typing is forgotten after this long, should the word that it ended be lost. */
const TYPING_FORGOTTEN_MS = 6_000;
const EVENTS_SHOWN = 8;
const MESSAGES_SHOWN = 500;

const $ = (id) => document.getElementById(id);
const socket = new Socket("/socket");

let channel;
let name = ownName();
let connects = 0;
let connectedAt = null;
/** On this connection. */
let reloads = 0;
/** The generation that is known to serve this room. */
let generationHere = null;
/** Why this room is not served by the newest code, if that is so. */
let stays = null;
let plugins;
/** Who is typing, with the timer that forgets it. */
const typing = new Map();
let typingTimer = null;

start();

function start() {
  socket.onOpen(() => {
    connects += 1;
    connectedAt = Date.now();
    if (connects > 1) connectedAnew();
    showConnection();
  });
  socket.onClose(showConnection);
  socket.connect();
  enter();
  plugins = watchPlugins();
  $("say").addEventListener("submit", say);
  $("rename").addEventListener("submit", rename);
  $("body").addEventListener("input", typed);
  $("second").href = location.pathname;
  setInterval(showConnection, 1_000);
}

// ---- the room ----

/** Joins under the present name, in place of an earlier channel. */
function enter() {
  $("name").value = name;
  const joined = socket.channel(TOPIC, { name });
  const presence = new Presence(joined);
  presence.onSync(() => showMembers(presence));
  joined.on("new_msg", (message) => showMessage(message, { fresh: true }));
  joined.on("typing", showTyping);
  joined
    .join()
    .receive("ok", ({ history }) => showHistory(history))
    .receive("error", (response) => ($("name-error").textContent = `The room said no: ${reasonOf(response)}`));
  channel = joined;
}

async function say(event) {
  event.preventDefault();
  const body = $("body").value.trim();
  if (!body) return;
  $("body").value = "";
  stopTyping();
  try {
    await channel.push("new_msg", { body });
    $("say-error").textContent = "";
  } catch (error) {
    $("say-error").textContent = `Not sent (${reasonOf(error.response) ?? error.message}).`;
    if (!$("body").value) $("body").value = body;
  }
}

function rename(event) {
  event.preventDefault();
  const wanted = $("name").value.trim();
  if (!wanted || (wanted === name && channel.state === "joined")) return;
  name = wanted;
  sessionStorage.setItem(NAME_KEY, name);
  channel.leave();
  enter();
}

/** A tab is a person: the name is kept for the tab, and no other tab has it. */
function ownName() {
  const asked = new URLSearchParams(location.search).get("name");
  const own = asked || sessionStorage.getItem(NAME_KEY) || `Guest ${100 + Math.floor(Math.random() * 900)}`;
  sessionStorage.setItem(NAME_KEY, own);
  return own;
}

// ---- messages ----

function showHistory(history) {
  $("name-error").textContent = "";
  const swaps = [...$("messages").querySelectorAll(".swap")];
  $("messages").replaceChildren();
  for (const message of history) showMessage(message);
  // A rejoin shows the room as it is now; that it was swapped stays on the page.
  $("messages").append(...swaps);
  toEnd();
}

function showMessage({ id, name: from, body }, { fresh = false } = {}) {
  const bubble = element("p", { className: "bubble" }, element("b", {}, from), element("span", { className: "body" }, body));
  const mine = from === name;
  const item = element("li", { className: mine ? "message mine" : "message" }, avatar(from), bubble);
  item.dataset.id = id;
  item.dataset.name = from;
  append(item, fresh);
  typing.delete(from);
  listTyping();
}

function append(item, fresh) {
  const { scrollHeight, scrollTop, clientHeight } = $("log");
  const atEnd = scrollHeight - scrollTop - clientHeight < 60;
  item.classList.toggle("fresh", fresh);
  $("messages").append(item);
  while ($("messages").children.length > MESSAGES_SHOWN) $("messages").firstElementChild.remove();
  if (atEnd) toEnd();
}

function toEnd() {
  $("log").scrollTop = $("log").scrollHeight;
}

// ---- members ----

function showMembers(presence) {
  const members = presence.list((key, { metas }) => ({ key, tabs: metas.length }));
  members.sort((a, b) => a.key.localeCompare(b.key));
  $("members").replaceChildren(
    ...members.map(({ key, tabs }) => {
      const notes = [key === name && "you", tabs > 1 && `${tabs} tabs`].filter(Boolean).join(", ");
      const item = element("li", {}, avatar(key), element("span", {}, key), element("small", {}, notes));
      item.dataset.name = key;
      return item;
    }),
  );
}

function typed() {
  if (typingTimer === null) channel.push("typing", { typing: true });
  clearTimeout(typingTimer);
  typingTimer = setTimeout(stopTyping, TYPING_MS);
}

function stopTyping() {
  if (typingTimer === null) return;
  clearTimeout(typingTimer);
  typingTimer = null;
  channel.push("typing", { typing: false });
}

function showTyping({ name: from, typing: isTyping }) {
  clearTimeout(typing.get(from));
  typing.delete(from);
  if (isTyping && from !== name) {
    const forget = () => showTyping({ name: from, typing: false });
    typing.set(from, setTimeout(forget, TYPING_FORGOTTEN_MS));
  }
  listTyping();
}

function listTyping() {
  const names = [...typing.keys()];
  $("typing").textContent = names.length === 0 ? "" : `${names.join(", ")} ${names.length === 1 ? "is" : "are"} typing…`;
}

// ---- the plugins, and the connection that outlives them ----

function watchPlugins() {
  const events = new EventSource("/dev/events");
  const on = (event, show) => events.addEventListener(event, ({ data }) => show(JSON.parse(data)));
  on("building", ({ plugin }) => build(plugin, "building", `Building ${plugin}…`));
  on("build_failed", ({ plugin, message }) => {
    build(plugin, "failed", "This does not compile. The code before it goes on serving.");
    forget(plugin, "build_failed", "refused");
    record("build_failed", plugin, `${plugin} was not built`, message);
  });
  on("refused", ({ plugin, step, reason }) => {
    build(plugin, "refused", "Refused. The code before it goes on serving.");
    forget(plugin, "build_failed", "refused");
    record("refused", plugin, `${plugin} was refused (${step})`, reason);
  });
  on("unchanged", ({ plugin }) => {
    forget(plugin, "build_failed", "refused");
    if (stays) build(plugin, "stays", stays);
    else build(plugin, "idle", `Built ${plugin}: nothing is different.`);
  });
  on("reload", reloaded);
  return events;
}

function reloaded(reload) {
  const { plugin, version, generation, topics, failed = 0, rejoined = 0, took_ms: tookMs } = reload;
  forget(plugin, "build_failed", "refused", "stays");
  if (plugin === PLUGIN && failed > 0) return stayed(reload);
  const counts = [
    `${amount(topics, "topic")} moved in ${Math.round(tookMs)} ms`,
    failed > 0 && `${amount(failed, "topic")} not, they stay on the code before`,
    rejoined > 0 && `${amount(rejoined, "topic")} joined anew`,
  ];
  record("reload", plugin, `${plugin} ${version}, generation ${generation}: ${counts.filter(Boolean).join("; ")}`);
  if (plugin !== PLUGIN) return;
  stays = null;
  generationHere = generation;
  build(plugin, "idle", `Serving this room: ${plugin} ${version}, generation ${generation}.`);
  reloads += 1;
  $("reloads").dataset.count = reloads;
  showConnection();
  divide(`new code, same connection · generation ${generation}`).dataset.generation = generation;
}

/** The new code is there, but could not take this room's state. */
function stayed({ plugin, version, generation, reason = "its state could not be carried over" }) {
  const before = generationHere ? `generation ${generationHere}` : `the generation before ${generation}`;
  stays = `This room stays on ${before}: ${reason}; a new field needs #[serde(default)].`;
  build(plugin, "stays", stays);
  record("stays", plugin, `${plugin} ${version}, generation ${generation} does not serve this room`, reason);
}

/** The socket is back. Where the news were lost as well it was the server that went, with all that it had. */
function connectedAnew() {
  reloads = 0;
  $("reloads").dataset.count = reloads;
  for (const old of $("messages").querySelectorAll(".swap")) old.remove();
  const restarted = plugins.readyState !== EventSource.OPEN;
  divide(restarted ? "the server was restarted" : "connected anew");
  if (!restarted) return;
  stays = null;
  generationHere = null;
  $("events").replaceChildren();
  build(PLUGIN, "idle", "The server was restarted. Serving this room.");
}

/** A line between two messages. */
function divide(text) {
  const line = element("li", { className: "swap" }, text);
  append(line, true);
  return line;
}

/** What becomes of the plugin behind this room. */
function build(plugin, state, text) {
  if (plugin !== PLUGIN) return;
  $("build").dataset.state = state;
  $("build").textContent = text;
}

function record(event, plugin, text, detail) {
  const item = element("li", {}, text, ...(detail ? [element("pre", {}, detail)] : []));
  item.dataset.event = event;
  item.dataset.plugin = plugin;
  $("events").prepend(item);
  while ($("events").children.length > EVENTS_SHOWN) $("events").lastElementChild.remove();
}

/** Takes away news of a plugin that hold no longer. */
function forget(plugin, ...events) {
  for (const item of [...$("events").children]) {
    if (item.dataset.plugin === plugin && events.includes(item.dataset.event)) item.remove();
  }
}

function showConnection() {
  const open = socket.isConnected();
  const often = connects === 1 ? "once," : `${connects} times, last`;
  const connection = $("connection");
  connection.dataset.state = open ? "open" : "closed";
  connection.dataset.connects = connects;
  setText(connection, open ? `Connected ${often} ${ago(Date.now() - connectedAt)}` : "Connecting…");
  setText($("reloads"), reloads === 0 ? "" : ` · ${amount(reloads, "reload")} since`);
}

function ago(ms) {
  const seconds = Math.floor(ms / 1_000);
  if (seconds < 10) return "just now";
  if (seconds < 60) return `${seconds} s ago`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes} min ago` : `${Math.floor(minutes / 60)} h ${minutes % 60} min ago`;
}

// ---- small things ----

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function avatar(of) {
  const made = element("span", { className: "avatar", ariaHidden: "true" }, [...of][0] ?? "?");
  let hue = 0;
  for (const character of of) hue = (hue * 31 + character.codePointAt(0)) % 360;
  made.style.setProperty("--hue", hue);
  return made;
}

function amount(count, what) {
  return `${count} ${what}${count === 1 ? "" : "s"}`;
}

function setText(where, text) {
  if (where.textContent !== text) where.textContent = text;
}

/** What a refusal gives as its reason, whatever shape it has. */
function reasonOf(response) {
  return response?.reason ?? (response ? JSON.stringify(response) : undefined);
}
