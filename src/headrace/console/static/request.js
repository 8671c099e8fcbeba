// One request explained: `GET /v1/requests/{id}/explain` -> its head, a waterfall of its spans, and
// what the model read, what it said, what was decided and what it cost.
import { ask } from "./access.js";
import { make, says, shows } from "./dom.js";
import { count, dollars, duration, moment } from "./formats.js";
import { waterfall } from "./waterfall.js";

let turn = 0;

/** Show it in `box`; `back` leads to the list. */
export async function open(box, id, back) {
  const mine = ++turn;
  says(box, "busy", "Loading …");
  try {
    const found = await ask(`/v1/requests/${encodeURIComponent(id)}/explain`);
    if (mine !== turn) return;
    shows(box, backLink(back), ...sections(found));
    box.querySelector("h2").focus();
  } catch (error) {
    if (mine !== turn) return;
    says(box, "failed", error.message, () => open(box, id, back));
    box.prepend(backLink(back));
  }
}

function backLink(back) {
  const link = make("a", { href: "/requests", class: "back" }, "← All requests");
  link.addEventListener("click", back);
  return link;
}

function sections(found) {
  return [
    headOf(found),
    panel("Time", waterfall(found.spans, found.timings)),
    panel("Decisions", decisionsOf(found)),
    panel("Calls and cost", legsOf(found), costOf(found)),
    panel("What the model read", promptOf(found)),
    panel("What it answered", answerOf(found)),
    panel("Parameters", parametersOf(found.parameters)),
  ];
}

function panel(name, ...nodes) {
  return make("section", { class: "panel" }, make("h3", {}, name), ...nodes);
}

function headOf(found) {
  const failed = found.status >= 400;
  const usage = found.usage;
  const facts = [
    ["Arrived", moment(found.started_s, { seconds: true })],
    ["Route", found.route],
    ["Team", [found.org, found.team].filter(Boolean).join(" / ")],
    ["Key", found.key_id],
    ["User", found.user],
    ["Feature", found.feature],
    ["End user", found.end_user],
    ["First token", found.timings.first_token_s === null ? "" : duration(found.timings.first_token_s)],
    ["Whole", duration(found.timings.duration_s)],
    ["Speed", found.timings.tokens_per_s ? `${found.timings.tokens_per_s.toFixed(1)} tok/s` : ""],
    ["Tokens", `${count(usage.prompt_tokens)} → ${count(usage.completion_tokens)}${usage.cached_tokens ? ` (${count(usage.cached_tokens)} cached)` : ""}`],
    ["Cost", found.cost.nanousd === null ? "not booked" : dollars(found.cost.nanousd)],
    ["Cache of answers", found.cache.result],
    ["Id", found.id],
  ];
  return make("section", { class: "panel" },
    make("h2", { tabindex: "-1" }, make("span", { class: `chip ${failed ? "bad" : "good"}` }, `${found.status} ${found.finish}`), ` ${found.model || "no model"}`),
    pairs(facts.filter(([, value]) => value)));
}

function pairs(facts) {
  return make("dl", { class: "pairs" }, ...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

function decisionsOf(found) {
  if (!found.decisions.length) return make("p", { class: "fine" }, "None was needed: the model that was named answered.");
  return make("ol", { class: "decisions" }, ...found.decisions.map((each) =>
    make("li", {}, make("span", { class: "when" }, duration(each.at_s)), make("b", {}, each.hop), make("span", {}, each.text, factsOf(each.facts)))));
}

function factsOf(facts) {
  const shown = Object.entries(facts).map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`);
  return shown.length ? make("span", { class: "fine" }, ` ${shown.join(" · ")}`) : null;
}

function legsOf(found) {
  if (!found.legs.length) return make("p", { class: "fine" }, "No backend was called.");
  const cells = (leg) => [leg.provider || "local", leg.model, leg.outcome + (leg.estimated ? " (estimated)" : ""), duration(leg.seconds)];
  return tableOf(["Provider", "Model", "Ended", "Seconds", "Prompt", "Completion"], found.legs.map((leg) =>
    [...cells(leg), count(leg.usage.prompt_tokens), count(leg.usage.completion_tokens)]), 3);
}

function costOf(found) {
  const postings = found.cost.ledger.postings ?? [];
  if (!found.cost.booked) return make("p", { class: "fine" }, "The ledger has no row of it (yet).");
  return tableOf(["Account", "Posting"], postings.map((each) => [each.account, dollars(each.amount_nanousd)]), 1);
}

function tableOf(names, rows, numbersFrom) {
  const kind = (index) => ({ class: index >= numbersFrom ? "number" : null });
  return make("div", { class: "scrolls", tabindex: "0", role: "region", "aria-label": `Table of ${names[0].toLowerCase()}` }, make("table", {},
    make("thead", {}, make("tr", {}, ...names.map((name, index) => make("th", { scope: "col", ...kind(index) }, name)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((value, index) => make("td", kind(index), String(value))))))));
}

function promptOf({ prompt, content }) {
  if (!prompt) return absent(content);
  if (prompt.rendered) return make("div", {}, ...prompt.rendered.map((text) => said(text)));
  if (prompt.prompt !== undefined) return said(typeof prompt.prompt === "string" ? prompt.prompt : JSON.stringify(prompt.prompt));
  return make("div", {}, ...(prompt.messages ?? []).map((message) =>
    make("div", { class: "turn" }, make("span", { class: "fine" }, message.role), ...message.parts.map((part) => said(partText(part))))));
}

function partText(part) {
  if (part.text !== undefined && part.document === undefined) return part.text;
  return Object.entries(part).map(([name, value]) => `${name}: ${value}`).join("\n");
}

function answerOf({ answer, content }) {
  if (!answer) return absent(content);
  const nodes = answer.choices.flatMap((choice) => [
    choice.reasoning ? make("details", {}, make("summary", {}, "Reasoning"), said(choice.reasoning)) : null,
    choice.text ? said(choice.text) : null,
    ...(choice.tool_calls ?? []).map((call) => said(`${call.name}(${call.arguments})`)),
  ]);
  if (answer.error) nodes.push(make("p", { class: "failure" }, answer.error));
  return make("div", {}, ...(nodes.some(Boolean) ? nodes : [make("p", { class: "fine" }, "Nothing.")]));
}

function absent(content) {
  return make("p", { class: "fine" }, `Not kept: ${content}. headrace traces policy set team:NAME --content-rate 1 keeps what comes.`);
}

function said(text) {
  return make("pre", { class: "said", tabindex: "0" }, text);
}

function parametersOf(parameters) {
  const found = Object.entries(parameters);
  found.sort(([, one], [, other]) => (one.origin === "default") - (other.origin === "default")); // what was set, first
  const rows = found.map(([name, { value, origin }]) => [name, typeof value === "string" ? value : JSON.stringify(value), origin]);
  if (!rows.length) return make("p", { class: "fine" }, "It did not come so far.");
  return tableOf(["Parameter", "Value", "From"], rows, 3);
}
