// The drawing field: a drawing becomes an image, the encoder places it on the map, and the decoder reconstructs it.

const FIELD = 280;     // pixels per side of the field
const BOX = 20;        // pixels per side of the box that MNIST's makers fitted a digit into
const SMALLEST = 70;   // in the field's pixels: a smaller drawing isn't enlarged to fill the box
const FAINT = 8;       // of 255: anything less is left over from the eraser's soft edge
const PEN = 22, ERASER = 36;  // diameters, in the field's pixels
const DRAWS = 6;       // draws of the drawing's Gaussian
const TRAIL = 60;      // past places of the drawing that the map shows

const ink = $("ink").getContext("2d", {willReadFrequently: true});
// The drawing's mean, deviation and draws in latent coordinates, where it has been before, and the draws' noise.
let mine = null, trail = [], noise = Array.from({length: DRAWS}, normal);

// ---- From ink to numbers --------------------------------------------------------------------------------------

// The drawing in the form of the data set's images: grey levels in [0, 1], or null if the field is empty. As MNIST's
// makers did, it is fitted into a box by averaging areas, then moved by whole pixels to bring its centre of mass to
// the middle. For a data set whose images fill their frame, the whole field is taken.
function drawnImage() {
  const {data} = ink.getImageData(0, 0, FIELD, FIELD);
  let left = FIELD, top = FIELD, right = 0, bottom = 0, mass = 0, massX = 0, massY = 0;
  for (let y = 0, at = 3; y < FIELD; y++) {
    for (let x = 0; x < FIELD; x++, at += 4) {
      if (data[at] <= FAINT) continue;
      left = Math.min(left, x);
      right = Math.max(right, x + 1);
      top = Math.min(top, y);
      bottom = y + 1;
      mass += data[at];
      massX += data[at] * (x + 0.5);
      massY += data[at] * (y + 0.5);
    }
  }
  if (!mass) return null;
  let scale = PICTURE / FIELD, across = 0, down = 0;  // from the field's pixels to the image's
  const extent = Math.max(right - left, bottom - top), centre = [massX / mass, massY / mass];
  // A test digit already has this form, up to the effect of rounded grey levels on its edge and its centre of mass.
  const formed = extent * scale > BOX - 2 && extent * scale <= BOX
    && centre.every(value => Math.abs(value * scale - PICTURE / 2 - 0.5) < 0.6);
  if (content.boxed && !formed) {
    scale = BOX / Math.max(extent, SMALLEST);
    const shift = (start, end, centre) => {  // 1e-6: rounding errors of the products
      const most = Math.floor(PICTURE - (end - start) * scale + 1e-6);
      return clamp(Math.ceil(PICTURE / 2 - (centre - start) * scale - 1e-6), 0, most) - start * scale;
    };
    [across, down] = [shift(left, right, centre[0]), shift(top, bottom, centre[1])];
  }
  // A pixel of the field falls into one pixel of the image, or overlaps up to four.
  const beyond = at => clamp((at - Math.floor(at) - 1) / scale + 1, 0, 1);
  const image = new Float32Array(PICTURE ** 2);
  for (let y = top; y < bottom; y++) {
    const v = y * scale + down, below = beyond(v);
    for (let x = left; x < right; x++) {
      const grey = data[4 * (y * FIELD + x) + 3] / 255 * scale ** 2;
      if (!grey) continue;
      const u = x * scale + across, beside = beyond(u), at = Math.floor(v) * PICTURE + Math.floor(u);
      image[at] += grey * (1 - beside) * (1 - below);
      image[at + 1] += grey * beside * (1 - below);
      image[at + PICTURE] += grey * (1 - beside) * below;
      image[at + PICTURE + 1] += grey * beside * below;
    }
  }
  return image;
}

// Where the encoder places an image of grey levels; with a prior, as a Gaussian and draws of it.
function encode(image) {
  const [x, y, ...logVariance] = run(encoder, image), mean = [x, y];
  const deviation = logVariance.map(value => Math.exp(value / 2));
  const draws = noise.map(pair => pair.map((value, axis) => mean[axis] + value * deviation[axis]));
  return {mean, deviation, draws: content.prior ? draws : []};
}

