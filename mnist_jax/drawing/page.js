"use strict";
// The page: a pad to draw on, and beside it the results for the drawing.

const SIDE = 280; // Side of the pad in its own coordinates, independent of its size on the screen.
const MARGIN = 50; // Margin around the pad in the picture, so that no stroke is near the border.
const PEN = 12; // Half the width of a stroke.
const STEP = 10; // Distance that an arrow key moves the pen.

const page = Object.fromEntries([...document.querySelectorAll("[id]")].map((one) => [one.id, one]));
const { classes, garments, examples, ...json } = JSON.parse(page.data.textContent);
const network = decode(json);
const exampleBytes = Uint8Array.from(atob(examples.images), (c) => c.charCodeAt(0));

let strokes = []; // Lists of points [x, y] on the pad.
let picture = blankPicture();
let example = null; // The index of the test image that is shown, in the order of the page.
let cursor = null; // The pen's position when moved by keys: { x, y, down }.
let shown = null; // The result for the drawing; null if it is empty.

// --- The picture of the drawing, which is saved and classified ---

function blankPicture() {
  const side = SIDE + 2 * MARGIN;
  return { width: side, height: side, pixels: new Uint8Array(side * side) };
}

// Draws a line with a round pen; a pixel is as dark as the share of it that the pen covers.
function ink({ width, pixels }, [x0, y0], [x1, y1]) {
  const [dx, dy] = [x1 - x0, y1 - y0];
  const length = dx * dx + dy * dy;
  const within = (value) => Math.min(Math.max(Math.round(value), 0), SIDE - 1);
  for (let y = within(Math.min(y0, y1) - PEN - 1); y <= within(Math.max(y0, y1) + PEN + 1); y++) {
    for (let x = within(Math.min(x0, x1) - PEN - 1); x <= within(Math.max(x0, x1) + PEN + 1); x++) {
      const along = length && Math.min(Math.max(((x - x0) * dx + (y - y0) * dy) / length, 0), 1);
      const distance = Math.hypot(x - x0 - along * dx, y - y0 - along * dy);
      const covered = Math.round(255 * Math.min(Math.max(PEN + 0.5 - distance, 0), 1));
      const at = (y + MARGIN) * width + x + MARGIN;
      if (covered > pixels[at]) pixels[at] = covered;
    }
  }
}

function redrawPicture() {
  picture = blankPicture();
  for (const points of strokes) points.forEach((point, i) => ink(picture, points[Math.max(i - 1, 0)], point));
}

// --- Reading ---

// The frame of a digit that the network is most confident of.
function believed(frames) {
  const ways = frames.map((frame) => {
    const layers = outputs(network, frame.pixels);
    return { ...frame, layers, probability: probabilities(network, layers.at(-1).values) };
  });
  const most = ways.map((way) => Math.max(...way.probability));
  return ways[most.indexOf(Math.max(...most))];
}

function read() {
  const start = performance.now();
  let digits;
  if (example !== null) {
    const pixels = exampleBytes.subarray(example * FRAME * FRAME, (example + 1) * FRAME * FRAME);
    digits = [{ box: null, frames: [{ pixels, widened: false, degrees: 0 }] }];
  } else {
    digits = (garments ? garmentFrames : digitFrames)(picture);
  }
  shown = digits.length ? { count: digits.length } : null;
  if (digits.length === 1) shown = { count: 1, box: digits[0].box, ...believed(digits[0].frames) };
  page.milliseconds.textContent = shown ? `Read in ${(performance.now() - start).toFixed(0)} ms.` : "";
  show();
}

let scheduled = false;

// Classifies once before the next screen refresh, however often the pen has moved.
function readSoon() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    read();
  });
}

// --- Showing ---

