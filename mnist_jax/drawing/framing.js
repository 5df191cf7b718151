"use strict";
// Conversion of a drawing to the frames that a network reads, with the same steps and constants as
// `mnist_jax.predict` uses for an image: data/ink.py, strokes.py and framing.py. A picture is
// { width, height, pixels }, bytes of bright ink on exactly 0. There is no paper to remove here.

const FRAME = 28;
const BOX = 20;
const FAINTEST_INK = 39; // In a drawing's own levels: above 15% of full ink.
const FAINTEST_CLOTH = 13;
const SMALLEST_PIECE = 0.02;
const SMALLEST_DIGIT = 0.4;
const WIDEST_GAP = 0.25;
const STROKE = 0.1;
const WORKING_SIDE = 160;
const PRICE = 0.01;

// The digits of a drawing from left to right: for each, its box in the drawing, one frame as it
// stands and possibly one rotated upright.
function digitFrames(drawing) {
  const whole = boxOf(drawing);
  if (!whole) return [];
  const ink = crop(drawing, whole);
  ink.pixels = ink.pixels.map((v) => (v < FAINTEST_INK ? 0 : v));
  return digitsOf(ink).map(({ box, digit }) => {
    const strong = strengthened(digit);
    const upright = turned(strong);
    const widened = strong !== digit;
    const frames = [{ pixels: frameDigit(strong), widened, degrees: 0 }];
    if (upright) frames.push({ pixels: frameDigit(upright.picture), widened, degrees: upright.degrees });
    return { box: moved(box, whole), frames };
  });
}

// The same for a garment.
function garmentFrames(drawing) {
  const whole = boxOf(drawing);
  if (!whole) return [];
  const picture = crop(drawing, whole);
  const cloth = { ...picture, pixels: picture.pixels.map((v) => (v >= FAINTEST_CLOTH ? v : 0)) };
  const { labels, pieces } = connected(cloth);
  const most = Math.max(0, ...pieces.map((piece) => piece.amount));
  labels.forEach((label, i) => {
    const speck = label && pieces[label - 1].amount < SMALLEST_PIECE * most;
    if (speck) picture.pixels[i] = cloth.pixels[i] = 0;
  });
  const box = boxOf(cloth);
  if (!box) return [];
  const small = scaled(crop(picture, box), FRAME);
  const pixels = placed(small, (FRAME - small.height) >> 1, (FRAME - small.width) >> 1);
  return [{ box: moved(box, whole), frames: [{ pixels, widened: false, degrees: 0 }] }];
}

// --- data/strokes.py ---

function digitsOf(ink) {
  const { labels, pieces } = connected(ink);
  const most = Math.max(0, ...pieces.map((piece) => piece.amount));
  const large = pieces.filter((piece) => piece.amount >= SMALLEST_PIECE * most);
  const groups = [];
  for (const piece of large) {
    const near = groups.filter((group) => group.some((other) => areOne(piece, other, ink, labels)));
    for (const group of near) groups.splice(groups.indexOf(group), 1);
    groups.push([piece, ...near.flat()]);
  }
  const digits = groups.map((group) => {
    const own = new Set(group.map((piece) => piece.label));
    const alone = { ...ink, pixels: ink.pixels.map((v, i) => (own.has(labels[i]) ? v : 0)) };
    const box = boxOf(alone);
    return { box, digit: crop(alone, box) };
  });
  const tallest = Math.max(0, ...digits.map(({ digit }) => digit.height));
  return digits
    .filter(({ digit }) => digit.height >= SMALLEST_DIGIT * tallest)
    .sort((one, other) => one.box.left + one.box.right - other.box.left - other.box.right);
}

// Whether two pieces belong to one digit; see `digits_of` in data/strokes.py.
function areOne(one, other, ink, labels) {
  const [first, second] = [one.box, other.box];
  const heights = [first.bottom - first.top, second.bottom - second.top];
  const [low, high] = [Math.min(...heights), Math.max(...heights)];
  const down = Math.max(first.top, second.top) - Math.min(first.bottom, second.bottom);
  const across = Math.max(first.left, second.left) - Math.min(first.right, second.right);
  if (Math.max(down, across) > WIDEST_GAP * high) return false;
  const near = squaredDistances(ink, labels.map((label) => label !== one.label));
  let gap = Infinity;
  for (let i = 0; i < labels.length; i++) {
    if (labels[i] === other.label) gap = Math.min(gap, near[i]);
  }
  gap = Math.sqrt(gap);
  const narrow = Math.min(first.right - first.left, second.right - second.left);
  if (-across >= 0.5 * narrow || low < SMALLEST_DIGIT * high) return gap <= WIDEST_GAP * high;
  const widths = [one, other].map(({ label, box }) =>
    strokeWidth(crop({ ...ink, pixels: labels.map((l) => l === label) }, box)),
  );
  return gap <= Math.max(2, 0.5 * Math.min(...widths));
}