// The terms of the drawing's -ELBO in nats; the first is a mean over draws of its Gaussian.
function negativeElbo(image, {mean, deviation}, logits) {
  const entropies = logits.map(values => values.reduce(
    (sum, logit, n) => sum + Math.max(logit, 0) - logit * image[n] + Math.log1p(Math.exp(-Math.abs(logit))), 0));
  const kl = deviation.reduce((sum, s, axis) => sum + (mean[axis] ** 2 + s ** 2 - 1) / 2 - Math.log(s), 0);
  return {recon: entropies.reduce((sum, value) => sum + value, 0) / logits.length, kl};
}

// ---- From numbers to pictures ---------------------------------------------------------------------------------

// Encode the drawing, decode its code, and show both: called at every stroke.
function drawDrawing() {
  const image = drawnImage(), blank = new Float32Array(PICTURE ** 2);
  const tell = (id, value, digits) => { $(id).textContent = mine ? value.toFixed(digits) : "–"; };
  mine = image && encode(image);
  $("hint").hidden = !!mine;
  $("near").disabled = !mine;
  linkDrawing();
  if (mine) {
    trail = [...trail.slice(1 - TRAIL), mine.mean];
    reveal(mine.mean);
  } else trail = [];
  const rebuilt = mine ? decode(mine.mean) : blank;
  show($("seen"), [image ?? blank]);
  show($("rebuilt"), [rebuilt]);
  tell("error", rebuilt.reduce((sum, grey, n) => sum + (grey - image?.[n]) ** 2, 0) / PICTURE ** 2, 4);
  if (content.prior) {
    const logits = mine ? mine.draws.map(place => run(decoder, place)) : [];
    const {recon, kl} = mine ? negativeElbo(image, mine, logits) : {};
    show($("draws"), mine ? logits.map(sigmoid) : Array(DRAWS).fill(blank));
    for (const [id, nats] of Object.entries({recon, kl, elbo: recon + kl})) tell(id, nats, 1);
  }
  drawMarks();
}

// The drawing on the map: its path, and its point, or its Gaussian at one and two standard deviations.
function drawMine(context) {
  const width = $("map").clientWidth, [x, y] = toPixels(mine.mean);
  Object.assign(context, {strokeStyle: colour("mine"), fillStyle: colour("mine"), lineWidth: 1.5});
  for (let n = 1; n < trail.length; n++) {
    context.globalAlpha = n / trail.length;  // it fades
    context.beginPath();
    context.moveTo(...toPixels(trail[n - 1]));
    context.lineTo(...toPixels(trail[n]));
    context.stroke();
  }
  for (const sigma of content.prior ? [2, 1] : []) {
    context.beginPath();
    context.ellipse(x, y, ...mine.deviation.map(value => sigma * value / view.side * width), 0, 0, 2 * Math.PI);
    context.globalAlpha = 0.3;
    context.fill();
    context.globalAlpha = 1;
    context.stroke();
  }
  context.globalAlpha = 1;
  for (const place of content.prior ? mine.draws : [mine.mean]) {
    const radius = content.prior ? 1.5 : 5;
    ring(context, toPixels(place), radius + 0.5, colour("paper"), 1);
    context.beginPath();
    context.arc(...toPixels(place), radius, 0, 2 * Math.PI);
    context.fill();
  }
  const above = 16 + Math.min(80, 2 * (mine.deviation[1] ?? 0) / view.side * width);
  const name = [clamp(x, 24, width - 24), clamp(y > above + 10 ? y - above : y + above, 12, width - 12)];
  write(context, "yours", name, colour("mine"), "bold 15px");
}

// ---- Interaction in the field ---------------------------------------------------------------------------------

// Put a test image into the field.
function take(n) {
  show($("original"), [original(n)]);
  Object.assign(ink, {globalCompositeOperation: "copy", imageSmoothingEnabled: false});
  ink.drawImage($("original"), 0, 0, FIELD, FIELD);
  trail = [];
  later(drawDrawing);
}

