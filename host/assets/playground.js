/** Tries any topic by hand: connects, joins it, pushes events to it, and shows what comes back. */

import { credentialsOf, keep, readParams } from "./credentials.js";
import { $, append, divider, element, reasonOf } from "./dom.js";

const FRAMES_SHOWN = 500;
/** Events that were pushed before and that the plugin knew, for each plugin. */
const EVENTS_KEY = "bennu:events:";
const EVENTS_KEPT = 50;
const UNHANDLED = "unhandled event";

export class Playground {
  #connection;
  #channel = null;
  /** That of the last channel, of which more may come when it is left. */
  #topic = null;

  #mounts = [];
  #pluginOf;
  #reconnect;
  /** What is wrong with the connect parameters, or "". */
  #mistake = "";

  /**
   * @param {import("./connection.js").Connection} connection
   * @param {(topic: string) => string | undefined} pluginOf which plugin a topic leads to
   * @param {(mount: object) => void} reconnect has all that is connected to a mount connect with its new params
   */
  constructor(connection, pluginOf, reconnect) {
    this.#connection = connection;
    this.#pluginOf = pluginOf;
    this.#reconnect = reconnect;
    $("join").addEventListener("submit", (event) => this.#join(event));
    $("leave").addEventListener("click", () => this.#leave());
    $("push").addEventListener("submit", (event) => this.#push(event));
    $("connect").addEventListener("submit", (event) => this.#connect(event));
    $("mount").addEventListener("change", () => this.#fillIn());
    $("topic").addEventListener("input", () => this.#suggest());
  }

  // ---- the connection ----

  /** The mounts that one can connect to, which may have changed. */
  offerMounts(mounts) {
    this.#mounts = mounts;
    const chosen = mounts.find(({ path }) => path === this.#connection.mount?.path) ?? mounts[0];
    $("mount").replaceChildren(...mounts.map(({ path }) => element("option", { value: path, selected: path === chosen.path }, path)));
    $("mount").hidden = mounts.length === 1;
    const { mount } = this.#connection;
    if (!mount || mount.path !== chosen.path || mount.auth_token !== chosen.auth_token) this.#use(chosen);
    this.showRefusal();
  }

  #use(mount) {
    this.#connection.connect(mount);
    this.#fillIn();
    // A handler may want something, and then it is here that one says it.
    $("access").open ||= mount.connect !== null;
  }

  /** Shows what is kept for the chosen mount. */
  #fillIn() {
    const { params, token } = credentialsOf($("mount").value);
    $("connect-params").value = params;
    $("token").value = token;
    const { auth_token: hasAuthToken, connect } = this.#chosen();
    $("token").placeholder = hasAuthToken ? "auth token" : "token";
    $("access-note").textContent = connect === null ? "" : ` · ${connect} decides who may connect`;
    $("mount-name").textContent = this.#connection.mount?.path ?? $("mount").value;
  }

  #chosen() {
    return this.#mounts.find(({ path }) => path === $("mount").value) ?? this.#mounts[0];
  }

  #connect(submitted) {
    submitted.preventDefault();
    const [params, token] = [$("connect-params").value, $("token").value.trim()];
    try {
      readParams(params);
      this.#mistake = "";
    } catch (error) {
      this.#mistake = error.message;
      this.showRefusal();
      return;
    }
    const mount = this.#chosen();
    keep(mount.path, { params, token });
    this.#ended("Not joined.");
    this.#connection.mount = mount;
    this.#reconnect(mount);
    this.#fillIn();
    this.showRefusal();
  }

  showRefusal() {
    const { refusal, refusalText, mount } = this.#connection;
    const refused = refusal ? `${mount.path} refuses the connection: ${refusalText}` : "";
    // The client tries again and is refused again; that must not hide what is wrong with the parameters.
    $("connect-error").textContent = this.#mistake || refused;
    $("access").open ||= refusal !== null;
  }

  /** What comes from the server without being asked for. */
  hear({ topic, event, payload }) {
    if (topic !== this.#topic || event === "phx_reply") return;
    this.#frame("heard", "←", event, payload);
  }

  // ---- a topic ----

  get connection() {
    return this.#connection;
  }

  /** The topic that is joined, if one is. */
  get topic() {
    return this.#channel?.topic;
  }

  /** Offers a topic to join, unless somebody has written one. */
  offer(topic) {
    if (!$("topic").value) $("topic").value = topic;
    this.#suggest();
  }

  /** Suggests events that were pushed to the plugin of this topic before. */
  #suggest() {
    const events = eventsOf(this.#pluginOf($("topic").value.trim()));
    $("events-known").replaceChildren(...events.map((event) => element("option", { value: event })));
  }

  /** Takes this topic. */
  choose(topic) {
    $("topic").value = topic;
    this.#suggest();
    $("join").requestSubmit();
  }

  divide(text, generation) {
    this.#show(divider(text, generation));
  }

  forgetDividers() {
    for (const old of $("frames").querySelectorAll(".swap")) old.remove();
  }

  #join(submitted) {
    submitted.preventDefault();
    const params = json("params", "join-error");
    if (params === undefined) return;
    this.#leave();
    const topic = $("topic").value.trim();
    // Asked for with each join: also with those that the client makes by itself.
    const channel = this.#connection.socket.channel(topic, () => (this.#sent("join", topic, params), params));
    this.#channel = channel;
    this.#topic = topic;
    this.#state("joining", `Joining ${topic}…`);
    // Nobody cares what a channel says after another has replaced it.
    const mine = (handle) => (response) => channel === this.#channel && handle(response);
    channel.onError(mine(() => this.#state("errored", `${topic} was lost; joining again…`)));
    channel.onClose(mine(() => this.#ended(`${topic} has ended.`)));
    const answered = (status, then) => mine((response) => (this.#answered(status, "join", response), then(response)));
    channel
      .join()
      .receive("ok", answered("ok", () => this.#state("joined", `In ${topic}.`)))
      .receive("error", answered("error", (response) => this.#refused(channel, `${topic} refused the join: ${reasonOf(response)}`)))
      .receive("timeout", answered("timeout", () => this.#state("errored", `${topic} does not answer; trying again…`)));
  }

  #leave() {
    const channel = this.#channel;
    this.#ended("Not joined.");
    if (!channel) return;
    this.#sent("leave", channel.topic, {});
    channel.leave().receive("ok", (response) => this.#answered("ok", "leave", response));
  }

  #refused(channel, text) {
    this.#ended(text, "errored");
    // Otherwise it would try for ever.
    channel.leave();
  }

  #ended(text, state = "closed") {
    this.#channel = null;
    this.#state(state, text);
  }

  #state(state, text) {
    $("join-state").dataset.state = state;
    $("join-state").textContent = text;
    $("leave").disabled = !this.#channel;
    $("push-button").disabled = !this.#channel;
  }

  #push(submitted) {
    submitted.preventDefault();
    const payload = json("payload", "push-error");
    if (payload === undefined || !this.#channel) return;
    const event = $("event").value.trim();
    this.#sent("push", event, payload);
    const push = this.#channel.push(event, payload);
    const { topic } = this.#channel;
    for (const status of ["ok", "error", "timeout"]) {
      push.receive(status, (response) => {
        this.#answered(status, event, response);
        if (status !== "timeout" && reasonOf(response) !== UNHANDLED) this.#knows(topic, event);
      });
    }
  }

  #knows(topic, event) {
    const plugin = this.#pluginOf(topic);
    if (!plugin) return;
    const events = [event, ...eventsOf(plugin).filter((other) => other !== event)];
    localStorage.setItem(EVENTS_KEY + plugin, JSON.stringify(events.slice(0, EVENTS_KEPT)));
    this.#suggest();
  }

  #sent(kind, event, payload) {
    this.#frame(kind, "→", kind === "push" ? event : `${kind} ${event}`, payload);
  }

  #answered(status, event, response) {
    const text = status === "timeout" ? "no reply in time" : response;
    this.#frame("reply", "←", `${status} to ${event}`, text).dataset.status = status;
  }

  #frame(kind, arrow, name, payload) {
    const item = element("li", { className: "frame" }, `${arrow} `, element("b", {}, name), " ", element("code", {}, shown(payload)));
    item.dataset.kind = kind;
    this.#show(item);
    return item;
  }

  #show(item) {
    append($("frames"), $("frames-box"), item, FRAMES_SHOWN);
  }
}

function eventsOf(plugin) {
  try {
    return JSON.parse(localStorage.getItem(EVENTS_KEY + plugin) ?? "[]");
  } catch {
    return [];
  }
}

/** The JSON in a field; an empty field is an empty object. `undefined`: the field is not JSON, and says so. */
function json(field, complaint) {
  try {
    const value = JSON.parse($(field).value.trim() || "{}");
    $(complaint).textContent = "";
    return value;
  } catch (error) {
    $(complaint).textContent = `This is not JSON: ${error.message}`;
    return undefined;
  }
}

function shown(payload) {
  return payload instanceof ArrayBuffer ? `${payload.byteLength} bytes` : JSON.stringify(payload);
}