// The median width of strokes, from the ridges of the distance to the paper.
function strokeWidth(inside) {
  const { width, height, pixels } = padded(inside, 1);
  const near = squaredDistances({ width, height }, pixels);
  const ridge = [];
  for (let i = width + 1; i < near.length - width - 1; i++) {
    if (near[i] === 0) continue;
    let most = 0;
    for (const row of [i - width, i, i + width]) most = Math.max(most, near[row - 1], near[row], near[row + 1]);
    if (near[i] === most) ridge.push(near[i]);
  }
  ridge.sort((a, b) => a - b);
  const middle = ridge.length / 2;
  const median = (Math.sqrt(ridge[Math.floor(middle)]) + Math.sqrt(ridge[Math.ceil(middle) - 1])) / 2;
  return 2 * median - 0.5;
}

// Thickens strokes if they are thinner than MNIST's.
function strengthened(digit) {
  const times = Math.ceil(WORKING_SIDE / Math.max(digit.width, digit.height));
  const large = resized(digit, digit.width * times, digit.height * times);
  const least = times > 1 ? halfBlack(large) : 0;
  const inside = { ...large, pixels: large.pixels.map((v) => v > least) };
  const longer = Math.max(large.width, large.height);
  const missing = (STROKE * longer - strokeWidth(inside)) / 2 / (1 - STROKE);
  if (missing <= 0) return digit;
  const { width, height, pixels } = padded(inside, Math.floor(missing) + 1);
  const near = squaredDistances({ width, height }, pixels.map((v) => !v), (missing + 1) ** 2);
  return { width, height, pixels: Uint8Array.from(near, (d) => (Math.sqrt(d) <= missing ? 255 : 0)) };
}

// Rotates a digit by up to 30° to make it narrowest; null if it already is.
function turned(digit) {
  const least = halfBlack(digit);
  const ends = []; // The ends of the ink in every row: they determine the extent.
  for (let y = 0; y < digit.height; y++) {
    const row = digit.pixels.subarray(y * digit.width, (y + 1) * digit.width);
    const first = row.findIndex((v) => v > least);
    if (first >= 0) ends.push([first, y], [row.findLastIndex((v) => v > least), y]);
  }
  let best = { price: Infinity };
  for (let degrees = -30; degrees <= 30; degrees += 5) {
    const sine = Math.sin((degrees * Math.PI) / 180);
    const cosine = Math.cos((degrees * Math.PI) / 180);
    const width = spread(ends.map(([x, y]) => x * cosine + y * sine)) + 1;
    const height = spread(ends.map(([x, y]) => y * cosine - x * sine)) + 1;
    const price = width / height + PRICE * Math.abs(degrees);
    if (price < best.price) best = { price, degrees };
  }
  return best.degrees ? { degrees: best.degrees, picture: rotated(digit, best.degrees) } : null;
}

// A grey level: half of black, or half of the darkest ink if that is paler.
function halfBlack(picture) {
  return Math.min(127, largest(picture.pixels) >> 1);
}

// --- data/framing.py ---

// Scales the box of the ink to 20 pixels, and puts its centre of mass in the middle.
function frameDigit(digit) {
  const box = boxOf(digit);
  const small = box && scaled(crop(digit, box), BOX);
  if (!box || !largest(small.pixels)) return new Uint8Array(FRAME * FRAME);
  const [row, column] = centreOfMass(small);
  const corner = (centre, length) =>
    Math.min(Math.max(0, roundToEven(FRAME / 2 - centre)), FRAME - length);
  return placed(small, corner(row, small.height), corner(column, small.width));
}

function scaled(picture, longer) {
  const scale = longer / Math.max(picture.width, picture.height);
  const [width, height] = [picture.width, picture.height].map((side) => Math.max(1, roundToEven(side * scale)));
  return resized(picture, width, height);
}

