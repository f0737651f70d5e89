/** The chat room of `dev`, where a plugin `room` is routed. Speaks to it as any client would. */

import { Presence } from "./bennu.js";
import { $, append, divider, element, reasonOf } from "./dom.js";

export const TOPIC = "room:lobby";
const NAME_KEY = "bennu:name";
/** Typing is over when nothing was typed for this long. */
const TYPING_MS = 2_500;
/** Someone's typing is forgotten after this long, should the word that it ended be lost. */
const TYPING_FORGOTTEN_MS = 6_000;
const MESSAGES_SHOWN = 500;

export class Chat {
  topic = TOPIC;
  #connection;
  #channel;
  #name = ownName();
  /** Who is typing, with the timer that forgets it. */
  #typing = new Map();
  #typingTimer = null;

  /** @param {import("./connection.js").Connection} connection */
  constructor(connection) {
    this.#connection = connection;
    this.enter();
    $("say").addEventListener("submit", (event) => this.#say(event));
    $("rename").addEventListener("submit", (event) => this.#rename(event));
    $("body").addEventListener("input", () => this.#typed());
    $("second").href = location.pathname;
  }

  get connection() {
    return this.#connection;
  }

  divide(text, generation) {
    this.#append(divider(text, generation), true);
  }

  forgetDividers() {
    for (const old of $("messages").querySelectorAll(".swap")) old.remove();
  }

  /** Joins under the present name, instead of an earlier channel. */
  enter() {
    const name = this.#name;
    $("name").value = name;
    const joined = this.#connection.socket.channel(TOPIC, { name });
    const presence = new Presence(joined);
    presence.onSync(() => this.#showMembers(presence));
    joined.on("new_msg", (message) => this.#showMessage(message, { fresh: true }));
    joined.on("typing", (who) => this.#showTyping(who));
    joined
      .join()
      .receive("ok", ({ history }) => this.#showHistory(history))
      .receive("error", (response) => ($("name-error").textContent = `The room said no: ${reasonOf(response)}`));
    this.#channel = joined;
  }

  async #say(event) {
    event.preventDefault();
    const body = $("body").value.trim();
    if (!body) return;
    $("body").value = "";
    this.#stopTyping();
    try {
      await this.#channel.push("new_msg", { body });
      $("say-error").textContent = "";
    } catch (error) {
      $("say-error").textContent = `Not sent (${reasonOf(error.response) ?? error.message}).`;
      if (!$("body").value) $("body").value = body;
    }
  }

  #rename(event) {
    event.preventDefault();
    const wanted = $("name").value.trim();
    if (!wanted || (wanted === this.#name && this.#channel.state === "joined")) return;
    this.#name = wanted;
    sessionStorage.setItem(NAME_KEY, wanted);
    this.#channel.leave();
    this.enter();
  }

  // ---- messages ----

  #showHistory(history) {
    $("name-error").textContent = "";
    const swaps = [...$("messages").querySelectorAll(".swap")];
    $("messages").replaceChildren();
    for (const message of history) this.#showMessage(message);
    // A rejoin shows the room as it is now; that it was swapped stays on the page.
    $("messages").append(...swaps);
    $("log").scrollTop = $("log").scrollHeight;
  }

  #showMessage({ id, name: from, body }, { fresh = false } = {}) {
    const bubble = element("p", { className: "bubble" }, element("b", {}, from), element("span", { className: "body" }, body));
    const item = element("li", { className: from === this.#name ? "message mine" : "message" }, avatar(from), bubble);
    item.dataset.id = id;
    item.dataset.name = from;
    this.#append(item, fresh);
    this.#typing.delete(from);
    this.#listTyping();
  }

  #append(item, fresh) {
    item.classList.toggle("fresh", fresh);
    append($("messages"), $("log"), item, MESSAGES_SHOWN);
  }

  // ---- members ----

  #showMembers(presence) {
    const members = presence.list((key, { metas }) => ({ key, tabs: metas.length }));
    members.sort((a, b) => a.key.localeCompare(b.key));
    $("members").replaceChildren(
      ...members.map(({ key, tabs }) => {
        const notes = [key === this.#name && "you", tabs > 1 && `${tabs} tabs`].filter(Boolean).join(", ");
        const item = element("li", {}, avatar(key), element("span", {}, key), element("small", {}, notes));
        item.dataset.name = key;
        return item;
      }),
    );
  }

  #typed() {
    if (this.#typingTimer === null) this.#channel.push("typing", { typing: true });
    clearTimeout(this.#typingTimer);
    this.#typingTimer = setTimeout(() => this.#stopTyping(), TYPING_MS);
  }

  #stopTyping() {
    if (this.#typingTimer === null) return;
    clearTimeout(this.#typingTimer);
    this.#typingTimer = null;
    this.#channel.push("typing", { typing: false });
  }

  #showTyping({ name: from, typing: isTyping }) {
    clearTimeout(this.#typing.get(from));
    this.#typing.delete(from);
    if (isTyping && from !== this.#name) {
      const forget = () => this.#showTyping({ name: from, typing: false });
      this.#typing.set(from, setTimeout(forget, TYPING_FORGOTTEN_MS));
    }
    this.#listTyping();
  }

  #listTyping() {
    const names = [...this.#typing.keys()];
    $("typing").textContent = names.length === 0 ? "" : `${names.join(", ")} ${names.length === 1 ? "is" : "are"} typing…`;
  }
}

/** A tab is a person: the name is kept for the tab, and no other tab has it. */
function ownName() {
  const asked = new URLSearchParams(location.search).get("name");
  const own = asked || sessionStorage.getItem(NAME_KEY) || `Guest ${100 + Math.floor(Math.random() * 900)}`;
  sessionStorage.setItem(NAME_KEY, own);
  return own;
}

function avatar(of) {
  const made = element("span", { className: "avatar", ariaHidden: "true" }, [...of][0] ?? "?");
  let hue = 0;
  for (const character of of) hue = (hue * 31 + character.codePointAt(0)) % 360;
  made.style.setProperty("--hue", hue);
  return made;
}
