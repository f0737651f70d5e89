/**
 * Tables and lists that change while somebody looks at them. What stays the same keeps its element, so that a button is still there
 * when it is clicked, and what is open stays open.
 */

import { element, setText } from "./dom.js";

/** Makes the children of `list` those of `items`: `make` makes one that is new, `update` changes it. */
export function keep(list, items, keyOf, make, update = () => {}) {
  const known = new Map([...list.children].map((child) => [child.dataset.key, child]));
  let place = list.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let child = known.get(key);
    known.delete(key);
    if (!child) {
      child = make(item);
      child.dataset.key = key;
    }
    update(child, item);
    if (child === place) place = place.nextElementSibling;
    else list.insertBefore(child, place);
  }
  for (const gone of known.values()) gone.remove();
}

/**
 * A table in `box`. A column has `title`, `of` (its text, or an element), and what else is set on its cells. A column with `once`
 * has its element made once for each row. On a narrow screen, each row is a card, unless `className` is another than `cards`.
 */
export function table(box, columns, rows, { keyOf, empty, className = "cards", update = () => {} }) {
  if (rows.length === 0) {
    if (!box.querySelector(".empty")) box.replaceChildren(element("p", { className: "empty" }, empty));
    return;
  }
  let body = box.querySelector("tbody");
  if (!body) {
    body = element("tbody");
    const heads = columns.map(({ title, className = "" }) => element("th", { className, scope: "col" }, title));
    box.replaceChildren(element("table", { className }, element("thead", {}, element("tr", {}, ...heads)), body));
  }
  keep(body, rows, keyOf, (row) => made(columns, row), (tr, row) => {
    columns.forEach(({ of }, index) => of && fill(tr.cells[index], of(row)));
    update(tr, row);
  });
}

function made(columns, row) {
  const tr = element("tr");
  columns.forEach(({ title, className = "", once }, index) => {
    const cell = element("td", { className });
    if (index > 0 && title) cell.dataset.label = title;
    if (once) cell.append(once(row));
    tr.append(cell);
  });
  return tr;
}

function fill(cell, content) {
  if (!(content instanceof Node)) return setText(cell, String(content));
  if (!cell.firstChild?.isEqualNode?.(content) || cell.childNodes.length > 1) cell.replaceChildren(content);
}
