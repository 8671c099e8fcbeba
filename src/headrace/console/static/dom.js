// Values become nodes. Text only ever becomes a text node, so nothing that a model, a person or a
// name says can become markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element; `at` are attributes (true = present, null and false = absent). */
export function make(tag, at = {}, ...children) {
  return filled(document.createElement(tag), at, children);
}

export function draw(tag, at = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), at, children);
}

function filled(node, at, children) {
  for (const [name, value] of Object.entries(at)) {
    if (value === null || value === false || value === undefined) continue;
    node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** A custom property of a node: the policy of the page allows no style attribute. */
export function set(node, values) {
  for (const [name, value] of Object.entries(values)) node.style.setProperty(name, String(value));
  return node;
}

/** What a panel says instead of its content: `busy`, `failed` (with a way to try again), `empty`. */
export function says(panel, kind, text, again = null) {
  panel.setAttribute("aria-busy", String(kind === "busy"));
  const said = make("div", { class: `state ${kind}`, role: kind === "failed" ? "alert" : "status" }, text);
  if (again) {
    const button = make("button", { type: "button", class: "quiet" }, "Try again");
    button.addEventListener("click", again);
    said.append(button);
  }
  panel.replaceChildren(said);
}

export function shows(panel, ...nodes) {
  panel.setAttribute("aria-busy", "false");
  panel.replaceChildren(...nodes);
}
