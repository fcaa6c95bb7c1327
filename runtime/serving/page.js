"use strict";

const at = (id) => document.getElementById(id);

function headers(more) {
  const token = at("token").value.trim();
  return token ? { ...more, Authorization: `Bearer ${token}` } : { ...more };
}

async function failure(response) {
  try {
    return (await response.json()).error;
  } catch {
    return `The server refuses the request (status ${response.status}).`;
  }
}

async function look() {
  try {
    const ready = await fetch("v2/health/ready");
    at("state").textContent = ready.ok ? "The server is ready." : "The server is not ready yet; reload this page later.";
    if (!ready.ok) return;
    const index = await fetch("v2/repository/index", { method: "POST", headers: headers() });
    if (index.status === 401) {
      at("state").textContent = "The server is ready. It wants an access token.";
      document.querySelector("details").open = true;
      return;
    }
    const name = (await index.json())[0].name;
    const model = await (await fetch(`v2/models/${encodeURIComponent(name)}`, { headers: headers() })).json();
    at("state").textContent = `The server is ready: model ${name} on ${model.parameters.engine}.`;
    at("use").textContent = model.parameters.intended_use || "";
    at("bank").replaceChildren(at("bank").options[0]);
    for (const bank of JSON.parse(model.parameters.banks)) at("bank").add(new Option(bank, bank));
  } catch {
    at("state").textContent = "The server cannot be reached.";
  }
}

function cell(row, text, number) {
  const one = row.insertCell();
  one.textContent = text;
  if (number) one.className = "number";
}

function table(detections) {
  const found = document.createElement("table");
  found.createCaption().textContent = "Detections, best first; left, top, right, bottom in pixels of the picture";
  const head = found.createTHead().insertRow();
  for (const name of ["Class", "Score", "Left", "Top", "Right", "Bottom", "Phrase"]) {
    const one = document.createElement("th");
    one.scope = "col";
    one.textContent = name;
    if (!["Class", "Phrase"].includes(name)) one.className = "number";
    head.append(one);
  }
  const body = found.createTBody();
  for (const one of detections) {
    const row = body.insertRow();
    cell(row, one.label);
    cell(row, one.score.toFixed(3), true);
    for (const side of one.box_xyxy) cell(row, side.toFixed(1), true);
    cell(row, one.phrase);
  }
  return found;
}

function summary(item) {
  const counts = new Map();
  for (const one of item.detections) counts.set(one.label, (counts.get(one.label) || 0) + 1);
  const parts = [...counts].map(([label, count]) => `${count} ${label}`);
  return `${item.status}: ${parts.join(", ") || "nothing found at or over the thresholds"}.`;
}

function clear() {
  if (at("boxes").src) URL.revokeObjectURL(at("boxes").src);
  at("boxes").removeAttribute("src");
  at("result").hidden = true;
  at("rows").replaceChildren();
  for (const id of ["said", "error", "caption"]) at(id).textContent = "";
}

async function detect() {
  const picture = at("picture").files[0];
  const asked = new URLSearchParams();
  for (const name of ["bank", "threshold", "frame"]) if (at(name).value) asked.set(name, at(name).value);
  const ask = (accept) =>
    fetch(`v1/detect?${asked}`, { method: "POST", body: picture, headers: headers({ Accept: accept }) });
  const answer = await ask("application/json");
  if (!answer.ok) throw new Error(await failure(answer));
  const item = (await answer.json()).items[0];
  const drawn = await ask("image/png");
  if (!drawn.ok) throw new Error(await failure(drawn));
  at("boxes").src = URL.createObjectURL(await drawn.blob());
  at("boxes").alt = `The picture with its detections drawn in. ${summary(item)}`;
  at("caption").textContent = [summary(item), ...item.warnings].join(" ");
  at("result").hidden = false;
  at("rows").append(table(item.detections));
}

at("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  clear();
  at("send").disabled = true;
  at("said").textContent = "Detecting …";
  try {
    await detect();
    at("said").textContent = "";
  } catch (error) {
    clear();
    at("error").textContent = error instanceof TypeError ? "The server cannot be reached." : error.message;
  } finally {
    at("send").disabled = false;
  }
});
at("picture").addEventListener("change", clear);
at("token").addEventListener("change", look);
look();
