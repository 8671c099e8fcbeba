// What one answer looks like while it grows and when it is done.
import { listen, spanOf } from "./tokens.js";

export function userTurn(text) {
  return articleOf("user", "You", text);
}

function articleOf(kind, name, text) {
  const article = document.createElement("article");
  article.className = kind;
  const heading = document.createElement("h2");
  heading.textContent = name;
  const body = document.createElement("div");
  body.className = "body";
  body.textContent = text;
  article.append(heading, body);
  return article;
}

/** An answer on the page: `add` what the API sends, then `end` or `fail` once. */
export class AnswerTurn {
  text = "";
  #began = performance.now();
  #first = 0;
  #last = 0;
  #usage = null;
  #finish = "";

  constructor(model) {
    this.element = articleOf("assistant growing", model, "");
    this.body = this.element.querySelector(".body");
    this.plain = document.createTextNode("");
    this.plainBox = document.createElement("div");
    this.plainBox.className = "plain";
    this.plainBox.append(this.plain);
    this.body.append(this.plainBox);
  }

  add({ text, reasoning, tokens, finish, usage }) {
    if (text || reasoning || tokens) {
      this.#last = performance.now();
      this.#first ||= this.#last;
    }
    if (reasoning) this.#reason(reasoning);
    if (text) {
      this.text += text;
      this.plain.appendData(text);
    }
    if (tokens) this.#spans(tokens);
    this.#finish = finish ?? this.#finish;
    this.#usage = usage ?? this.#usage;
  }

  end({ stopped = false } = {}) {
    this.element.classList.remove("growing");
    const facts = [];
    if (this.#first) facts.push(`TTFT ${milliseconds(this.#first - this.#began)}`);
    const usage = this.#usage;
    if (usage) {
      const gaps = usage.completion_tokens - 1;
      const seconds = (this.#last - this.#first) / 1000;
      if (gaps > 0 && seconds > 0) facts.push(`${(gaps / seconds).toFixed(1)} tok/s`);
      const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
      facts.push(`${usage.prompt_tokens} prompt${cached ? ` (${cached} cached)` : ""}`);
      facts.push(`${usage.completion_tokens} completion`);
    }
    if (stopped) facts.push("stopped by you");
    else if (this.#finish === "length") facts.push("cut at the most tokens");
    else if (this.#finish && this.#finish !== "stop") facts.push(`ended: ${this.#finish}`);
    this.#foot("facts", facts.join(" · "));
    return facts.join(", ");
  }

  fail(message) {
    this.element.classList.remove("growing");
    this.element.classList.add("failed");
    this.#foot("failure", message).setAttribute("role", "alert");
  }

  #foot(kind, text) {
    const foot = document.createElement("p");
    foot.className = kind;
    foot.textContent = text;
    this.element.append(foot);
    return foot;
  }

  #reason(text) {
    if (!this.reasoning) {
      const details = document.createElement("details");
      const summary = document.createElement("summary");
      summary.textContent = "Reasoning";
      this.reasoning = document.createTextNode("");
      details.append(summary, this.reasoning);
      this.body.before(details);
    }
    this.reasoning.appendData(text);
  }

  #spans(tokens) {
    if (!this.tokens) {
      this.tokens = document.createElement("div");
      this.tokens.className = "tokens";
      this.tokens.setAttribute("role", "group");
      this.tokens.setAttribute("aria-label", "Tokens; arrow keys walk through them");
      listen(this.tokens);
      this.body.append(this.tokens);
      this.element.classList.add("has-tokens");
    }
    this.tokens.append(...tokens.map(spanOf));
    if (!this.tokens.querySelector('[tabindex="0"]')) this.tokens.firstElementChild.tabIndex = 0;
  }
}

function milliseconds(value) {
  return value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(2)} s`;
}
