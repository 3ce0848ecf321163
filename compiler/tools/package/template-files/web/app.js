// The page: loads the model once its sha256 is right, classifies what is given, replays the golden vectors.
// index.html?selftest runs the self-test at once and puts PASS or FAIL into the title; ?image=photo.jpg classifies
// an image that lies beside the page.

import { Pixels, fit, normalize } from "./preprocess.js";

const $ = (id) => document.getElementById(id);
const VIEWS = {
  float32: Float32Array,
  int32: Int32Array,
  int64: BigInt64Array,
  uint8: Uint8Array,
  int8: Int8Array,
  bool: Uint8Array,
};
const RUNS = 10;
const MOST_PIXELS = 64 * 2 ** 20;

let deploy, ort, session, labels, stream;

start().catch(fail);

async function start() {
  deploy = await (await get("deploy.json")).json();
  document.title = $("model").textContent = deploy.model;
  const model = await read(deploy.model_file);
  labels = deploy.labels ? new TextDecoder().decode(await read(deploy.labels)).trimEnd().split("\n") : null;
  session = await load(model);
  showFacts();
  say("Ready.");
  $("selftest").disabled = false;
  $("selftest").addEventListener("click", () => selfTest().catch(fail));
  if (deploy.image.refused) {
    $("latency").textContent = `This model takes no images: ${deploy.image.refused}.`;
  } else {
    listen();
    $("input").hidden = false;
  }
  const asked = new URLSearchParams(location.search);
  if (asked.has("image")) await classify(await (await get(asked.get("image"))).blob());
  if (asked.has("selftest")) await selfTest();
}

async function load(model) {
  try {
    ort = await import(`./${deploy.runtime_path}ort.wasm.min.mjs`);
  } catch (error) {
    throw new Error(`ONNX Runtime Web is not in ${deploy.runtime_path} (run npm install in this folder): ${error.message}`);
  }
  ort.env.wasm.wasmPaths = new URL(deploy.runtime_path, location.href).href;
  if (!self.crossOriginIsolated) ort.env.wasm.numThreads = 1;
  return ort.InferenceSession.create(model, { executionProviders: ["wasm"], graphOptimizationLevel: "all" });
}

async function get(name) {
  if (location.protocol === "file:") throw new Error("Serve this folder: python3 -m http.server, then http://localhost:8000");
  const answer = await fetch(new URL(name, location.href), { cache: "no-cache" });
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}`);
  return answer;
}

/** A file that has the sha256 of deploy.json. */
async function read(name) {
  const content = new Uint8Array(await (await get(name)).arrayBuffer());
  if (!crypto.subtle) throw new Error("sha256 needs https or localhost; open the page there.");
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  if (hex(digest) !== deploy.files[name].sha256) {
    throw new Error(`${name} was changed: its sha256 is not the one in deploy.json.`);
  }
  return content;
}

const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

/** Outputs in order for inputs in order. */
async function run(inputs) {
  const feeds = Object.fromEntries(session.inputNames.map((name, at) => [name, inputs[at]]));
  const found = await session.run(feeds);
  return session.outputNames.map((name) => found[name]);
}

async function classify(image) {
  say("Running …");
  const bitmap = await createImageBitmap(image, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  if (bitmap.width * bitmap.height > MOST_PIXELS) throw new Error(`The image has more than ${MOST_PIXELS} pixels.`);
  const rgba = drawn(bitmap);
  preview(bitmap);
  const { width, height, channels } = deploy.image;
  const data = normalize(fit(Pixels.fromRgba(rgba, channels), width, height), deploy.preprocess);
  const input = new ort.Tensor("float32", data, [1, channels, height, width]);
  await showResult([input]);
  say("Ready.");
}

function drawn(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

function preview(bitmap) {
  const shrink = Math.min(1, 800 / Math.max(bitmap.width, bitmap.height));
  const canvas = $("preview");
  [canvas.width, canvas.height] = [Math.max(1, bitmap.width * shrink), Math.max(1, bitmap.height * shrink)];
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  canvas.style.minWidth = `${Math.min(224, 28 * bitmap.width)}px`;
  canvas.style.imageRendering = bitmap.width < 100 ? "pixelated" : "auto";
  canvas.hidden = false;
  $("hint").hidden = true;
}

async function showResult(inputs) {
  let outputs = await run(inputs);
  const times = [];
  for (let at = 0; at < RUNS; at++) {
    const before = performance.now();
    outputs = await run(inputs);
    times.push(performance.now() - before);
  }
  const median = times.sort((a, b) => a - b)[RUNS >> 1];
  $("top").replaceChildren(...(deploy.classes ? topFive(Array.from(outputs[0].data, Number)) : outputs.map(describe)));
  $("latency").textContent = `${median.toFixed(2)} ms, median of ${RUNS} runs on one sample`;
}

function topFive(scores) {
  const share = shares(scores);
  const order = scores.map((_, at) => at).sort((a, b) => scores[b] - scores[a] || a - b);
  return order.slice(0, 5).map((at) => {
    const percent = `${(100 * share[at]).toFixed(1)} %`;
    const row = line("li", "", [line("span", labels ? labels[at] : `class ${at}`), line("span", percent)]);
    row.style.setProperty("--share", `${100 * share[at]}%`);
    return row;
  });
}

/** Scores that are probabilities already, else their softmax. */
function shares(scores) {
  const sum = scores.reduce((total, score) => total + score, 0);
  if (Math.min(...scores) >= 0 && Math.abs(sum - 1) < 1e-2) return scores;
  const largest = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - largest));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / total);
}

const describe = (output, at) => line("li", `${deploy.outputs[at].name}: ${output.type} [${output.dims.join(", ")}]`);

function line(tag, text, children = []) {
  const element = document.createElement(tag);
  element.append(text, ...children);
  return element;
}

/** Hashes, preprocessing, then the golden vectors. */
async function selfTest() {
  say("Self-test …");
  for (const name of Object.keys(deploy.files)) await read(name);
  const verdicts = [[true, `${Object.keys(deploy.files).length} files have their sha256`]];
  if (deploy.image_check) verdicts.push(await checkPreprocessing());
  const outputs = await run(await golden("inputs"));
  const expected = await golden("outputs");
  deploy.outputs.forEach((output, at) => verdicts.push(difference(output, outputs[at], expected[at])));
  const passed = verdicts.every(([good]) => good);
  $("verdicts").replaceChildren(
    ...verdicts.map(([good, text]) => Object.assign(line("li", `${good ? "✓" : "✗"} ${text}`), { className: good ? "good" : "bad" })),
  );
  document.title = `${passed ? "PASS" : "FAIL"} · ${deploy.model}`;
  $("checks").dataset.verdict = passed ? "PASS" : "FAIL";
  say(passed ? "Self-test passed." : "Self-test failed.", !passed);
}

async function checkPreprocessing() {
  const { width, height, channels } = deploy.image;
  const pixels = Pixels.pattern(deploy.image_check.width, deploy.image_check.height, channels);
  const made = normalize(fit(pixels, width, height), deploy.preprocess);
  const digest = hex(new Uint8Array(await crypto.subtle.digest("SHA-256", made.buffer)));
  const same = digest === deploy.image_check.sha256;
  return [same, `preprocessing is the compiler's${same ? ", bit for bit" : " no longer: other bits come out"}`];
}