function placed({ width, height, pixels }, top, left) {
  const framed = new Uint8Array(FRAME * FRAME);
  for (let y = 0; y < height; y++) {
    framed.set(pixels.subarray(y * width, (y + 1) * width), (top + y) * FRAME + left);
  }
  return framed;
}

function centreOfMass({ width, pixels }) {
  let [sum, row, column] = [0, 0, 0];
  pixels.forEach((v, i) => {
    sum += v;
    row += v * Math.floor(i / width);
    column += v * (i % width);
  });
  return [row / sum, column / sum];
}

// --- Pillow ---

// `resize` with the bicubic filter, one direction after the other, rounded in between. The order is
// that of version 13: vertically first if that removes many more rows than columns.
function resized(picture, width, height) {
  const fewer = picture.height - height;
  const rowsFirst = fewer > 0 && fewer > 2 * (picture.width - width);
  return rowsFirst ? wide(high(picture, height), width) : high(wide(picture, width), height);
}

function wide(picture, width) {
  const pixels = new Uint8Array(width * picture.height);
  resizeWeights(picture.width, width).forEach(({ first, weights }, x) => {
    for (let y = 0; y < picture.height; y++) {
      pixels[y * width + x] = weighted(picture.pixels, y * picture.width + first, 1, weights);
    }
  });
  return { width, height: picture.height, pixels };
}

function high({ width, height: before, pixels: from }, height) {
  const pixels = new Uint8Array(width * height);
  resizeWeights(before, height).forEach(({ first, weights }, y) => {
    for (let x = 0; x < width; x++) {
      pixels[y * width + x] = weighted(from, first * width + x, width, weights);
    }
  });
  return { width, height, pixels };
}

function weighted(pixels, start, step, weights) {
  let sum = 2 ** 21;
  for (let i = 0; i < weights.length; i++) sum += weights[i] * pixels[start + i * step];
  return Math.min(Math.max(Math.floor(sum / 2 ** 22), 0), 255);
}

// For every output pixel, its first source pixel, and the weights from there on.
function resizeWeights(source, size) {
  const scale = source / size;
  const reach = Math.max(scale, 1);
  return Array.from({ length: size }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - 2 * reach + 0.5), 0);
    const last = Math.min(Math.trunc(centre + 2 * reach + 0.5), source);
    const weights = Array.from({ length: last - first }, (_, i) => {
      const x = Math.abs((i + first - centre + 0.5) / reach);
      if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
      return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
    });
    const sum = weights.reduce((a, b) => a + b);
    return { first, weights: weights.map((w) => Math.trunc((w / sum) * 2 ** 22 + 0.5 * Math.sign(w))) };
  });
}

// `rotate` with its bicubic transform, counterclockwise, with the canvas expanded to fit.
function rotated({ width, height, pixels }, degrees) {
  const radians = -((((degrees % 360) + 360) % 360) * Math.PI) / 180;
  const cosine = Number(Math.cos(radians).toFixed(15));
  const sine = Number(Math.sin(radians).toFixed(15));
  const at = (x, y, dx, dy) => [cosine * x + sine * y + dx, -sine * x + cosine * y + dy];
  let [dx, dy] = at(-width / 2, -height / 2, 0, 0);
  [dx, dy] = [dx + width / 2, dy + height / 2];
  const corners = [[0, 0], [width, 0], [width, height], [0, height]].map(([x, y]) => at(x, y, dx, dy));
  const [columns, rows] = [0, 1].map((axis) => {
    const places = corners.map((corner) => corner[axis]);
    return Math.ceil(Math.max(...places)) - Math.floor(Math.min(...places));
  });
  [dx, dy] = at(-(columns - width) / 2, -(rows - height) / 2, dx, dy);
  const turned = new Uint8Array(columns * rows);
  const lines = [0, 0, 0, 0];
  for (let i = 0; i < turned.length; i++) {
    const [x, y] = at((i % columns) + 0.5, Math.floor(i / columns) + 0.5, dx, dy);
    if (x < 0 || x >= width || y < 0 || y >= height) continue;
    const left = Math.floor(x - 0.5);
    const top = Math.floor(y - 0.5);
    const near = [-1, 0, 1, 2].map((step) => Math.min(Math.max(left + step, 0), width - 1));
    for (let row = 0; row < 4; row++) {
      const from = Math.min(Math.max(top - 1 + row, 0), height - 1) * width;
      const [a, b, c, d] = near;
      lines[row] = cubic(pixels[from + a], pixels[from + b], pixels[from + c], pixels[from + d], x - 0.5 - left);
    }
    turned[i] = Math.min(Math.max(cubic(lines[0], lines[1], lines[2], lines[3], y - 0.5 - top), 0), 255);
  }
  return { width: columns, height: rows, pixels: turned };
}