function show() {
  const readable = shown?.count === 1;
  const winner = readable ? shown.probability.indexOf(Math.max(...shown.probability)) : -1;
  page.hint.hidden = shown !== null;
  page.reading.textContent = readable ? classes[winner] : shown ? "?" : "–";
  page.sure.textContent = readable ? percent(shown.probability[winner]) : "";
  page.framing.textContent = caption();
  [...page.bars.rows].forEach((row, i) => {
    const value = readable ? shown.probability[i] : 0;
    row.className = i === winner ? "most" : "";
    row.querySelector(".track div").style.width = `${100 * value}%`;
    row.cells[2].textContent = readable ? percent(value) : "";
  });
  const empty = strokes.length === 0;
  page.undo.disabled = empty;
  page.clear.disabled = empty && example === null;
  page.save.hidden = empty;
  for (const button of document.querySelectorAll(".examples button")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.place) === example));
  }
  showPad();
  showFrame(readable ? shown.pixels : new Uint8Array(FRAME * FRAME));
  const layers = readable ? shown.layers : blankLayers;
  layers.forEach((output, i) => showLayer(layerFigures[i], output));
}

function caption() {
  if (!shown) return "Here is what the network will see.";
  if (shown.count > 1) return `These are ${shown.count} digits, but the network reads only one.`;
  if (example !== null) {
    const { number, label } = examples.shown[example];
    return `Test image ${number}, unchanged: ${classes[label]}.`;
  }
  const scaling = garments
    ? "What you drew, scaled to 28 pixels, in the middle of 28 × 28."
    : "The box around what you drew, scaled to 20 pixels, its centre of mass (+) in the middle of 28 × 28.";
  const turn = `Rotated ${Math.abs(shown.degrees)}° ${shown.degrees > 0 ? "to the left" : "to the right"}.`;
  return [scaling, shown.widened && "Thin strokes were widened.", shown.degrees && turn].filter(Boolean).join(" ");
}

function percent(value) {
  return value > 0.9999 && value < 1 ? ">99.99%" : `${(100 * value).toFixed(value < 0.9995 ? 1 : 2)}%`;
}

// Announces the result to screen readers, only when a stroke has ended.
function tell() {
  const told = shown?.count === 1 ? `${page.reading.textContent}, ${page.sure.textContent}` : caption();
  page.status.textContent = told;
}

// Draws the pad's strokes at the screen's resolution.
function showPad() {
  const context = page.pad.getContext("2d");
  const side = Math.round(page.pad.clientWidth * devicePixelRatio);
  if (page.pad.width !== side) page.pad.width = page.pad.height = side;
  const scale = side / SIDE;
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, SIDE, SIDE);
  if (example !== null) {
    context.imageSmoothingEnabled = false;
    context.drawImage(inkImage(shown.pixels), 0, 0, SIDE, SIDE);
    return;
  }
  context.strokeStyle = color("--pen");
  context.lineWidth = 2 * PEN;
  context.lineCap = context.lineJoin = "round";
  for (const points of strokes) {
    context.beginPath();
    context.moveTo(...points[0]);
    for (const point of points) context.lineTo(...point);
    context.stroke();
  }
  context.lineWidth = 1;
  context.strokeStyle = color("--link");
  if (shown?.box) {
    const { left, right, top, bottom } = shown.box;
    context.setLineDash([4, 3]);
    context.strokeRect(left - MARGIN, top - MARGIN, right - left, bottom - top);
    context.setLineDash([]);
  }
  if (cursor) {
    context.lineWidth = 2;
    context.beginPath();
    context.arc(cursor.x, cursor.y, cursor.down ? PEN / 2 : PEN, 0, 2 * Math.PI);
    context.stroke();
  }
}