async function golden(side) {
  return Promise.all(
    deploy.golden[side].map(async ({ file, dtype, shape }) => {
      const content = await read(file);
      return new ort.Tensor(dtype, new VIEWS[dtype](content.buffer), shape);
    }),
  );
}

/** In integers where the output is quantized, else relative to the output's magnitude. */
function difference(output, deployed, expected) {
  const shape = deployed.dims.join(", ");
  if (shape !== expected.dims.join(", ")) return [false, `${output.name} has shape [${shape}], not [${expected.dims.join(", ")}]`];
  let off = 0;
  let magnitude = 0;
  for (let at = 0; at < expected.data.length; at++) {
    const apart = Math.abs(Number(deployed.data[at]) - Number(expected.data[at]));
    off = apart <= off ? off : apart; // NaN too
    magnitude = Math.max(magnitude, Math.abs(Number(expected.data[at])));
  }
  if (output.scale !== null) {
    const lsb = Math.round(off / output.scale);
    const allowed = deploy.tolerance_lsb_elsewhere; // the compiler simulates other kernels than WebAssembly's
    return [lsb <= allowed, `${output.name} is ${lsb} LSB from the golden outputs (allowed ${allowed})`];
  }
  const relative = off / Math.max(magnitude, 1e-12);
  const allowed = deploy.tolerance_float;
  const text = `${output.name} is ${relative.toPrecision(2)} of its magnitude from the golden outputs (allowed ${allowed})`;
  return [relative <= allowed, text];
}

function showFacts() {
  const file = deploy.files[deploy.model_file];
  const rows = {
    File: `${deploy.model_file}, ${(file.size / 1e6).toFixed(2)} MB`,
    "sha256": `${file.sha256.slice(0, 16)}… (checked)`,
    Input: deploy.inputs.map(({ name, dtype, shape }) => `${name}: ${dtype} [${shape.map((n) => n ?? "any").join(", ")}]`).join("; "),
    Runtime: `ONNX Runtime Web ${ort.env.versions.web}, WebAssembly`,
  };
  $("facts").replaceChildren(...Object.entries(rows).flatMap(([key, value]) => [line("dt", key), line("dd", value)]));
}

function listen() {
  const drop = $("drop");
  const take = (files) => {
    const image = [...files].find((file) => file.type.startsWith("image/"));
    if (image) classify(image).catch(complain);
  };
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => event.preventDefault());
  drop.addEventListener("dragenter", () => drop.classList.add("over"));
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    drop.classList.remove("over");
    take(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => take(event.clipboardData.files));
  $("file").addEventListener("change", () => take($("file").files));
  $("camera").addEventListener("click", () => (stream ? stopCamera() : startCamera().catch(complain)));
  $("shoot").addEventListener("click", () => shoot().catch(complain));
}

async function startCamera() {
  if (!navigator.mediaDevices) throw new Error("The camera needs https or localhost.");
  stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  $("video").srcObject = stream;
  await $("video").play();
  showCamera(true);
}

async function shoot() {
  const frame = await createImageBitmap($("video"));
  stopCamera();
  await classify(frame);
}

function stopCamera() {
  stream.getTracks().forEach((track) => track.stop());
  stream = null;
  showCamera(false);
}

function showCamera(on) {
  $("video").hidden = $("shoot").hidden = !on;
  $("hint").hidden = on || $("preview").width > 0;
  $("preview").hidden = on || $("preview").width === 0;
  $("camera").textContent = on ? "Stop" : "Camera";
}

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

/** An image that could not be used; the page goes on. */
function complain(error) {
  say(`That did not work: ${error.message}`, true);
}

/** Nothing works without this. */
function fail(error) {
  say(error.message, true);
  document.title = `FAIL · ${document.title}`;
  $("checks").dataset.verdict = "FAIL";
}
