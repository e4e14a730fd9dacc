"use strict";

const at = (id) => document.getElementById(id);
const canvas = at("canvas");
const pen = canvas.getContext("2d", { willReadFrequently: true });
const BUSY = 503;
// where two labellings differ
const DIFFERENT = [255, 0, 255];
const MOST_TRIES = 20;

let server = null; // what /v1/models said
let photo = null; // {blob, name, bitmap}
let shown = []; // one labelling, or two to compare
let differing = 0;
let hidden = new Set(); // names of classes
let token = "";
let asking = 0; // only the newest question's answer is shown

class Failure extends Error {}

function say(text, kind = "") {
  at("status").textContent = text;
  at("status").className = kind;
}

function make(kind, properties = {}, ...children) {
  const element = Object.assign(document.createElement(kind), properties);
  element.append(...children);
  return element;
}

const percent = (share) => (share >= 0.9995 ? "100 %" : `${(100 * share).toFixed(share < 0.1 ? 2 : 1)} %`);

// ---- the server

async function ask(path, options = {}) {
  let ticket = null;
  for (let tries = 1; ; tries++) {
    let reply;
    try {
      const headers = token ? { authorization: `Bearer ${token}` } : {};
      if (ticket) headers["x-deeplab-ticket"] = ticket;
      reply = await fetch(path, { ...options, headers });
    } catch {
      throw new Failure("The server cannot be reached. Is it still running?");
    }
    if (reply.ok) {
      at("token-form").hidden = true;
      return reply;
    }
    const problem = await reply.json().catch(() => ({ detail: `the server answered ${reply.status}` }));
    if (reply.status === 401) {
      at("token-form").hidden = false;
      at("token").focus();
    }
    if (reply.status !== BUSY || tries === MOST_TRIES) throw new Failure(problem.detail);
    ticket = reply.headers.get("x-deeplab-ticket");
    // a little later than told, each at another moment, so that those sent away do not come back as one
    const seconds = (Number(reply.headers.get("retry-after")) || 1) * (1 + Math.random() / 4);
    say(`The server is busy. Trying again in ${Math.ceil(seconds)} s.`, "busy");
    await new Promise((done) => setTimeout(done, 1000 * seconds));
    say("Labelling …", "busy");
  }
}

async function label(model, stride) {
  const query = new URLSearchParams({ model, output: "together" });
  if (stride) query.set("output_stride", stride);
  const start = performance.now();
  const reply = await ask(`v1/segment?${query}`, { method: "POST", body: photo.blob });
  const found = await reply.json();
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const raw = bytes(found.labels);
  const about = server.models.find((each) => each.name === model);
  return {
    ...found,
    labels: found.label_bytes === 2 ? new Uint16Array(raw.buffer) : raw,
    confidence: bytes(found.confidence),
    classes: about.classes,
    names: about.classes.map(({ name }) => name),
    stride: stride || about.output_stride,
    compute: Number(reply.headers.get("x-deeplab-milliseconds")),
    waited: performance.now() - start,
  };
}

// ---- a photo comes in

async function take(blob, name) {
  at("drop").classList.remove("over");
  if (!blob) return;
  let bitmap = null;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    // the server says what is wrong with it, or can read what this browser cannot
  }
  photo = { blob, name, bitmap };
  await run();
}

async function run() {
  if (!photo || !server) return;
  const mine = ++asking;
  const { max_bytes } = server;
  try {
    if (photo.blob.size > max_bytes) {
      throw new Failure(`This file has ${photo.blob.size.toLocaleString()} bytes; allowed: ${max_bytes.toLocaleString()}`);
    }
    say("Labelling …", "busy");
    const wanted = [[at("model").value, at("stride").value]];
    if (at("compare").checked) wanted.push([at("model2").value, at("stride2").value]);
    const found = [];
    for (const [model, stride] of wanted) found.push(await label(model, stride));
    if (mine !== asking) return;
    if (!photo.bitmap) throw new Failure("This browser cannot show that photo; fix: convert it to JPEG or PNG");
    shown = found;
    show();
  } catch (error) {
    if (mine !== asking) return;
    at("result").hidden = true;
    if (!(error instanceof Failure)) console.error(error);
    say(error instanceof Failure ? `${photo.name}: ${error.message}` : `This page failed: ${error.message}`, "bad");
  }
}

// ---- what is seen

function show() {
  const [first, second] = shown;
  canvas.width = first.width;
  canvas.height = first.height;
  differing = 0;
  if (second) {
    for (let i = 0; i < first.labels.length; i++) if (differs(i)) differing++;
  }
  at("result").hidden = false;
  at("divider").hidden = at("mark-label").hidden = !second;
  const sides = shown.map((each) => `${each.model}, stride ${each.stride}`);
  at("caption").textContent = second
    ? `Left: ${sides[0]}. Right: ${sides[1]}. They differ in ${percent(differing / first.labels.length)} of the pixels.`
    : "";
  const times = shown.map((each) => `${each.compute.toFixed(0)} ms`).join(" and ");
  say(`${photo.name}: ${first.width} × ${first.height} pixels, computed in ${times}.`);
  legend();
  draw();
}