function showFrame(pixels) {
  const scale = Math.max(1, Math.floor((page.frame.clientWidth * devicePixelRatio) / FRAME));
  page.frame.width = page.frame.height = FRAME * scale;
  const context = page.frame.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(inkImage(pixels), 0, 0, FRAME * scale, FRAME * scale);
  context.strokeStyle = color("--link");
  context.lineWidth = Math.max(1, scale / 6);
  if (!garments) {
    context.setLineDash([scale / 2, scale / 2]);
    context.strokeRect(4 * scale, 4 * scale, BOX * scale, BOX * scale);
    context.setLineDash([]);
  }
  if (garments || !largest(pixels)) return;
  const [row, column] = centreOfMass({ width: FRAME, pixels }).map((centre) => (centre + 0.5) * scale);
  context.beginPath();
  context.moveTo(column - scale, row);
  context.lineTo(column + scale, row);
  context.moveTo(column, row - scale);
  context.lineTo(column, row + scale);
  context.stroke();
}

// --- Colours, and images of arrays ---

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

let shades = {};

// The colour scales of the theme: from paper to ink, and from negative to positive values.
function mixShades() {
  const channels = (name) => [1, 3, 5].map((at) => parseInt(color(name).slice(at, at + 2), 16));
  const mix = (from, to, part) => {
    const [red, green, blue] = from.map((v, i) => Math.round(v + (to[i] - v) * part));
    return (0xff << 24) | (blue << 16) | (green << 8) | red;
  };
  const steps = (from, to) =>
    Uint32Array.from({ length: 256 }, (_, i) => mix(channels(from), channels(to), i / 255));
  shades = {
    ink: steps("--sheet", "--pen"),
    below: steps("--zero", "--below"),
    above: steps("--zero", "--above"),
    paper: steps("--paper", "--paper")[0],
  };
}

// An image of 28×28 bytes.
function inkImage(pixels) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = FRAME;
  paint(canvas, (i) => shades.ink[pixels[i]]);
  return canvas;
}

// The colour of a number in [-1, 1].
function signedColor(value) {
  return value < 0 ? shades.below[Math.round(-255 * value)] : shades.above[Math.round(255 * value)];
}

// Sets a canvas's pixels as 32-bit colours.
function fill(canvas, set) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  set(new Uint32Array(image.data.buffer));
  context.putImageData(image, 0, 0);
}

function paint(canvas, colorAt) {
  fill(canvas, (pixels) => pixels.forEach((_, i) => (pixels[i] = colorAt(i))));
}

// Draws `count` small images in rows, separated by one pixel of the page's colour; `values` are
// [height, width, count], with the images as channels.
function mosaic(canvas, { count, height, width, columns, values }) {
  const times = Math.ceil(9 / height); // Single numbers become squares.
  const [down, across] = [height * times + 1, width * times + 1];
  canvas.width = columns * across - 1;
  canvas.height = Math.ceil(count / columns) * down - 1;
  let limit = 0;
  for (const v of values) limit = Math.max(limit, Math.abs(v));
  const wide = canvas.width; // Reading the canvas's property for every pixel would be slow.
  fill(canvas, (pixels) => {
    pixels.fill(shades.paper);
    values.forEach((v, i) => {
      const shade = signedColor(limit && v / limit);
      const [n, place] = [i % count, Math.floor(i / count)];
      const top = Math.floor(n / columns) * down + Math.floor(place / width) * times;
      const left = (n % columns) * across + (place % width) * times;
      for (let y = top; y < top + times; y++) {
        for (let x = left; x < left + times; x++) pixels[y * wide + x] = shade;
      }
    });
  });
  // An integer number of screen pixels per pixel, as many as fit.
  const room = canvas.parentElement.clientWidth * devicePixelRatio;
  const most = 4 * devicePixelRatio;
  const scale = Math.max(1, Math.min(most, Math.floor(room / canvas.width)));
  canvas.style.width = `${(canvas.width * scale) / devicePixelRatio}px`;
  return limit;
}

function columnsFor(count, aspect) {
  const rows = Math.ceil(count / Math.ceil(Math.sqrt(aspect * count)));
  return Math.ceil(count / rows);
}

// --- Layer outputs and filters ---