// The other page takes the drawing from the address's fragment, a PNG.
function linkDrawing() {
  if (!content.other) return;
  $("other").textContent = `${mine ? "Take this drawing to" : "See"} the ${content.prior ? "autoencoder" : "VAE"}'s map`;
  $("other").href = `${encodeURIComponent(content.other)}#${mine ? $("ink").toDataURL().split(",")[1] : ""}`;
}

async function receiveDrawing() {
  if (!location.hash) return;
  const image = Object.assign(new Image(), {src: `data:image/png;base64,${location.hash.slice(1)}`});
  await image.decode().then(() => ink.drawImage(image, 0, 0), () => {});  // nothing, if it isn't a drawing
}

function listenToField(field) {
  let tip = [FIELD / 2, FIELD / 2], erasing = false;
  let drawing, rubs = false, down = false;  // the pointer that draws; does it rub out? has a key put the pen down?
  const moveTip = place => {
    tip = place;
    const share = value => `${value / FIELD * 100}%`, rubbing = drawing === undefined ? erasing : rubs;
    Object.assign($("tip").style, {left: share(tip[0]), top: share(tip[1]), width: share(rubbing ? ERASER : PEN)});
  };
  const stroke = place => {
    Object.assign(ink, {globalCompositeOperation: rubs ? "destination-out" : "source-over", lineCap: "round",
                        lineWidth: rubs ? ERASER : PEN});
    ink.beginPath();
    ink.moveTo(tip[0] + 0.01, tip[1]);  // so that a dot has a length, too
    moveTip(place);
    ink.lineTo(...tip);
    ink.stroke();
    later(drawDrawing);
  };
  const here = ({clientX, clientY}) => {
    const {left, top, width} = field.getBoundingClientRect();
    return [clientX - left, clientY - top].map(value => value / width * FIELD);
  };
  const change = () => {
    erasing = !erasing;
    $("eraser").setAttribute("aria-pressed", erasing);
    moveTip(tip);
  };
  const empty = () => {
    ink.clearRect(0, 0, FIELD, FIELD);
    later(drawDrawing);
  };
  field.onpointerdown = event => {
    if (drawing !== undefined) return;
    drawing = event.pointerId;
    field.setPointerCapture(drawing);
    rubs = erasing || event.button === 2 || event.button === 5;  // 5: a pen's eraser
    moveTip(here(event));
    stroke(tip);
  };
  field.onpointermove = event => {
    if (!event.buttons && drawing === event.pointerId) drawing = undefined;  // released over a menu
    if (drawing === undefined) moveTip(here(event));
    else if (drawing === event.pointerId) {
      for (const between of event.getCoalescedEvents?.() ?? []) stroke(here(between));
      stroke(here(event));
    }
  };
  field.onpointerup = field.onpointercancel = event => { if (drawing === event.pointerId) drawing = undefined; };
  field.oncontextmenu = event => event.preventDefault();
  field.onblur = () => { down = false; };
  field.onkeydown = event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = event.shiftKey ? 2 : 10, move = ARROWS[event.key];
    if (drawing === undefined) rubs = erasing;
    const inside = value => clamp(value, 0, FIELD);
    if (move) (down ? stroke : moveTip)([tip[0] + step * move[0], tip[1] - step * move[1]].map(inside));
    else if (event.key === " ") { if (!event.repeat && (down = !down)) stroke(tip); }
    else if (event.key.toLowerCase() === "e") change();
    else if (event.key === "Delete" || event.key === "Backspace") empty();
    else return;
    event.preventDefault();
  };
  $("near").onclick = () => {
    const side = Math.min(20 * Math.max(...mine.deviation, area.side / 200), area.side);
    look(mine.mean[0] - side / 2, mine.mean[1] - side / 2, side);
  };
  $("eraser").onclick = change;
  $("clear").onclick = empty;
  moveTip(tip);
}