// names, as two models may number theirs otherwise
const nameAt = (found, i) => found.names[found.labels[i]] ?? "no class";

// what one of them could not have said is no difference
function differs(i) {
  const [one, other] = shown.map((each) => nameAt(each, i));
  return one !== other && (shown[0].names.includes(other) || shown[1].names.includes(one));
}

function draw() {
  if (!shown.length) return;
  const [first, second] = shown;
  const { width, height } = first;
  // transparent photos stand on white, as the model saw them
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, width, height);
  pen.drawImage(photo.bitmap, 0, 0, width, height);
  const picture = pen.getImageData(0, 0, width, height);
  const opacity = at("opacity").value / 100;
  const edge = second ? Math.round((width * at("split").value) / 100) : width;
  const tables = shown.map(tints);
  const mark = second && at("mark").checked;
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const side = x < edge ? 0 : 1;
      let tint = tables[side][shown[side].labels[i]];
      if (mark && ((x + y) & 7) < 2 && differs(i)) tint = DIFFERENT;
      if (tint) {
        for (let c = 0; c < 3; c++) {
          picture.data[4 * i + c] += (tint[c] - picture.data[4 * i + c]) * (tint === DIFFERENT ? 1 : opacity);
        }
      }
    }
  }
  pen.putImageData(picture, 0, 0);
  at("divider").style.setProperty("--at", `${at("split").value}%`);
  const names = [...new Set(shown.flatMap((each) => Object.keys(each.shares)))];
  canvas.setAttribute("aria-label", `${photo.name} with its labels: ${names.join(", ")}`);
}