const WORDS = {
  conv: ({ kernel: { shape } }) => `convolution ${shape[0]} × ${shape[1]}`,
  dense: () => "fully connected",
  max_pool: () => "2 × 2 max pooling",
  avg_pool: () => "2 × 2 average pooling",
  global_avg_pool: () => "global average pooling",
  add: () => "plus the block's input",
  affine: () => "scaled",
  flatten: () => "to one vector",
  dropout: () => "dropout, in training only",
  relu: () => "ReLU",
};

const STILL = ["flatten", "dropout"];

function figure(parent, name, words, { drawn = true, whole = !drawn } = {}) {
  const box = parent.appendChild(document.createElement("figure"));
  box.classList.toggle("whole", whole);
  const text = box.appendChild(document.createElement("figcaption"));
  text.append(name, " ");
  const rest = text.appendChild(document.createElement("span"));
  rest.textContent = words;
  if (!drawn) return { rest, words };
  const canvas = box.appendChild(document.createElement("canvas"));
  canvas.setAttribute("role", "img");
  return { rest, words, canvas };
}

function showLayer({ rest, words, canvas, name }, { shape, values }) {
  if (!canvas) return;
  const [height, width, channels] = shape.length === 3 ? shape : [1, 1, shape[0]];
  const limit = mosaic(canvas, {
    count: channels,
    height,
    width,
    columns: columnsFor(channels, shape.length === 3 ? 4.5 : 20),
    values,
  });
  const size = shape.length === 3 ? `${channels} of ${height} × ${width}` : `${channels} units`;
  rest.textContent = `${words}: ${size}${limit ? `, ±${limit.toPrecision(3)}` : ""}`;
  canvas.setAttribute("aria-label", `Output of ${name}, ${size}`);
}

// Filters of convolutions, and of dense layers whose input is the image itself.
function showFilters() {
  page.filters.replaceChildren();
  let first = true;
  for (const layer of network.layers) {
    const { kernel } = layer;
    if (layer.op === "conv" || (layer.op === "dense" && first)) {
      const ofImage = [FRAME, FRAME, 1, kernel.shape[1]];
      const [height, width, inputs, outputs] = layer.op === "conv" ? kernel.shape : ofImage;
      const words = `${inputs} → ${outputs} channels of ${height} × ${width}`;
      const { canvas } = figure(page.filters, layer.name, words, { whole: inputs * width > 28 });
      canvas.setAttribute("aria-label", `Filters of ${layer.name}`);
      mosaic(canvas, {
        count: inputs * outputs,
        height,
        width,
        columns: inputs === 1 ? columnsFor(outputs, 4.5) : outputs,
        values: kernel.values,
      });
    }
    if (kernel) first = false;
  }
  page.filters.parentElement.hidden = !page.filters.children.length;
}

// --- Elements of the page ---

for (const name of classes) {
  const row = page.bars.insertRow();
  const head = row.appendChild(document.createElement("th"));
  head.scope = "row";
  head.textContent = name;
  row.insertCell().innerHTML = '<div class="track" aria-hidden="true"><div></div></div>';
  row.insertCell();
}
document.querySelector(".read").classList.toggle("named", classes.some((name) => name.length > 2));

const layerFigures = network.layers.map((layer) => ({
  name: layer.name,
  ...figure(page.layers, layer.name, WORDS[layer.op]?.(layer) ?? layer.op, { drawn: !STILL.includes(layer.op) }),
}));
const blankLayers = outputs(network, new Uint8Array(FRAME * FRAME)).map(({ shape, values }) => ({
  shape,
  values: values.map(() => 0),
}));

function showExamples() {
  page.examples.hidden = !examples.shown.length;
  for (const name of ["right", "wrong"]) page[name].replaceChildren();
  examples.shown.forEach(({ number, label, read: guess }, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.place = place;
    const pixels = exampleBytes.subarray(place * FRAME * FRAME, (place + 1) * FRAME * FRAME);
    button.appendChild(inkImage(pixels)).setAttribute("aria-hidden", "true");
    const right = label === guess;
    button.append(classes[label]);
    if (!right) {
      button.append(" → ");
      button.appendChild(document.createElement("b")).textContent = classes[guess];
    }
    const told = right ? classes[label] : `${classes[label]}, read as ${classes[guess]}`;
    button.setAttribute("aria-label", `Test image ${number}: ${told}`);
    button.addEventListener("click", () => {
      pointer = null;
      strokes = [];
      redrawPicture();
      example = place;
      read();
      tell();
    });
    page[right ? "right" : "wrong"].append(button);
  });
}

