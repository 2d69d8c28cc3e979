"use strict";

const byId = (id) => document.getElementById(id);
const sides = ["left", "right"];
let model = null;
let contracts = [{ name: "exact", ask: { contract: "exact" } }];
let running = [];

const headers = () => {
  const key = byId("key").value;
  return { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
};

async function connect() {
  const answer = await fetch("/v1/models", { headers: headers() });
  if (!answer.ok) {
    byId("model").textContent = answer.status === 401 ? "this server asks for a key: give it below" : `the server says ${answer.status}`;
    return;
  }
  const card = (await answer.json()).data[0];
  model = card.id;
  byId("model").textContent = `target ${card.sprinter.target}, draft ${card.sprinter.draft}`;
  const losses = { tv: "total variation", atypical: "implausible tokens" };
  const order = ["best_effort", "certified", "exact"];
  const floor = order.indexOf(card.sprinter.floor);
  const known = new Map();
  for (const level of card.sprinter.certified_levels) known.set(`${level.loss} ${level.level}`, level);
  const certified = [...known.values()].sort((a, b) => a.loss.localeCompare(b.loss) || a.level - b.level);
  contracts = [{ name: "exact: the target's own text", ask: { contract: "exact" } }];
  if (floor <= 1) {
    for (const { loss, level } of certified) {
      const name = `certified: at most ${+(100 * level).toFixed(2)}% ${losses[loss] || loss}`;
      contracts.push({ name, ask: { contract: "certified", [`max_${loss}`]: level } });
    }
  }
  if (floor <= 0) contracts.push({ name: "best effort: the verifier's own threshold", ask: { contract: "best_effort" } });
  for (const side of sides) {
    const slider = byId(side);
    slider.max = contracts.length - 1;
    slider.value = side === "left" ? 0 : contracts.length - 1;
    byId(`${side}-marks`).replaceChildren(...contracts.map((_, place) => new Option("", place)));
    name(side);
  }
}

function name(side) {
  const chosen = contracts[byId(side).value].name;
  byId(`${side}-name`).textContent = chosen;
  byId(`${side}-head`).textContent = chosen;
  byId(side).setAttribute("aria-valuetext", chosen);
}

function body(side) {
  const chat = byId("chat").checked;
  const prompt = byId("prompt").value;
  return {
    url: chat ? "/v1/chat/completions" : "/v1/completions",
    ask: {
      model,
      ...(chat ? { messages: [{ role: "user", content: prompt }] } : { prompt }),
      temperature: Number(byId("temperature").value),
      max_tokens: Number(byId("tokens").value),
      seed: Number(byId("seed").value),
      stream: true,
      sprinter: contracts[byId(side).value].ask,
    },
  };
}

function paint(place, tokens) {
  for (const token of tokens) {
    if (!token.text) continue;
    const mark = document.createElement("mark");
    mark.className = token.origin;
    mark.textContent = token.text;
    const score = token.score === null ? "no score" : `score ${token.score.toFixed(2)}`;
    mark.title = `${token.origin}, ${score}, token ${token.id}`;
    place.append(mark);
  }
}

function fail(side, words) {
  const line = document.createElement("p");
  line.className = "error";
  line.textContent = words;
  byId(`${side}-text`).append(line);
}

function told(account) {
  const audit = account.audit;
  const percent = (share) => `${(100 * share).toFixed(1)}%`;
  const parts = [`${account.method}, ${account.target_calls} target calls`];
  if (audit && audit.mean_tv !== null) parts.push(`total variation ${audit.mean_tv.toFixed(3)} (at most ${audit.tv_upper.toFixed(3)})`);
  if (audit && audit.mean_atypical !== null) parts.push(`implausible ${percent(audit.mean_atypical)}`);
  if (account.certificate) parts.push(account.certificate.statements.join(" "));
  if (account.guard) parts.push(account.guard);
  return parts.join("; ");
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const lines = rest.split("\n\n");
    rest = lines.pop();
    for (const line of lines) if (line !== "data: [DONE]") yield JSON.parse(line.slice(6));
  }
}

async function write(side, signal) {
  const text = byId(`${side}-text`);
  const numbers = byId(`${side}-numbers`);
  const { url, ask } = body(side);
  text.replaceChildren();
  numbers.textContent = "";
  byId(`${side}-told`).textContent = "";
  if (ask.prompt !== undefined) {
    const prompt = document.createElement("span");
    prompt.className = "prompt";
    prompt.textContent = ask.prompt;
    text.append(prompt);
  }
  try {
    const answer = await fetch(url, { method: "POST", headers: headers(), body: JSON.stringify(ask), signal });
    if (!answer.ok) {
      fail(side, (await answer.json()).error.message);
      return;
    }
    let count = 0;
    let first = 0;
    for await (const event of events(answer)) {
      if (event.error) {
        fail(side, event.error.message);
        return;
      }
      if (event.sprinter && event.sprinter.tokens) {
        const now = performance.now();
        first = first || now;
        count += event.sprinter.tokens.length;
        paint(text, event.sprinter.tokens);
        const seconds = (now - first) / 1000;
        numbers.textContent = `${count} tokens${seconds > 0.05 ? `, ${(count / seconds).toFixed(0)} tokens/s` : ""}`;
      } else if (event.sprinter) {
        byId(`${side}-told`).textContent = told(event.sprinter);
        numbers.textContent += `, ${event.sprinter.target_calls} target calls`;
      }
    }
  } catch (error) {
    if (error.name !== "AbortError") fail(side, String(error));
  }
}

async function writeBoth() {
  if (model === null) await connect();
  if (model === null) return;
  stop();
  const both = sides.map(() => new AbortController());
  running = both;
  byId("stop").disabled = false;
  await Promise.all(sides.map((side, place) => write(side, both[place].signal)));
  if (running === both) byId("stop").disabled = true;
}

function stop() {
  for (const one of running) one.abort();
  running = [];
  byId("stop").disabled = true;
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  writeBoth();
});
byId("stop").addEventListener("click", stop);
byId("key").addEventListener("change", connect);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) writeBoth();
});
for (const side of sides) byId(side).addEventListener("input", () => name(side));
connect();