function cubic(first, second, third, fourth, at) {
  const square = 2 * (first - second) + third - fourth;
  const cube = second - first - third + fourth;
  return second + at * (third - first + at * (square + at * cube));
}

// --- SciPy and NumPy ---

// Labels connected components of ink, including diagonal neighbours, from 1 by first pixel.
function connected({ width, height, pixels }) {
  const labels = new Int32Array(pixels.length);
  const pieces = [];
  for (let start = 0; start < pixels.length; start++) {
    if (!pixels[start] || labels[start]) continue;
    const label = pieces.length + 1;
    const box = { left: width, right: 0, top: height, bottom: 0 };
    let amount = 0;
    labels[start] = label;
    for (const stack = [start]; stack.length; ) {
      const i = stack.pop();
      const x = i % width;
      const y = (i - x) / width;
      amount += pixels[i];
      box.left = Math.min(box.left, x);
      box.right = Math.max(box.right, x + 1);
      box.top = Math.min(box.top, y);
      box.bottom = Math.max(box.bottom, y + 1);
      for (let row = Math.max(y - 1, 0); row <= Math.min(y + 1, height - 1); row++) {
        for (let column = Math.max(x - 1, 0); column <= Math.min(x + 1, width - 1); column++) {
          const next = row * width + column;
          if (!pixels[next] || labels[next]) continue;
          labels[next] = label;
          stack.push(next);
        }
      }
    }
    pieces.push({ label, box, amount });
  }
  return { labels, pieces };
}

// The squared distance of every pixel that is `inside` to the nearest that is not, capped at `most`.
function squaredDistances({ width, height }, inside, most = Infinity) {
  const down = new Float64Array(width * height); // Along columns only, squared.
  for (let x = 0; x < width; x++) {
    let distance = Infinity;
    for (let i = x; i < down.length; i += width) {
      distance = inside[i] ? distance + 1 : 0;
      down[i] = distance * distance;
    }
    distance = Infinity;
    for (let i = down.length - width + x; i >= 0; i -= width) {
      distance = inside[i] ? distance + 1 : 0;
      if (distance * distance < down[i]) down[i] = distance * distance;
    }
  }
  const found = new Float64Array(width * height);
  for (let i = 0, x = 0; i < found.length; i++, x = x + 1 < width ? x + 1 : 0) {
    let least = Math.min(down[i], most);
    for (let step = 1; step * step < least && step < width; step++) {
      const across = step * step;
      if (step <= x && across + down[i - step] < least) least = across + down[i - step];
      if (step < width - x && across + down[i + step] < least) least = across + down[i + step];
    }
    found[i] = least;
  }
  return found;
}

function boxOf({ width, height, pixels }) {
  const box = { left: width, right: 0, top: height, bottom: 0 };
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!pixels[y * width + x]) continue;
      if (x < box.left) box.left = x;
      if (x >= box.right) box.right = x + 1;
      if (y < box.top) box.top = y;
      box.bottom = y + 1;
    }
  }
  return box.right ? box : null;
}

// Translates a box within another box to the other's coordinate system.
function moved({ left, right, top, bottom }, { left: dx, top: dy }) {
  return { left: left + dx, right: right + dx, top: top + dy, bottom: bottom + dy };
}

function crop({ width, pixels }, { left, right, top, bottom }) {
  const cut = new Uint8Array((right - left) * (bottom - top));
  for (let y = top; y < bottom; y++) {
    for (let x = left; x < right; x++) cut[(y - top) * (right - left) + x - left] = pixels[y * width + x];
  }
  return { width: right - left, height: bottom - top, pixels: cut };
}

function padded({ width, height, pixels }, margin) {
  const around = new Uint8Array((width + 2 * margin) * (height + 2 * margin));
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) around[(y + margin) * (width + 2 * margin) + x + margin] = pixels[y * width + x];
  }
  return { width: width + 2 * margin, height: height + 2 * margin, pixels: around };
}

function largest(pixels) {
  let most = 0;
  for (const v of pixels) most = Math.max(most, v);
  return most;
}

function spread(values) {
  return Math.max(...values) - Math.min(...values);
}

function roundToEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 ? below + 1 : below;
}
