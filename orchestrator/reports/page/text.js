"use strict";
// Elements made without markup, and text shown as text: nothing that a run says is ever parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

// What text/shown.py writes as an escape: characters that are obeyed, hidden, or reorder others.
const OBEYED =
  /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\xad\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff0-\ufffb\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\u2028\u2029\u{1bca0}-\u{1bca3}\u{1d173}-\u{1d17a}\u{e0000}-\u{e0fff}\ud800-\udfff]/gu;

function escaped(character) {
  const code = character.codePointAt(0);
  const hex = code.toString(16);
  if (code < 0x100) return "\\x" + hex.padStart(2, "0");
  return code < 0x10000 ? "\\u" + hex.padStart(4, "0") : "\\U" + hex.padStart(8, "0");
}

// An element; attributes are set by name, `on…` as listeners, and children are nodes or text.
function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) element.append(child);
  }
  return element;
}

// A run's words as nodes: what would be obeyed stands there as a marked escape.
function said(value) {
  const text = String(value);
  const nodes = [];
  let end = 0;
  for (const found of text.matchAll(OBEYED)) {
    if (found.index > end) nodes.push(text.slice(end, found.index));
    nodes.push(el("span", { class: "escape" }, escaped(found[0])));
    end = found.index + found[0].length;
  }
  if (end < text.length) nodes.push(text.slice(end));
  return nodes;
}

// The same as one line of plain text, for attributes and options.
function plain(value) {
  return String(value).replace(OBEYED, escaped).replace(/\n/g, "\\n");
}

// A word of a command as a shell takes it: whoever copies a command runs nothing that a run says.
function quoted(word) {
  const text = String(word);
  return /^[\w@%+=:,./-]+$/.test(text) ? text : "'" + text.replaceAll("'", `'"'"'`) + "'";
}

function number(value, digits = 0) {
  if (value === null || value === undefined) return "–";
  // Halves go to the even digit, as in the terminal and in report.md.
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits, roundingMode: "halfEven" });
}

function percent(value) {
  return value === null || value === undefined ? "–" : number(100 * value, 1) + " %";
}

function interval(told) {
  if (!told) return "–";
  const between = told.low === null ? "" : ` [${number(100 * told.low, 1)}, ${number(100 * told.high, 1)}]`;
  return number(100 * told.accuracy, 1) + between;
}

function roundName(number) {
  return number === 0 ? "base model" : `round ${number}`;
}

// A table; `columns` are [heading, cell of a row] and cells are text.
function table(caption, columns, rows) {
  return el(
    "table", {},
    el("caption", {}, caption),
    el("thead", {}, el("tr", {}, columns.map(([heading]) => el("th", { scope: "col" }, heading)))),
    el("tbody", {}, rows.map((row) =>
      el("tr", {}, columns.map(([, cell], at) => el(at ? "td" : "th", at ? {} : { scope: "row" }, said(cell(row)))))
    )),
  );
}
