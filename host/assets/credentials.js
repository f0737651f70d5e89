/** What a connect handler is told: params and a token, kept in this browser for each mount. */

const KEY = "bennu:connect:";

/** @returns {{params: string, token: string}} as they were typed */
export function credentialsOf(mount) {
  try {
    return { params: "", token: "", ...JSON.parse(localStorage.getItem(KEY + mount) ?? "{}") };
  } catch {
    return { params: "", token: "" };
  }
}

export function keep(mount, credentials) {
  localStorage.setItem(KEY + mount, JSON.stringify(credentials));
}

/**
 * Reads params: `name=ann&room=1`, or a JSON object.
 *
 * @returns {object}
 * @throws {Error} that says what is wrong
 */
export function readParams(text) {
  const trimmed = text.trim();
  if (!trimmed.startsWith("{")) return Object.fromEntries(new URLSearchParams(trimmed));
  try {
    return JSON.parse(trimmed);
  } catch (error) {
    throw new Error(`This is not JSON: ${error.message}`);
  }
}

/** What a socket to a mount sends: those in the address of the page, then those that were typed. */
export function paramsFor({ path, auth_token: hasAuthToken }) {
  const { params, token } = credentialsOf(path);
  const own = Object.fromEntries(new URLSearchParams(location.search));
  return { ...own, ...readParams(params), ...(token && !hasAuthToken ? { token } : {}) };
}

/** The token of a mount that takes it in a header. */
export function authTokenFor({ path, auth_token: hasAuthToken }) {
  return hasAuthToken ? credentialsOf(path).token : "";
}
