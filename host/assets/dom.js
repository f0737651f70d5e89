/** What all parts of the page of `dev` need. What somebody wrote is never put into the page as markup. */

export const $ = (id) => document.getElementById(id);

export function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** A line between two others of a list. */
export function divider(text, generation) {
  const line = element("li", { className: "swap" }, text);
  if (generation !== undefined) line.dataset.generation = generation;
  return line;
}

/** Adds to a list that scrolls in `box`, and keeps its end in sight where it was. At most `most` stay. */
export function append(list, box, item, most) {
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 60;
  list.append(item);
  while (list.children.length > most) list.firstElementChild.remove();
  if (atEnd) box.scrollTop = box.scrollHeight;
}

export function amount(count, what) {
  return `${count} ${what}${count === 1 ? "" : "s"}`;
}

/** A time in the unit that suits it, as the terminal gives it. */
export function time(ms) {
  if (ms >= 1_000) return `${(ms / 1_000).toFixed(1)} s`;
  return ms >= 1 ? `${Math.round(ms)} ms` : `${Math.round(ms * 1_000)} µs`;
}

/** Sets what is different: who watches the page hears of nothing else. */
export function setData(where, data) {
  for (const [name, value] of Object.entries(data)) if (where.dataset[name] !== String(value)) where.dataset[name] = value;
}

export function setText(where, text) {
  if (where.textContent !== text) where.textContent = text;
}

/** What a refusal gives as its reason, whatever shape it has. */
export function reasonOf(response) {
  return response?.reason ?? (response ? JSON.stringify(response) : undefined);
}