function tints(found) {
  return found.classes.map(({ name, colour }) => {
    if (hidden.has(name) || name === "background") return null;
    return [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
  });
}

let drawing = 0;
function drawSoon() {
  cancelAnimationFrame(drawing);
  drawing = requestAnimationFrame(draw);
}

function legend() {
  const colours = new Map(shown.flatMap((each) => each.classes.map(({ name, colour }) => [name, colour])));
  const names = [...new Set(shown.flatMap((each) => Object.keys(each.shares)))];
  at("legend").replaceChildren(
    ...names.map((name) => {
      const shares = shown.map((each) => (name in each.shares ? percent(each.shares[name]) : "–")).join(" | ");
      const square = make("i");
      square.style.background = name === "background" ? "none" : colours.get(name);
      const button = make(
        "button",
        { type: "button", ariaPressed: String(!hidden.has(name)) },
        square,
        make("span", { className: "name", textContent: name }),
        make("small", { textContent: shares }),
      );
      button.addEventListener("click", () => {
        if (!hidden.delete(name)) hidden.add(name);
        button.ariaPressed = String(!hidden.has(name));
        drawSoon();
      });
      return make("li", {}, button);
    }),
  );
}

function point(event) {
  if (!shown.length) return;
  const box = canvas.getBoundingClientRect();
  const { width, height } = shown[0];
  const x = Math.floor(((event.clientX - box.left) / box.width) * width);
  const y = Math.floor(((event.clientY - box.top) / box.height) * height);
  const inside = x >= 0 && y >= 0 && x < width && y < height;
  at("tip").hidden = !inside;
  if (!inside) return;
  const i = y * width + x;
  at("tip").textContent = shown
    .map((each) => {
      const name = nameAt(each, i);
      const sure = `${((100 * each.confidence[i]) / 255).toFixed(0)} % sure`;
      const said = `${name}: ${sure}, ${percent(each.shares[name] ?? 0)} of the photo`;
      return shown.length > 1 ? `${each.model}, stride ${each.stride}: ${said}` : said;
    })
    .join("\n");
  const [left, top] = [event.clientX - box.left, event.clientY - box.top];
  const tip = at("tip");
  tip.style.left = `${Math.max(0, Math.min(left + 14, box.width - tip.offsetWidth))}px`;
  tip.style.top = `${top + 14 + tip.offsetHeight > box.height ? Math.max(0, top - 14 - tip.offsetHeight) : top + 14}px`;
}

// ---- what is taken home

function save(blob, ending) {
  const link = make("a", { href: URL.createObjectURL(blob), download: `${photo.name.replace(/\.\w+$/, "")}_${ending}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function saveLabels() {
  try {
    const query = new URLSearchParams({ model: shown[0].model, output: "labels" });
    if (at("stride").value) query.set("output_stride", at("stride").value);
    const reply = await ask(`v1/segment?${query}`, { method: "POST", body: photo.blob });
    save(await reply.blob(), "labels.png");
  } catch (error) {
    say(error.message, "bad");
  }
}

function saveShares() {
  const kept = shown.map(({ model, version, stride, width, height, shares, compute }) => ({
    model, version, output_stride: stride, width, height, shares, milliseconds: compute,
  }));
  save(new Blob([JSON.stringify(kept.length > 1 ? kept : kept[0], null, 2)], { type: "application/json" }), "shares.json");
}

// ---- the camera

let stream = null;
async function openCamera() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1280 } } });
  } catch (error) {
    say(`The camera cannot be used: ${error.message}`, "bad");
    return;
  }
  at("video").srcObject = stream;
  await at("video").play();
  at("live").hidden = false;
  at("shoot").focus();
}

function closeCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  at("live").hidden = true;
}

function shoot() {
  const video = at("video");
  const frame = make("canvas", { width: video.videoWidth, height: video.videoHeight });
  frame.getContext("2d").drawImage(video, 0, 0);
  closeCamera();
  frame.toBlob((blob) => take(blob, "camera.jpg"), "image/jpeg", 0.92);
}

// ---- the beginning

function card() {
  const model = server.models.find((each) => each.name === at("model").value);
  const said = model.card.split(/^## /m)[0].replace(/^# .*$/m, "").trim();
  const paragraphs = said ? said.split(/\n\s*\n/) : ["Nobody wrote down what this model was trained on or how good it is."];
  at("card-text").replaceChildren(
    ...paragraphs.map((text) =>
      // every second piece between double stars is bold
      make("p", {}, ...text.split("**").map((piece, index) => (index % 2 ? make("strong", { textContent: piece }) : piece))),
    ),
    make("p", { textContent: `Its classes: ${model.classes.map(({ name }) => name).join(", ")}.` }),
    make("p", { textContent: `${model.parameters ? `${model.parameters.toLocaleString()} parameters` : "An exported model"}, output stride ${model.output_stride}, ${model.engine}, ${model.precision}; version ${model.version}.` }),
  );
}

async function begin() {
  try {
    server = await (await ask("v1/models")).json();
  } catch (error) {
    say(error.message, "bad");
    return;
  }
  const names = server.models.map(({ name }) => name);
  for (const id of ["model", "model2"]) at(id).replaceChildren(...names.map((name) => make("option", { textContent: name })));
  const strides = ["", 4, 8, 16, 32];
  for (const id of ["stride", "stride2"]) {
    at(id).replaceChildren(...strides.map((stride) => make("option", { value: stride, textContent: stride || "model's own" })));
  }
  // the same model at another stride: two models often have few classes in common
  at("stride2").value = server.models[0].output_stride === 16 ? "8" : "16";
  at("curl").textContent = `curl --data-binary @photo.jpg '${location.origin}/v1/segment?output=overlay' -o overlay.png`;
  card();
  say("");
  // of who was quicker
  await run();
}

async function gallery() {
  const photos = await (await fetch("page/gallery.json")).json();
  at("gallery").replaceChildren(
    ...photos.map(({ file, title, terms }) => {
      const button = make(
        "button",
        { type: "button", title: terms },
        make("img", { src: `page/photos/${file}`, alt: "", loading: "lazy" }),
        make("span", { textContent: title }),
      );
      button.addEventListener("click", async () => take(await (await fetch(`page/photos/${file}`)).blob(), file));
      return make("li", {}, button);
    }),
  );
}

at("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  // the same file may be chosen again
  if (file) take(file, file.name).finally(() => (event.target.value = ""));
});
addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find(({ type }) => type.startsWith("image/"));
  if (file) take(file, "pasted.png");
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  at("drop").classList.add("over");
});
addEventListener("dragleave", () => at("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  if (file) take(file, file.name);
  else at("drop").classList.remove("over");
});
for (const id of ["opacity", "split", "mark"]) at(id).addEventListener("input", drawSoon);
for (const id of ["model", "stride", "model2", "stride2"]) at(id).addEventListener("change", run);
at("model").addEventListener("change", card);
at("compare").addEventListener("change", () => {
  at("other").hidden = !at("compare").checked;
  run();
});
at("stage").addEventListener("pointermove", point);
at("stage").addEventListener("pointerdown", point);
at("stage").addEventListener("pointerleave", () => (at("tip").hidden = true));
at("save-labels").addEventListener("click", saveLabels);
at("save-overlay").addEventListener("click", () => canvas.toBlob((blob) => save(blob, "overlay.png")));
at("save-json").addEventListener("click", saveShares);
at("token-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  token = at("token").value;
  await begin();
});
at("camera").hidden = !navigator.mediaDevices?.getUserMedia;
at("camera").addEventListener("click", openCamera);
at("shoot").addEventListener("click", shoot);
at("stop").addEventListener("click", closeCamera);
gallery();
begin();
