/** What an operator may do. Each asks first, and says how it went. */

import { $ } from "./dom.js";
import { ask, cluster, query } from "./server.js";
import { counted } from "./words.js";

/** How long it is shown what was done. */
const SHOWN_MS = 8_000;

let timer;

/** Shows that something was done, or why it was not. */
export function say(text, isBad = false) {
  const [shown, other] = isBad ? [$("trouble"), $("done")] : [$("done"), $("trouble")];
  other.hidden = true;
  shown.hidden = false;
  shown.textContent = text;
  clearTimeout(timer);
  timer = setTimeout(() => (shown.hidden = true), SHOWN_MS);
}

/** Asks whether to go on. Gives the answer, and for how long to keep a socket id away. */
function confirmed(title, text, yes, mayKeepAway = false) {
  const dialog = $("confirm");
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  $("confirm-yes").textContent = yes;
  $("away-label").hidden = !mayKeepAway;
  $("away").value = "";
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes" && { away: $("away").value }), { once: true });
  });
}

async function act(button, change, after) {
  button.disabled = true;
  try {
    say(await change());
    await after();
  } catch (error) {
    say(`Not done: ${error.message}.`, true);
  } finally {
    button.disabled = false;
  }
}

/** The node that is looked at, in a cluster. */
const there = () => (cluster.chosen === undefined ? "" : ` on node ${cluster.chosen}`);

/** `after` shows anew what may have changed. */
export function actions(after) {
  return {
    async reload(button, plugin) {
      const text = "Bennu loads the library as it is on the disk now. Topics keep their state if the new code can read it.";
      if (!(await confirmed(`Reload ${plugin}${there()}?`, text, "Reload"))) return;
      await act(button, async () => {
        await ask(`plugins/${encodeURIComponent(plugin)}/reload`, { method: "PUT" });
        return `${plugin} is being loaded. The result appears under “What has changed”.`;
      }, after);
    },

    async rollBack(button, { name, generation, version }) {
      const text = `The code before generation ${generation} (version ${version}) takes over: the generation that waits for the end of the probation, or the last good library that is stored. The present contents go into quarantine.`;
      if (!(await confirmed(`Roll ${name} back${there()}?`, text, "Roll back"))) return;
      await act(button, async () => {
        await ask(`plugins/${encodeURIComponent(name)}/rollback`, { method: "PUT" });
        return `${name} is being rolled back. The result appears under “What has changed”.`;
      }, after);
    },

    async lift(button, { hash, plugin, reason }) {
      const text = `These contents of ${plugin} did harm before: ${reason}. If they are the plugin's library now, Bennu loads them at once.`;
      if (!(await confirmed(`Lift the quarantine${there()}?`, text, "Lift"))) return;
      await act(button, async () => {
        await ask(`quarantine/${hash}`, { method: "DELETE" });
        return `${hash.slice(0, 12)} is no longer in quarantine.`;
      }, after);
    },

    /** `whom` chooses clients: by `connection`, `socket_id` or `peer`. */
    async disconnect(button, whom, shown, node) {
      const text = "Their connections are closed with code 1001. Most clients come back by themselves.";
      const sure = await confirmed(`Disconnect ${shown}?`, text, "Disconnect", whom.socket_id !== undefined);
      if (!sure) return;
      await act(button, async () => {
        const chosen = query({ ...whom, refuse_ms: whom.socket_id === undefined ? undefined : sure.away });
        const { disconnected, missing = [] } = await ask(`connections?${chosen}`, { method: "DELETE", node });
        const silent = missing.length > 0 ? ` Without ${missing.join(", ")}, which did not answer.` : "";
        return `${counted(disconnected, "client")} disconnected.${silent}`;
      }, after);
    },
  };
}