// --- Drawing ---

function begin(point) {
  example = null;
  strokes.push([point]);
  ink(picture, point, point);
  readSoon();
}

function go(point) {
  const points = strokes.at(-1);
  ink(picture, points.at(-1), point);
  points.push(point);
  readSoon();
}

function takeBack(from) {
  pointer = null; // A stroke that is being drawn ends.
  strokes.splice(from);
  example = null;
  if (cursor) cursor.down = false;
  redrawPicture();
  read();
  tell();
}

function pointOf(event) {
  const { left, top, width } = page.pad.getBoundingClientRect();
  return [event.clientX - left, event.clientY - top].map((v) => (v / width) * SIDE);
}

let pointer = null;

page.pad.addEventListener("pointerdown", (event) => {
  if (pointer !== null || event.button) return;
  pointer = event.pointerId;
  cursor = null;
  page.pad.setPointerCapture(pointer);
  begin(pointOf(event));
});
page.pad.addEventListener("pointermove", (event) => {
  if (event.pointerId !== pointer) return;
  // All positions since the last event, if the browser reports them.
  const events = event.getCoalescedEvents?.() ?? [];
  for (const one of events.length ? events : [event]) go(pointOf(one));
});
for (const end of ["pointerup", "pointercancel"]) {
  page.pad.addEventListener(end, (event) => {
    if (event.pointerId !== pointer) return;
    pointer = null;
    read();
    tell();
  });
}

const atRest = () => ({ x: SIDE / 2, y: SIDE / 4, down: false });
const TAKES_BACK = ["Backspace", "Delete", "Escape"];
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

page.pad.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (pointer !== null && !TAKES_BACK.includes(event.key)) return; // One pen at a time.
  cursor ??= atRest();
  if (event.key in ARROWS) {
    const step = event.shiftKey ? STEP / 5 : STEP;
    const [dx, dy] = ARROWS[event.key];
    const within = (v) => Math.min(Math.max(v, PEN), SIDE - PEN);
    cursor.x = within(cursor.x + dx * step);
    cursor.y = within(cursor.y + dy * step);
    if (cursor.down) go([cursor.x, cursor.y]);
  } else if (event.key === " " || event.key === "Enter") {
    cursor.down = !cursor.down;
    if (cursor.down) begin([cursor.x, cursor.y]);
    else tell();
  } else if (TAKES_BACK.includes(event.key)) {
    takeBack(event.key === "Escape" ? 0 : Math.max(strokes.length - 1, 0));
  } else {
    return;
  }
  event.preventDefault();
  showPad();
});
// Shows the pen's position to keyboard users.
page.pad.addEventListener("focus", () => {
  if (page.pad.matches(":focus-visible")) cursor = atRest();
  showPad();
});
page.pad.addEventListener("blur", () => {
  cursor = null;
  showPad();
});

page.undo.addEventListener("click", () => takeBack(Math.max(strokes.length - 1, 0)));
page.clear.addEventListener("click", () => takeBack(0));
page.save.addEventListener("click", () => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = picture.width;
  const onWhite = (i) => (0xff << 24) | (0x010101 * (255 - picture.pixels[i]));
  paint(canvas, onWhite);
  page.save.href = canvas.toDataURL();
});

// Redraws everything in the current theme's colours.
function recolor() {
  mixShades();
  page.scale.width = 255;
  page.scale.height = 1;
  paint(page.scale, (i) => signedColor((i - 127) / 127));
  showExamples();
  showFilters();
  read();
}

addEventListener("resize", () => {
  showFilters();
  show();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolor);
recolor();
