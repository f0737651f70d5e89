// phoenix.js as it was: builds for pages, each given as much of a page as it looks for.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const { resolve } = createRequire(import.meta.url);

/** An XMLHttpRequest, as far as these builds use one. */
class XMLHttpRequest {
  readyState = 0;
  responseText = "";
  #request;
  #headers = {};
  #abort = new AbortController();

  open(method, url) {
    this.#request = { method, url };
  }

  setRequestHeader(name, value) {
    this.#headers[name] = value;
  }

  abort() {
    this.#abort.abort();
  }

  async send(body) {
    const { method, url } = this.#request;
    try {
      const response = await fetch(url, { method, headers: this.#headers, body, signal: this.#abort.signal });
      this.responseText = await response.text();
    } catch (error) {
      if (error.name !== "AbortError") this.onerror();
      return;
    }
    this.readyState = 4;
    this.onreadystatechange();
  }
}

function load(name) {
  const module = { exports: {} };
  const page = { module, exports: module.exports, window: { XMLHttpRequest }, XMLHttpRequest };
  new Function(...Object.keys(page), readFileSync(resolve(name), "utf8"))(...Object.values(page));
  return module.exports;
}

export const phoenix1_7 = load("phoenix-1-7");

const original = load("phoenix-1-2");

/** Its Presence was two functions. */
class Presence {
  #state = {};
  #synced = () => {};

  constructor(channel) {
    const { syncState, syncDiff } = original.Presence;
    for (const [event, sync] of Object.entries({ presence_state: syncState, presence_diff: syncDiff })) {
      channel.on(event, (payload) => {
        this.#state = sync.call(original.Presence, this.#state, payload);
        this.#synced();
      });
    }
  }

  onSync(callback) {
    this.#synced = callback;
  }

  list(by) {
    return original.Presence.list(this.#state, by);
  }
}

/** It takes a message for JSON; since Phoenix 1.4 servers, ours as well, send the text of it. */
class LongPoll extends original.LongPoll {
  get onmessage() {
    return ({ data }) => this.heard({ data: JSON.parse(data) });
  }

  set onmessage(callback) {
    this.heard = callback;
  }
}

export const phoenix1_2 = { ...original, LongPoll, Presence };
