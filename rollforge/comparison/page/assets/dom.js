// Elements without innerHTML: whatever a prompt holds stays text.

const NS = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null) node.setAttribute(name, value);
  }
  node.append(...children.filter((each) => each !== null));
  return node;
}

const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(NS, tag), attributes, children);
const swatch = (n) => el("i", { class: `swatch c${n % 8}`, "aria-hidden": "true" });
const byId = (id) => document.getElementById(id);
const seconds = (value) => `${value.toFixed(value < 100 ? 2 : 1)} s`;
